"""What a profile says about a network, on profiles whose end is known."""

import itertools

import numpy as np
import pytest

import keras_initx as kx

LOSES = "loses its differences"
VANISHES = "gradient vanishes"


def profile(total, fraction, dead=None):
    total, fraction = np.broadcast_arrays(
        np.asarray(total, float), np.asarray(fraction, float)
    )
    return kx.VarianceProfile(
        [f"dense_{i}" for i in range(len(total))],
        total * fraction,
        total * (1 - fraction),
        np.full(len(total), 128),
        dead_fraction=dead,
    )


@pytest.mark.parametrize(
    ("start", "total", "fraction", "state"),
    [
        # Networks of 30 relu layers, and how well they learned handwritten
        # digits: the lottery, well, badly, best.
        ("Glorot", (7e-10, 3e-9), (0.08, 0.12), "vanishes"),
        ("He", (0.13, 1.2), (0.07, 0.14), "fades"),
        ("calibrated", (1, 1), (1.0, 1.0), "lives"),
        ("Residual", (3.6, 6.8), (0.39, 0.65), "lives"),
        # Weights of another scale.
        ("twice the scale", (1e9, 1e9), (0.08, 0.12), "explodes"),
        # 200 layers.
        ("deep", (0.5, 2), (1e-3, 0.01), LOSES),
        # 75 layers, so narrow that they keep more than theory predicts.
        ("narrow", (0.5, 2), (0.03, 0.09), LOSES),
    ],
)
def test_states_of_networks_of_which_it_is_known_how_they_train(
    start, total, fraction, state
):
    for last, kept in itertools.product(total, fraction):
        steps = np.linspace(0, 1, 75 if start == "narrow" else 30)
        found = profile(last**steps, 0.4 * (kept / 0.4) ** steps)
        if start == "calibrated":
            found = profile(last**steps, 1.0)
        assert found.verdict.state == state
        is_praise = "no aim" not in found.verdict.sentence
        assert is_praise == (start != "calibrated")
        assert str(found).endswith(f"\n{found.verdict.sentence}")
        assert "\n" not in found.verdict.sentence
        assert found.verdict.sentence.endswith(".")


@pytest.mark.parametrize("head", [1e-9, 1e9])
def test_a_head_on_its_own_scale_does_not_decide(head):
    branches = np.ones(200)
    assert profile([*branches, head], 0.4).verdict.state == "lives"
    assert profile([*branches, head, head], 0.4).verdict.state != "lives"
    assert profile([1, head], 0.4).verdict.state != "lives"


@pytest.mark.parametrize("before", [0, 2])
def test_a_layer_is_not_compared_with_itself(before):
    for fraction in (0.5, 0.066, 0.01):
        for white_noise in (False, True):
            text = kx.VarianceProfile(
                [*"xy"[:before], "dense_8"],
                [0.0] * before + [fraction],
                [1.0] * before + [1 - fraction],
                [8] * (before + 1),
                white_noise=white_noise,
            ).verdict.sentence
            assert text.count("dense_8") == 1
            assert "times" not in text and "after" not in text
            assert white_noise or f"{fraction:g} of" in text


def test_sentence_says_how_fast_how_much_and_from_where():
    total = 0.5 ** np.arange(31)
    assert str(profile(total, 0.4).verdict) == (
        "The signal vanishes: its mean square is multiplied by 0.5 in each "
        "layer, 9e-10 of it reaches dense_30, and less than 0.0001 from "
        "dense_14 on."
    )
    assert str(profile(1 / total, 0.4).verdict) == (
        "The signal explodes: its mean square is multiplied by 2 in each "
        "layer, to 1e+09 times that of dense_0 at dense_30, and is above 10000 "
        "times from dense_14 on."
    )


