"""Messages for layers that a model does not have."""

import keras
import pytest

from keras_initx.inspection.selection import (
    LayerCall,
    check_all_matched,
    selectors,
)

CALLS = [
    LayerCall(name, keras.layers.Dense(1, name=name)) for name in ("h0", "h1")
]


@pytest.mark.parametrize(
    ("selector", "advice"),
    [
        ("hh1", r"Its layers are \['h0', 'h1'\]. Did you mean 'h1'"),
        ("H1", r"Its layers are \['h0', 'h1'\]. Did you mean 'h1'"),
        ("output", r"Its layers are \['h0', 'h1'\]"),
        ("Dense", r"Its layers are \['h0', 'h1'\]. Pass a class itself"),
        (keras.layers.LSTM, r"Its layers are \['h0', 'h1'\]"),
        (keras.layers.Dense(1, name="h0"), "may belong to another model"),
    ],
    ids=[
        "close name",
        "capital",
        "other name",
        "name of a class",
        "class",
        "layer of another model",
    ],
)
def test_a_selector_without_a_layer_is_refused_with_advice(selector, advice):
    with pytest.raises(ValueError, match=f"{advice}.* Received: layers="):
        check_all_matched([selector], CALLS)


def test_without_a_layer_that_holds_a_kernel_it_says_how_to_name_some():
    own = keras.layers.Layer(name="own")
    own.add_weight(shape=(2,))
    calls = [LayerCall("own", own)]
    advice = r"layers=, or register a rule.* Received: layers=None.*'own'"
    with pytest.raises(ValueError, match=advice):
        check_all_matched(selectors(None), calls)


def test_an_empty_list_selects_nothing():
    with pytest.raises(ValueError, match=r"one or more.*Received: layers=\[\]"):
        selectors([])
