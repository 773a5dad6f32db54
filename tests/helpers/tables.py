"""Every public initializer and layer, for the tests that take all of them."""

import keras

import keras_initx as kx
from tests.helpers import initializer_rows, layer_rows

INITIALIZER_ROWS = initializer_rows.ROWS | initializer_rows.BUILT
# name: (keyword seed -> initializer, shape of a kernel)
INITIALIZERS = {
    name: (row.make, row.shape) for name, row in INITIALIZER_ROWS.items()
}
# name: (how to make it, what it does to an array of 4 channels)
LAYERS = layer_rows.ROWS


def missing() -> set[str]:
    """Public initializers and layers that are no row."""
    made = [make(seed=1) for make, _ in INITIALIZERS.values()]
    made += [make() for make, _ in LAYERS.values()]
    there = {type(each).__name__ for each in made}
    public = set()
    for module, kind in (
        (kx.initializers, keras.Initializer),
        (kx.layers, keras.layers.Layer),
    ):
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, type) and issubclass(thing, kind):
                public.add(name)
    return public - there