@pytest.mark.parametrize(
    ("total", "fraction", "state", "since"),
    [
        # The ends of the ranges belong to them.
        ([1, 1e-4], 0.5, "lives", None),
        ([1, 0.9e-4], 0.5, "vanishes", 1),
        ([1, 1e4], 0.5, "lives", None),
        ([1, 1.1e4], 0.5, "explodes", 1),
        ([1, 1], [0.5, 0.2], "lives", None),
        ([1, 1], [0.5, 0.19], "fades", 1),
        ([1, 1], [0.5, 0.02], "fades", 1),
        ([1, 1], [0.5, 0.019], LOSES, 1),
        # A ratio is the same at every scale.
        ([1e-20, 1e-20], 0.5, "lives", None),
        ([1e12, 1e7], 0.5, "vanishes", 1),
        # What counts is the end, and the last crossing.
        ([1, 1e-9, 1], 0.5, "lives", None),
        ([1, 1e-9, 1, 1e-5, 1e-6], 0.5, "vanishes", 3),
        ([1, 1e9, 1, 1e5, 1e6], 0.5, "explodes", 3),
        ([1] * 4, [0.5, 0.1, 0.3, 0.1], "fades", 3),
        ([1] * 4, [0.5, 0.01, 0.3, 0.01], LOSES, 3),
        ([1] * 31, [0.5] + [0.1] * 30, "fades", 1),
        ([1] * 32, [0.5] + [0.1] * 31, LOSES, 1),
        ([1] * 42, [0.5] + [0.1] * 20 + [0.3] + [0.1] * 20, "fades", 22),
        # Rows that no sample reaches are no reference: one in front with a
        # large mean, one with zeros, one in the middle.
        ([1e9, 1, 1], [0, 0.5, 0.5], "lives", None),
        ([1e-9, 1, 1], [0, 0.5, 0.5], "lives", None),
        ([0, 1, 1], [0, 0.5, 0.5], "lives", None),
        ([1, 1e9, 1], [0.5, 0, 0.5], "lives", None),
        ([1e9, 1, 1e-5], [0, 0.5, 0.5], "vanishes", 2),
        # The end of all differences, and of the signal.
        ([1, 1, 1], [0.5, 0.5, 0], LOSES, 2),
        ([1, 1, 1], [0.5, 0, 0], LOSES, 1),
        ([1, 1, 1], [0, 0, 0], LOSES, None),
        ([1, 1, 0], 0.5, "vanishes", 2),
        ([1, 0, 0], 0.5, "vanishes", 1),
        ([1, 1e-33, 0], 0.5, "vanishes", 1),
        ([0, 0, 0], 0.5, "vanishes", None),
        # One row.
        ([3], 0.5, "lives", None),
        ([3], 0.1, "fades", None),
    ],
)
def test_state_and_the_layer_from_which_on_it_holds(
    total, fraction, state, since
):
    found = profile(total, fraction)
    assert found.verdict.state == state
    text = found.verdict.sentence
    assert "nan" not in text and "inf" not in text.replace("infin", "")
    if since is not None:
        assert f"from dense_{since} on" in text


@pytest.mark.parametrize(
    ("fraction", "dead", "state"),
    [
        # The last relu is dead: what reaches it still differs.
        ([0.5, 0.5, 0.5], [0, 0.5, 1], "dies"),
        # From a dead layer on, every output is that of the biases.
        ([0.5, 0.5, 0], [0, 1, np.nan], "dies"),
        # A dead layer beside a living one, as in a branch.
        ([0.5, 0.5, 0.5], [0, 1, 0], "lives"),
        ([0.5, 0.5, 0.5], [0, 0.99, 0.99], "lives"),
        # A constant row that no sample reaches has nothing to lose.
        ([0, 0.5, 0.5], [1, 0, 0], "lives"),
        ([0.5, 0.5, 0.5], [np.nan] * 3, "lives"),
    ],
)
def test_dead_units(fraction, dead, state):
    found = profile(np.ones(3), fraction, dead)
    assert found.verdict.state == state
    if state == "dies":
        assert f"all units of dense_{dead.index(1)} " in str(found.verdict)


@pytest.mark.parametrize("steps", [5, 40])
def test_a_sample_fraction_of_one_is_praised_at_no_depth(steps):
    text = str(profile(np.ones(steps), 1.0).verdict)
    assert ("no aim in itself" in text) == (steps == 40)
    assert "best" not in text


def test_theory_has_the_verdict_of_its_limit():
    for layers, state in ((3, "lives"), (20, "fades"), (200, LOSES)):
        found = kx.theory.sample_variance_decay(layers).verdict
        assert found.state == state, layers


def test_names_are_whole_in_every_display():
    names = ["\u5c64" * 30, "n" * 300, "<b>&amp;</b>", "[red]$x^2$[/red]"]
    totals = [1, 1e-3, 1e-6, 1e-9]
    shown = kx.VarianceProfile(names, totals, [0] * 4, [1] * 4)
    for name in names:
        assert name in shown.table()
    assert names[-1] in str(shown.verdict)
    assert "<p>The signal vanishes" in shown._repr_html_()


def with_gradient(gradient, fraction=0.5, total=1.0, roles=()):
    size = len(gradient)
    names = [f"dense_{i}" for i in range(size)]
    total = total * np.ones(size)
    variance = total * np.asarray(fraction)
    return kx.VarianceProfile(
        names,
        variance,
        total - variance,
        [8] * size,
        gradient=gradient,
        roles=roles,
    )


ATTENTION = ["signal", "scores", "scores", "signal", "signal", "signal"]


