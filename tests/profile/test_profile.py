"""Tests of `VarianceProfile`: values, errors, tables, plots and files."""

import dataclasses
import json
import os

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_initx as kx

GOOD = {
    "layers": ["a", "b"],
    "sample_variance": [1.0, 0.5],
    "squared_mean": [0.0, 1.5],
    "units": [4, 8],
}

# What a file of an earlier version does not hold.
LATER = {
    "dead_fraction": [0.25, np.nan],
    "saturated_fraction": [np.nan, 1.0],
    "gradient": [np.nan, 1.0],
    "notes": ["", "no sample reaches this layer"],
    "remarks": ["a remark about the model"],
}

finite = st.floats(0, 1e30, allow_nan=False)
share = st.floats(0, 1) | st.just(np.nan)


@st.composite
def profiles(draw):
    n = draw(st.integers(1, 6))
    column = st.lists(finite, min_size=n, max_size=n)
    infinite = draw(st.booleans())
    return kx.VarianceProfile(
        draw(st.lists(st.text(max_size=8), min_size=n, max_size=n)),
        draw(column),
        draw(column),
        [np.inf] * n if infinite else draw(
            st.lists(st.integers(0, 2**40), min_size=n, max_size=n)
        ),
        **{
            name: draw(st.lists(values, min_size=n, max_size=n))
            for name, values in {
                "dead_fraction": share,
                "saturated_fraction": share,
                "gradient": finite | st.just(np.nan),
                "notes": st.text(max_size=8),
                "remarks": st.text(max_size=8),
            }.items()
            if draw(st.booleans())
        },
    )  # fmt: skip


def test_derived_columns():
    profile = kx.VarianceProfile(**GOOD)
    assert profile.total.tolist() == [1.0, 2.0]
    assert profile.sample_fraction.tolist() == [1.0, 0.25]
    assert profile.decay.tolist() == [1.0, 0.25]
    assert np.isnan(profile.gradient_ratio).all()
    for gradient, ratio in [
        ([6.0, 2.0], [3.0, 1.0]),
        ([0.0, 2.0], [0.0, 1.0]),
        # The last row is not reached, so that the last one that is counts.
        ([6.0, np.nan], [1.0, np.nan]),
        ([6.0, 0.0], [np.nan, np.nan]),
    ]:
        found = kx.VarianceProfile(**GOOD, gradient=gradient).gradient_ratio
        np.testing.assert_array_equal(found, ratio)
    later = kx.VarianceProfile(**GOOD | {"squared_mean": [1.0, 1.5]})
    assert later.sample_fraction.tolist() == [0.5, 0.25]
    assert later.decay.tolist() == [1.0, 0.5]
    assert len(profile) == 2
    assert profile.layers == ("a", "b")
    assert profile.units.dtype == np.int64


def test_row_by_name_or_index():
    profile = kx.VarianceProfile(**GOOD)
    row = profile["b"]
    assert row._asdict() == {
        "layer": "b", "units": 8, "sample_variance": 0.5, "squared_mean": 1.5,
        "total": 2.0, "sample_fraction": 0.25, "decay": 0.25,
        "dead_fraction": np.nan, "saturated_fraction": np.nan,
        "gradient": np.nan, "gradient_ratio": np.nan, "note": "",
    }  # fmt: skip
    assert profile[1] == profile[-1] == profile[np.int64(1)] == row
    assert list(profile) == [profile["a"], profile["b"]]
    later = kx.VarianceProfile(**GOOD | LATER)["b"]
    assert later == row._replace(
        saturated_fraction=1.0,
        gradient=1.0,
        gradient_ratio=1.0,
        note=LATER["notes"][1],
    )
    theory = kx.theory.sample_variance_decay(4)
    for name in ("sample_fraction", "decay"):
        rows = [getattr(row, name) for row in theory]
        assert rows == getattr(theory, name).tolist()
    assert theory[3].units == np.inf


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("dens", KeyError, r"'twin'\]. Did you mean 'dense'.*='dens'"),
        ("zzz", KeyError, r"one of \['twin', 'dense', 'twin'\].*='zzz'"),
        ("twin", KeyError, "an index, since 2 layers have .*layer='twin'"),
        (3, IndexError, "3 layers.*layer=3"),
        (-4, IndexError, "3 layers.*layer=-4"),
        (1.0, TypeError, r"a name or an index.*layer=1\.0"),
        (slice(2), TypeError, "a name or an index.*layer=slice"),
        (True, TypeError, "a name or an index.*layer=True"),
    ],
)
def test_row_that_does_not_exist(name, error, message):
    profile = kx.VarianceProfile(["twin", "dense", "twin"], *np.ones((3, 3)))
    with pytest.raises(error, match=message):
        profile[name]