@pytest.mark.parametrize(
    ("gradient", "options", "state"),
    [
        # The ends of the ranges belong to them, as do those of the signal.
        ([1e-4, 1, 1, 1], {}, "lives"),
        ([0.9e-4, 1, 1, 1], {}, "gradient vanishes"),
        ([1e4, 1, 1, 1], {}, "lives"),
        ([1.1e4, 1, 1, 1], {}, "gradient explodes"),
        # The last row is a head, whatever its scale.
        ([1, 1, 1, 1e-9], {}, "lives"),
        ([1e-9, 1e-9, 1e-9, 1], {}, "lives"),
        ([1e-9, 1e-4, 1, 1], {"fraction": 0.1}, "gradient vanishes"),
        ([1e-9, 1], {}, "gradient vanishes"),
        # What is not known or not reached has no say.
        ([np.nan, 0, 1, 1], {}, "lives"),
        ([np.nan] * 4, {}, "lives"),
        ([1e-9], {}, "lives"),
        # Samples do not reach the first row.
        ([1e-9, 1, 1, 1], {"fraction": [0, 0.5, 0.5, 0.5]}, "lives"),
        # Queries and keys are no part of the way back.
        ([1e-9, 1e-9, 1, 1, 1], {"roles": ATTENTION[1:]}, "lives"),
        ([1e-9, 1e-9, 1, 1, 1], {}, "gradient vanishes"),
        ([1e-9, 1, 1, 1, 1, 1], {"roles": ATTENTION}, "gradient vanishes"),
        # Neither is a table, nor a head of zeros the last row.
        ([1e-9, 1, 1, 1], {"roles": ["table", *ATTENTION[3:]]}, "lives"),
        ([1e-9, 1, 1], {"roles": ["signal", "signal", "zeros"]}, VANISHES),
        # What is wrong with the signal comes first.
        ([1e-9, 1, 1], {"total": [1, 1e-3, 1e-6]}, "vanishes"),
        ([1e-9, 1, 1], {"fraction": 0.01}, LOSES),
    ],
)
def test_states_of_the_gradient(gradient, options, state):
    found = with_gradient(np.array(gradient, float), **options).verdict
    assert found.state == state
    if state.startswith("gradient"):
        assert found.sentence.startswith(f"The {state}: ")
        assert "nan" not in found.sentence and "\n" not in found.sentence


@pytest.mark.parametrize("white_noise", [True, False])
@pytest.mark.parametrize("positions", [0.9, np.nan])
def test_samples_are_not_judged_by_images_of_white_noise(
    white_noise, positions
):
    total, fraction = np.ones(3), np.array([0.5, 0.1, 0.01])
    found = kx.Prediction(
        ["a", "b", "c"],
        total * fraction,
        total * (1 - fraction),
        [8] * 3,
        position_correlation=[0.1, positions, positions],
        samples=2,
        white_noise=white_noise,
    )
    assert found.verdict.state == ("lives" if white_noise else LOSES)
    again = kx.Prediction.from_dict(found.to_dict())
    assert again == found
    assert (again.samples, again.white_noise) == (2, white_noise)
    changed = {"samples": 3, "white_noise": not white_noise}
    for name, value in changed.items():
        assert kx.Prediction.from_dict(found.to_dict() | {name: value}) != found


TABLE, SIGNAL, ZEROS = "table", "signal", "zeros"


@pytest.mark.parametrize(
    ("total", "roles", "state"),
    [
        # An embedding is as small as it likes.
        ([1e-7, 1, 1], [TABLE, SIGNAL, SIGNAL], "lives"),
        ([1e-7, 1, 1], [SIGNAL] * 3, "explodes"),
        ([1e-7, 1, 1e-7, 1], [TABLE, SIGNAL, TABLE, SIGNAL], "lives"),
        ([1e-7, 1, 1e-5], [TABLE, SIGNAL, SIGNAL], "vanishes"),
        # Heads of zeros are no end of a signal, and zeros before a layer are.
        ([1, 1, 0], [SIGNAL, SIGNAL, ZEROS], "lives"),
        ([1, 1, 0], [SIGNAL] * 3, "vanishes"),
        # Two heads, and two kernels of zeros in series.
        ([1, 1, 0, 0], [SIGNAL, SIGNAL, ZEROS, ZEROS], "lives"),
        ([1, 0, 0], [SIGNAL, ZEROS, SIGNAL], "vanishes"),
        ([1, 1, 0, 0], [SIGNAL, SIGNAL, ZEROS, SIGNAL], "vanishes"),
        ([1, 1e-5, 0], [SIGNAL, SIGNAL, ZEROS], "vanishes"),
        ([1e-7, 1, 1, 0], [TABLE, SIGNAL, SIGNAL, ZEROS], "lives"),
        # Where there is nothing else, these rows are judged.
        ([1, 1e-5], [TABLE, TABLE], "vanishes"),
        ([0], [ZEROS], "vanishes"),
        ([1, 0], [TABLE, ZEROS], "lives"),
    ],
)
def test_tables_and_heads_of_zeros(total, roles, state):
    total = np.array(total, float)
    size = len(total)
    found = kx.VarianceProfile(
        [f"row{i}" for i in range(size)],
        total / 2,
        total / 2,
        [4] * size,
        roles=roles,
    )
    assert found.verdict.state == state
    is_head = roles[-1] == ZEROS and size > 1
    assert ("starts at zero" in str(found.verdict)) == is_head
    assert kx.VarianceProfile.from_dict(found.to_dict()) == found
    plain = {k: v for k, v in found.to_dict().items() if k != "roles"}
    same = set(roles) == {SIGNAL}
    assert (kx.VarianceProfile.from_dict(plain) == found) is same


def test_roles_are_checked():
    for roles in (["signal"], ["signal", "head"]):
        with pytest.raises(ValueError, match="roles must hold one of"):
            kx.VarianceProfile(["a", "b"], [1, 1], [0, 0], [1, 1], roles=roles)