def test_layer_of_zeros_has_no_sample_fraction():
    zero = {"sample_variance": [1.0, 0.0], "squared_mean": [1.0, 0.0]}
    profile = kx.VarianceProfile(**GOOD | zero)
    np.testing.assert_array_equal(profile.sample_fraction, [0.5, np.nan])
    np.testing.assert_array_equal(profile.decay, [1.0, np.nan])
    assert "nan" in str(profile)


@pytest.mark.parametrize(
    ("sample_variance", "squared_mean", "decay", "signal_total"),
    [
        # Positive, so the first row is the reference.
        ([1, 1, 1], [1, 3, 0], [1, 0.5, 2], [1, 2, 0.5]),
        # A first layer whose output is the same for all samples.
        ([0, 1, 1], [2, 1, 3], [0, 1, 0.5], [1, 1, 2]),
        ([0, 0, 1], [2, 1, 3], [0, 0, 1], [0.5, 0.25, 1]),
        # Such a layer in the middle and at the end.
        ([1, 0, 1], [1, 4, 3], [1, 0, 0.5], [1, 2, 2]),
        ([1, 1, 0], [1, 3, 4], [1, 0.5, 0], [1, 2, 2]),
        # A first layer whose output is zero.
        ([0, 1, 1], [0, 1, 3], [np.nan, 1, 0.5], [0, 1, 2]),
        ([0, 0, 1], [0, 1, 0], [np.nan, 0, 1], [0, 1, 1]),
        # No layer with a positive sample fraction.
        ([0, 0, 0], [0, 1, 2], [np.nan] * 3, [0, 1, 2]),
        ([0, 0, 0], [0, 0, 0], [np.nan] * 3, [np.nan] * 3),
    ],
)
def test_ratios_are_relative_to_the_first_row_that_samples_reach(
    sample_variance, squared_mean, decay, signal_total
):
    profile = kx.VarianceProfile(
        ["a", "b", "c"], sample_variance, squared_mean, [1, 1, 1]
    )
    np.testing.assert_array_equal(profile.decay, decay)
    np.testing.assert_array_equal(profile.signal_total, signal_total)


def test_decay_of_a_model_with_position_embeddings(rng):
    tokens = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(10, 8, name="tokens")(tokens)
    positions = keras.layers.Embedding(4, 8, name="positions")(
        keras.ops.arange(4)[None] + 0 * tokens
    )
    x = keras.layers.Dense(8, name="dense")(x + positions)
    model = keras.Model(tokens, x)
    profile = kx.measure(
        model, rng.integers(0, 10, (64, 4)), layers=["positions", "dense"]
    )
    assert profile["positions"].sample_fraction == 0
    assert profile["positions"].decay == 0
    assert profile.signal_total[-1] == 1
    assert 0 < profile["dense"].sample_fraction < 1
    assert profile["dense"].decay == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": []}, r"at least one layer.*Received: layers=\[\]"),
        ({"sample_variance": [1.0]}, r"sample_variance .* shape \(1,\)"),
        ({"units": [[4, 8]]}, r"units .* shape \(1, 2\)"),
        ({"sample_variance": [1.0, -0.5]}, r"sample_variance\[1\]=-0\.5"),
        ({"sample_variance": [np.nan, 1]}, r"sample_variance\[0\]=nan"),
        ({"squared_mean": [0.0, np.inf]}, r"squared_mean\[1\]=inf"),
        ({"squared_mean": [-2.0, 0.0]}, r"total\[0\]=-1\.0"),
        ({"units": [4, -1]}, r"units\[1\]=-1"),
        ({"units": [4, 8.5]}, r"whole number .*units\[1\]=8\.5"),
        ({"layers": "ab"}, "list of names.*Received: layers='ab'"),
        ({"dead_fraction": [0.5]}, r"dead_fraction .* shape \(1,\)"),
        ({"dead_fraction": [0.5, 1.1]}, r"\[0, 1\] or NaN.*fraction\[1\]=1\.1"),
        ({"saturated_fraction": [-0.1, 0]}, r"saturated_fraction\[0\]=-0\.1"),
        ({"gradient": [-0.1, 0]}, r"not negative.*gradient\[0\]=-0\.1"),
        ({"gradient": [1.0, np.inf]}, r"gradient\[1\]=inf"),
        ({"notes": ["one"]}, "each of the 2 layers. Received: 1 notes"),
        ({"notes": "ab"}, "notes must be a list of str.*notes='ab'"),
        ({"notes": [1, 2]}, r"notes must be a list of str.*notes=\[1, 2\]"),
        ({"remarks": "ab"}, "remarks must be a list of str.*remarks='ab'"),
    ],
)
def test_refuses_values_that_no_network_has(change, message):
    with pytest.raises(ValueError, match=message):
        kx.VarianceProfile(**GOOD | change)


def test_profile_is_immutable():
    array = np.array([1.0, 0.5])
    profile = kx.VarianceProfile(**GOOD | {"sample_variance": array})
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile.layers = ("c",)
    with pytest.raises(ValueError, match="read-only"):
        profile.sample_variance[0] = 2.0
    array[0] = 7.0
    assert profile.sample_variance[0] == 1.0


def test_equality():
    profile = kx.VarianceProfile(**GOOD)
    assert profile == kx.VarianceProfile(**GOOD)
    for change in (
        {"layers": ["a", "c"]},
        {"units": [4, 9]},
        {"squared_mean": [0.0, 1.25]},
        *({name: value} for name, value in LATER.items()),
    ):
        assert profile != kx.VarianceProfile(**GOOD | change)
        # NaN equals NaN.
        assert kx.VarianceProfile(**GOOD | change) == kx.VarianceProfile(
            **GOOD | change
        )
    assert profile != "profile"


@pytest.mark.slow
@given(profiles())
def test_dict_and_json_round_trip(profile):
    assert kx.VarianceProfile.from_dict(profile.to_dict()) == profile
    text = json.dumps(profile.to_dict(), allow_nan=False)
    assert kx.VarianceProfile.from_dict(json.loads(text)) == profile


def test_a_file_of_another_kind_is_named_and_not_quoted(tmp_path):
    path = tmp_path / "file.json"
    many = [f"layer_{i}" for i in range(999)]
    kx.Prediction(many, *np.ones((3, 999))).save(path)
    match = r"by Prediction\.load\. Received: config=a dict with the keys"
    with pytest.raises(ValueError, match=match) as caught:
        kx.VarianceProfile.load(path)
    assert len(str(caught.value)) < 600
    for text in (json.dumps(many), json.dumps(dict.fromkeys(many, 1)), "7"):
        path.write_text(text)
        with pytest.raises(ValueError, match="Received: config=") as caught:
            kx.VarianceProfile.load(path)
        assert len(str(caught.value)) < 600
        assert "Prediction" not in str(caught.value)
    wrong = kx.VarianceProfile(many, *np.ones((3, 999))).to_dict()
    with pytest.raises(ValueError, match="lists of names and") as caught:
        kx.VarianceProfile.from_dict(wrong | {"units": 7})
    assert len(str(caught.value)) < 600


def test_file_round_trip_and_failed_write(tmp_path, monkeypatch):
    path = tmp_path / "profile.json"
    first = kx.theory.sample_variance_decay(4)
    first.save(path)
    assert kx.VarianceProfile.load(path) == first

    def full_disk(*args):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        kx.theory.sample_variance_decay(5).save(path)
    assert kx.VarianceProfile.load(path) == first
    assert [p.name for p in tmp_path.iterdir()] == ["profile.json"]


OLD_PROFILE = """{
 "layers": ["a", "b"],
 "sample_variance": [1.0, 0.5],
 "squared_mean": [0.0, 1.5],
 "units": [4, null]
}"""
OLD_CALIBRATION = """{
 "layers": ["a", "b"],
 "sample_variance": [1.0, 0.5],
 "squared_mean": [0.0, 1.5],
 "units": [4, 8],
 "left_alone": {"b": "a reason"},
 "notes": {"a": "a note"},
 "dtype": "float32",
 "per": "unit"
}"""


def test_files_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(OLD_PROFILE)
    profile = kx.VarianceProfile.load(path)
    assert profile == kx.VarianceProfile(**GOOD | {"units": [4, np.inf]})
    path.write_text(OLD_CALIBRATION)
    calibration = kx.Calibration.load(path)
    assert isinstance(calibration, kx.Calibration)
    assert calibration == kx.VarianceProfile(**GOOD, notes=["a note", ""])
    assert calibration.sample_fraction.tolist() == [1.0, 0.25]
    assert "a reason" in str(calibration) and "a note" in str(calibration)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"layers": ["a"]}',
        '{"layers": 3, "sample_variance": 1, "squared_mean": 1, "units": 1}',
        '{"layers": ["a"], "sample_variance": ["x"], '
        '"squared_mean": [1], "units": [1]}',
        '{"layers": ["a"], "sample_variance": [1], "squared_mean": [1], '
        '"units": [1], "more": 1}',
    ],
)
def test_file_without_a_profile_is_refused(tmp_path, text):
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="Received: "):
        kx.VarianceProfile.load(path)


def test_table_is_aligned_and_keeps_names():
    names = ["[red]x[/red]", "a\\b", "n" * 200, "plain"]
    profile = kx.VarianceProfile(
        names, [1, 2, 3, 4], [4, 3, 2, 1], [1, 10, 100, 10**6]
    )
    expected = kx.theory.sample_variance_decay(4)
    lines = profile.table(expected).splitlines()
    head, rule, *rows = lines
    columns = (
        *("units", "sample variance", "squared mean", "total"),
        *("expected total", "sample fraction", "expected fraction", "decay"),
    )
    ends = [head.index(column) + len(column) for column in columns]
    assert len(rows) == 4
    fractions = expected.sample_fraction
    totals = expected.total
    for name, row, fraction, total in zip(
        names, rows, fractions, totals, strict=True
    ):
        assert row.split()[0] == name
        assert row[: ends[4]].endswith(f" {total:.4g}")
        assert row[: ends[6]].endswith(f"{fraction:.4g}")
        for end in ends:
            # Each column ends where its heading does.
            assert row[end - 1] != " " and row[end : end + 3].strip() == ""
    assert len(rule.split()[0]) >= len(head.strip())
    assert str(profile) == f"{profile.table()}\n{profile.verdict}"
    message = r"profile, 4\. Received: expected of 2 layers"
    with pytest.raises(ValueError, match=message):
        profile.table(kx.theory.sample_variance_decay(2))


def test_later_columns_are_shown_and_saved_only_where_they_hold_something():
    plain = kx.VarianceProfile(**GOOD)
    empty = {"dead_fraction": [np.nan] * 2, "notes": ["", ""], "remarks": []}
    assert kx.VarianceProfile(**GOOD, **empty) == plain
    assert plain.to_dict() == GOOD
    for shown in (plain.table(), plain._repr_html_()):
        assert not {"dead", "saturated", "note"} & set(shown.split())
    for name, value in LATER.items():
        profile = kx.VarianceProfile(**GOOD, **{name: value})
        assert set(profile.to_dict()) - set(GOOD) == {name}

    full = kx.VarianceProfile(**GOOD, **LATER)
    head, _, a, b, note, remark = full.table().splitlines()
    assert head.endswith("dead fraction   saturated fraction   note")
    assert a.split()[-1] == "0.25" and b.split()[-2:] == ["1", "[1]"]
    assert note == "[1] no sample reaches this layer"
    assert remark == LATER["remarks"][0]
    page = kx.VarianceProfile(**GOOD, remarks=["<b>"])._repr_html_()
    assert "<p>&lt;b&gt;</p>" in page


def test_gradients_in_a_table_and_a_third_panel():
    from matplotlib.figure import Figure

    one = kx.VarianceProfile(**GOOD, gradient=[3.0, 1.0])
    other = kx.VarianceProfile(**GOOD, gradient=[np.nan, 0.5])
    for profile, expected, heads, cells in [
        (one, None, ["gradient"], ["3"]),
        (one, other, ["gradient", "expected gradient ratio"], ["3", ""]),
        (
            other,
            one,
            ["gradient", "gradient ratio", "expected gradient ratio"],
            "  3",
        ),
        (kx.VarianceProfile(**GOOD), one, ["expected gradient ratio"], ["3"]),
    ]:
        columns, rows = profile._cells(expected)
        at = columns.index("decay") + 1
        assert columns[at:] == heads
        assert rows[0][at:] == [cell.strip() for cell in cells]
        axes = profile.plot(expected, Figure().subplots(profile.panels))
        if profile.panels == 3:
            curve = axes[2].lines[0].get_ydata()
            np.testing.assert_array_equal(curve, profile.gradient_ratio)
            assert axes[2].get_ylabel() == "gradient / last gradient"
    assert kx.VarianceProfile(**GOOD).panels == 2
    marks = other.plot(ax=Figure().subplots(3))[2].get_legend().get_texts()
    assert [text.get_text() for text in marks] == ["zero or not reached"]


def test_rows_with_one_note_share_a_mark():
    profile = kx.VarianceProfile(
        *(["a", "b", "c", "d"], *np.ones((3, 4))), notes=["x", "", "y", "x"]
    )
    *rows, x, y = profile.table().splitlines()
    assert [row.split()[-1] for row in rows[2:]] == ["[1]", "1", "[2]", "[1]"]
    assert (x, y) == ("[1] x", "[2] y")


def test_html_table_escapes_names():
    html = kx.VarianceProfile(["<b>"], [1], [1], [1])._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


def test_repr_shows_first_and_last_layer():
    assert repr(kx.VarianceProfile(**GOOD)) == (
        "<VarianceProfile of 2 layers: total 1 at 'a', 2 at 'b'; "
        "sample fraction 1 at 'a', 0.25 at 'b'>"
    )


def test_plot_shows_measurement_and_theory():
    from matplotlib.figure import Figure

    theory = kx.theory.sample_variance_decay(2)
    profile = kx.VarianceProfile(**GOOD)
    pair = Figure().subplots(2)
    assert profile.plot(expected=theory, ax=pair).tolist() == pair.tolist()
    for ax, column, label in zip(
        pair,
        ("signal_total", "sample_fraction"),
        ("total / first total", "sample fraction"),
        strict=True,
    ):
        measured, dashed = ax.lines
        assert (
            measured.get_ydata().tolist() == getattr(profile, column).tolist()
        )
        assert dashed.get_ydata().tolist() == getattr(theory, column).tolist()
        assert dashed.get_linestyle() == "--"
        assert ax.get_yscale() == "log" and ax.get_ylabel() == label
        # The names of the curves stand in the upper panel.
        names = ["measured", "expected"] if ax is pair[0] else []
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
        assert "good" in texts[0] and texts[1:] == names
    assert pair[-1].get_xlabel() == "index of the layer"


def test_plot_on_new_axes_on_one_axes_and_twice_on_a_pair():
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    profile = kx.VarianceProfile(**GOOD)
    new = profile.plot()
    assert len(new) == 2 and new[0].figure is new[1].figure
    plt.close(new[0].figure)

    one = Figure().subplots()
    assert profile.plot(ax=one) is one
    (line,) = one.lines
    assert line.get_ydata().tolist() == profile.sample_fraction.tolist()

    pair = Figure().subplots(2)
    for name in ("first", "second"):
        profile.plot(ax=tuple(pair), label=name)
    for ax in pair:
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
        names = ["first", "second"] if ax is pair[0] else []
        assert "good" in texts[0] and texts[1:] == names

    for wrong in (3, "ax", [one] * 3, []):
        with pytest.raises(ValueError, match="ax must be Matplotlib axes or a"):
            profile.plot(ax=wrong)
    with pytest.raises(ValueError, match=r"label must be a str.*label=3"):
        profile.plot(label=3)


def test_plot_marks_rows_that_have_no_place_on_a_logarithmic_scale():
    from matplotlib.figure import Figure

    profile = kx.VarianceProfile(
        ["zero", "constant", "a", "dead"], [0, 0, 1, 0], [0, 2, 1, 0], [1] * 4
    )
    rows = {}
    for ax in profile.plot(ax=Figure().subplots(2)):
        line, marks = ax.lines
        rows[marks.get_label()] = marks.get_xdata().tolist()
        assert np.isnan(line.get_ydata()[rows[marks.get_label()]]).all()
        assert np.isfinite(line.get_ydata()).sum() == 4 - len(marks.get_xdata())
    assert rows == {
        "zero": [0, 3],
        "equal for all samples": [0, 1, 3],
    }


def test_plot_shows_dead_units_where_there_are_some():
    from matplotlib.figure import Figure

    def dotted(dead):
        profile = kx.VarianceProfile(
            list("abc"), [1] * 3, [1] * 3, [9] * 3, dead_fraction=dead
        )
        upper, lower = profile.plot(ax=Figure().subplots(2))
        assert len(upper.lines) == 1
        return [
            line.get_ydata().tolist()
            for line in lower.lines
            if line.get_label() == "dead units"
        ]

    assert dotted([0.5, 0.25, 1]) == [[0.5, 0.25, 1]]
    assert dotted([0, 0, np.nan]) == dotted([np.nan] * 3) == []


@pytest.mark.parametrize(
    ("size", "layout"),
    [
        *[(size, "constrained") for size in ((4, 4), (6.4, 4.8), (10, 3))],
        # That of a figure by default.
        ((6.4, 4.8), None),
    ],
)
@pytest.mark.parametrize("label", ["He", "a word " * 9, "n" * 60])
def test_texts_of_the_plot_are_inside_of_the_figure(size, layout, label):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Totals of long tick labels, and rows that are marked.
    profile = kx.VarianceProfile(
        [f"layer {i}" for i in range(20)],
        np.r_[0, 10.0 ** -np.arange(0, 38, 2)],
        np.r_[1, np.zeros(19)],
        [1] * 20,
    )
    figure = Figure(figsize=size, layout=layout)
    axes = figure.subplots(2, 1, sharex=True)
    profile.plot(profile, axes, label=label)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for ax in axes:
        for artist in (ax.get_legend(), ax.yaxis.label, ax.xaxis.label):
            box = artist.get_window_extent(canvas.get_renderer())
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
            assert box.y0 >= 0 and box.y1 <= figure.bbox.y1
    shown = "".join(t.get_text() for t in axes[0].get_legend().get_texts())
    assert "".join(label.split()) in "".join(shown.split())


def test_plot_without_matplotlib_names_the_extra_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"keras-initx\[plot\]"):
        kx.VarianceProfile(**GOOD).plot()


@pytest.mark.parametrize("show", ["plot", "table"])
@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            kx.VarianceProfile(["a"], [1], [1], [1]),
            r"profile, 2\. Received: .* of 1 layers",
        ),
        ([1.0, 0.5], r"a VarianceProfile.*Received: expected=\[1\.0, 0\.5\]"),
    ],
)
def test_expected_of_another_kind_or_length_is_refused(show, expected, message):
    with pytest.raises(ValueError, match=message):
        getattr(kx.VarianceProfile(**GOOD), show)(expected)


def test_names_with_wide_letters_are_not_cut():
    names = ["\u5c64" * 40, "plain"]
    profile = kx.VarianceProfile(**GOOD | {"layers": names})
    rows = profile.table().splitlines()[2:]
    assert [row.split()[0] for row in rows] == names
    assert {row.split()[-1] for row in rows} == {"1", "0.25"}


def test_file_has_the_mode_that_open_would_give(tmp_path):
    profile = kx.VarianceProfile(**GOOD)
    before = os.umask(0o027)
    try:
        profile.save(tmp_path / "new.json")
    finally:
        os.umask(before)
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new.json").chmod(0o600)
    profile.save(tmp_path / "new.json")
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o600


def test_symbolic_link_is_followed(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "target.json")
    kx.VarianceProfile(**GOOD).save(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert kx.VarianceProfile.load(tmp_path / "target.json") is not None
