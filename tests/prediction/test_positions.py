"""Tests of predictions whose moments are averaged over positions."""

import keras
import numpy as np
import pytest

import keras_initx as kx
from keras_initx.prediction import averaged as averaged_module
from keras_initx.prediction import predict as predict_module
from keras_initx.prediction.positions import (
    Centering,
    Grid,
    Whole,
    of_channels,
    outer,
    read,
    variances_of_modes,
)
from tests.prediction.networks import assert_predicted

L = keras.layers
GRIDS = [(7, 6), (30,), (4, 5, 3), (1, 9), (11, 11)]


def matrices(places, seed=0):
    """A grid of two samples, channels, and the matrix of their products."""
    grid = Grid(2, places)
    x = np.random.default_rng(seed).normal(size=(5, grid.size)) + 0.5
    return grid, x, x.T @ x / len(x)


def split(grid, matrix):
    """A matrix as one for each two samples."""
    shape = (grid.samples, grid.count) * 2
    return matrix.reshape(shape).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("places", GRIDS)
def test_a_table_holds_means_of_the_matrix(places):
    grid, x, matrix = matrices(places)
    table = of_channels(grid, x, x)
    pairs = split(grid, matrix)
    np.testing.assert_allclose(
        table.same, np.einsum("abpp->abp", pairs), atol=1e-12
    )
    gap = grid.coordinates[None] - grid.coordinates[:, None]
    cells = range(grid.cell_count)
    every = np.zeros(table.near.shape)
    for k, offset in enumerate(grid.offsets):
        p, q = np.nonzero(np.all(gap == offset, axis=-1))
        every[:, :, k, p] = pairs[:, :, p, q]
        np.testing.assert_array_equal(grid.moved[k, p], q)
    assert (grid.moved >= 0).sum() == (np.abs(gap).max(-1) <= grid.radius).sum()
    # `near` has the precision of float32.
    np.testing.assert_allclose(table.near, every, atol=1e-6)
    np.testing.assert_allclose(
        table.T.near, of_channels(grid, x, x).near, atol=1e-6
    )
    away = np.abs(gap).max(axis=-1) > grid.radius
    for cell in cells:
        for other in cells:
            both = np.multiply.outer(grid.cells == cell, grid.cells == other)
            assert (both & away).sum() == grid.far_pairs[cell, other]
            if (both & away).any():
                np.testing.assert_allclose(
                    table.far[:, :, cell, other],
                    pairs[:, :, both & away].mean(axis=-1),
                    atol=1e-12,
                )
    np.testing.assert_allclose(
        table.pair_sums(), pairs.sum(axis=(2, 3)), rtol=1e-6
    )
    np.testing.assert_allclose(table.diagonal(), np.diagonal(matrix))
    np.testing.assert_allclose(
        table.T.same, np.einsum("abpp->bap", pairs), atol=1e-12
    )


def test_transposed_table():
    grid, x, _ = matrices((7, 6))
    y = np.random.default_rng(3).normal(size=x.shape)
    turned, expected = of_channels(grid, x, y).T, of_channels(grid, y, x)
    np.testing.assert_allclose(turned.same, expected.same, atol=1e-12)
    np.testing.assert_allclose(turned.near, expected.near, atol=1e-6)
    np.testing.assert_allclose(turned.far, expected.far, atol=1e-12)


@pytest.mark.parametrize("places", [*GRIDS, (40, 33), (200,)])
def test_positions_that_stand_for_others(places):
    grid = Grid(1, places)
    p, q = grid.far_samples()
    cells = np.indices(p.shape)
    assert (grid.cells[np.stack([p, q])] == cells).all()
    apart = grid.offset_between(p, q) < 0
    # A few pairs of many may be missed by chance.
    wanted = grid.far_pairs > 0.5 * np.multiply.outer(
        grid.in_cell, grid.in_cell
    )
    assert apart[wanted].all()
    like = grid.like(grid.count // 8)
    assert len(np.unique(like)) <= max(grid.count // 2, 12)
    parity = grid.coordinates[like] % 2
    assert (parity == grid.coordinates % 2).all()
    off = np.abs(grid.coordinates[like] - grid.coordinates).max(axis=-1)
    assert off.max() <= max(2 * grid.radius + 1, 16)
    np.testing.assert_array_equal(grid.like(grid.count), np.arange(grid.count))


def test_reading_of_a_matrix():
    _, _, matrix = matrices((6, 6))
    target = Grid(2, (12, 12))
    assert target.radius < 6
    up = np.arange(36).reshape(6, 6).repeat(2, 0).repeat(2, 1).ravel()
    up[:5] = -1
    table, _ = read(Whole(matrix, 2), up, up, target)
    points = np.concatenate([up, np.where(up < 0, -1, up + 36)])
    padded = np.pad(matrix, ((0, 1), (0, 1)))
    whole = padded[points][:, points]
    exact = split(target, whole)
    np.testing.assert_allclose(
        table.same, np.einsum("abpp->abp", exact), atol=1e-12
    )
    away = np.abs(target.coordinates[None] - target.coordinates[:, None])
    assert (away.max(axis=-1) > target.radius).any()
    cells = np.eye(target.cell_count)[target.cells] / target.in_cell
    np.testing.assert_allclose(
        table.far,
        np.einsum("abpq,pc,qd->abcd", exact, cells, cells),
        atol=1e-12,
    )


def test_a_centered_table_has_the_trace_and_the_modes_of_the_matrix():
    grid = Grid(2, (12, 12))
    # One number for all positions of a sample, and white noise.
    common = np.kron([[1.0, 0.4], [0.4, 1.0]], np.ones((144, 144)))
    matrix = common + 0.5 * np.eye(288)
    table, _ = read(Whole(matrix, 2), *[np.arange(144)] * 2, grid)
    # The cell means of `read` count a position with itself as another.
    table.far -= table.far - split(grid, common)[..., 0, 0][..., None, None]
    centering = np.eye(288) - 1 / 288
    exact = centering @ matrix @ centering
    centered = Centering(288) @ (Centering(288) @ table).T
    np.testing.assert_allclose(
        centered.diagonal(), np.diagonal(exact), rtol=1e-3
    )
    modes = variances_of_modes(table)
    np.testing.assert_allclose(modes.sum(), np.trace(exact), rtol=1e-3)
    np.testing.assert_allclose(
        modes.max(), np.linalg.eigvalsh(exact)[-1], rtol=1e-3
    )


def test_products_of_a_table():
    grid, x, _ = matrices((7, 6))
    table = of_channels(grid, x, x)
    rows = np.random.default_rng(1).normal(size=grid.size)
    scaled = rows[:, None] * table
    np.testing.assert_allclose(
        scaled.same, table.same * rows.reshape(2, 1, -1), atol=1e-12
    )
    columns = rows[None, :] * table
    np.testing.assert_allclose(
        columns.same, table.same * rows.reshape(1, 2, -1), atol=1e-12
    )
    both = outer(grid, rows, rows)
    np.testing.assert_allclose(both.diagonal(), rows**2)


def averaged(monkeypatch, model, limit, **kwargs):
    """The prediction where a matrix may have no more than `limit` points."""
    with monkeypatch.context() as patch:
        for name in ("_MOST_POINTS", "_POINTS", "_AVERAGED_POINTS"):
            patch.setattr(predict_module, name, limit)
        # Fewer draws, which take less time.
        patch.setattr(averaged_module, "_VALUES", 2**22)
        return kx.predict(model, **kwargs)


# Errors of total, sample fraction and gradient, where a cell has 3 positions
# along each axis; a cell of 224 x 224 positions has 45. A sample fraction may
# be off by 0.02 besides.
CASES = {
    "batch statistics": (
        lambda: keras.Sequential(
            [
                keras.Input((20, 20, 3)),
                L.Conv2D(16, 3, padding="same", activation="relu"),
                L.Conv2D(16, 3, 2, padding="same"),
                L.BatchNormalization(),
                L.Conv2DTranspose(16, 3, 2, padding="same"),
                L.Conv2D(16, 3, padding="same", activation="relu"),
                L.BatchNormalization(),
                L.Conv2D(16, 3, padding="same"),
                L.Flatten(),
                L.Dense(4),
            ]
        ),
        300,
        0.02,
        0.03,
        0.06,
        {"training": True},
    ),
    "three axes": (
        lambda: keras.Sequential(
            [
                keras.Input((6, 7, 6, 2)),
                L.Conv3D(16, 3, padding="same", activation="relu"),
                L.MaxPooling3D(2),
                L.Conv3D(16, 2, activation="relu"),
                L.GlobalMaxPooling3D(),
                L.Dense(4),
            ]
        ),
        300,
        0.05,
        0.12,
        0.3,
        {},
    ),
    "one axis": (
        lambda: keras.Sequential(
            [
                keras.Input((140, 2)),
                L.ZeroPadding1D(2),
                L.Conv1D(16, 5, dilation_rate=3, activation="relu"),
                L.Cropping1D(3),
                L.MaxPooling1D(3, 1, "same"),
                L.SeparableConv1D(16, 3, 2, activation="relu"),
                L.LayerNormalization(axis=[1, 2]),
                L.UpSampling1D(2),
                L.Conv1D(16, 3, 4, activation="relu"),
                L.AveragePooling1D(4),
                L.Conv1D(16, 1),
                L.Flatten(),
                L.Dense(4),
            ]
        ),
        250,
        0.02,
        0.04,
        0.05,
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_close_to_the_matrix(name, monkeypatch):
    build, limit, of_total, of_fraction, of_gradient, kwargs = CASES[name]
    model = build()
    kwargs = kwargs | {"samples": 2, "weights": "initial"}
    exact = kx.predict(model, **kwargs)
    found = averaged(monkeypatch, model, limit, **kwargs)
    assert found.layers == exact.layers
    assert "positions averaged" not in exact.exactness
    assert "positions averaged" in found.exactness
    np.testing.assert_allclose(found.total, exact.total, rtol=of_total)
    known = ~np.isnan(found.sample_fraction)
    np.testing.assert_allclose(
        found.sample_fraction[known],
        exact.sample_fraction[known],
        rtol=of_fraction,
        atol=0.02,
    )
    assert (exact.sample_fraction[~known] < 0.05 + 0.02).all()
    np.testing.assert_allclose(found.gradient, exact.gradient, rtol=of_gradient)


def test_rows_without_pooling_are_those_of_the_matrix(monkeypatch):
    model = keras.Sequential(
        [
            keras.Input((9, 9, 3)),
            L.Conv2D(8, 5, 2, padding="same", activation="relu"),
            L.DepthwiseConv2D(3, padding="same", activation="tanh"),
            L.Conv2D(8, 3, padding="same", activation="leaky_relu"),
            L.Flatten(),
            L.Dense(4),
        ]
    )
    rng = np.random.default_rng(0)
    data = rng.normal(size=(2, 9, 9, 3)).cumsum(axis=1)
    for x in (None, data):
        kwargs = {"data": x, "weights": "initial", "samples": 2}
        exact = kx.predict(model, **kwargs)
        found = averaged(monkeypatch, model, 34, **kwargs)
        for column in ("total", "sample_fraction", "gradient"):
            np.testing.assert_allclose(
                getattr(found, column), getattr(exact, column), rtol=1e-7
            )
        assert found.exactness == exact.exactness


def test_pooling_where_moments_change_within_a_cell(monkeypatch):
    """Mean squares and correlations of images differ from pixel to pixel."""
    # Images with a spectrum of 1/f, as photographs have, and a bright edge.
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(16), np.fft.fftfreq(16)))
    f[0, 0] = 1 / 16
    noise = np.random.default_rng(0).normal(size=(2, 16, 16))
    x = np.fft.ifft2(np.fft.fft2(noise) / f).real
    x = x - x.min(axis=(1, 2), keepdims=True)
    x[0, :, 7:] *= 3
    layers = [
        keras.Input((16, 16, 1)),
        L.Conv2D(8, 2, activation="relu"),
        L.MaxPooling2D(2),
        L.Conv2D(8, 2, activation="relu"),
        L.MaxPooling2D(2),
        L.Conv2D(8, 2),
    ]
    model = keras.Sequential(layers)
    kwargs = {"data": x[..., None], "weights": "initial", "samples": 2}
    exact = kx.predict(model, **kwargs)
    found = averaged(monkeypatch, model, 30, **kwargs)
    np.testing.assert_allclose(found.total, exact.total, rtol=0.05)
    np.testing.assert_allclose(
        found.squared_mean, exact.squared_mean, rtol=0.05
    )
    np.testing.assert_allclose(found.gradient, exact.gradient, rtol=0.08)


def test_gradient_through_windows_that_overlap_at_the_border(monkeypatch):
    """Positions at the border are read by fewer windows than others."""
    model = keras.Sequential(
        [
            keras.Input((10, 10, 3)),
            L.Conv2D(8, 2, activation="relu"),
            L.MaxPooling2D(3, 2),
            L.Conv2D(8, 1),
        ]
    )
    x = np.random.default_rng(0).normal(size=(2, 10, 10, 3))
    kwargs = {"data": x, "weights": "initial", "samples": 2}
    exact = kx.predict(model, **kwargs)
    # Few positions are drawn, as in larger images.
    monkeypatch.setattr(averaged_module, "_ENTRIES", 2**21)
    found = averaged(monkeypatch, model, 30, **kwargs)
    np.testing.assert_allclose(found.gradient, exact.gradient, rtol=0.08)


def test_an_indicator_of_a_wide_variable_is_drawn(monkeypatch):
    def indicator(x):
        return keras.ops.cast((x > 0) & (x < 0.6), x.dtype)

    model = keras.Sequential(
        [
            keras.Input((18, 18, 3)),
            L.Conv2D(4, 3, activation=indicator),
            L.Conv2D(4, 1),
        ]
    )
    x = np.random.default_rng(0).normal(size=(2, 18, 18, 3))
    x[1] = x[0] + 0.3 * x[1]
    kwargs = {"data": 20 * x, "weights": "initial", "samples": 2}
    found = averaged(monkeypatch, model, 60, **kwargs)
    exact = kx.predict(model, **kwargs)
    np.testing.assert_allclose(found.total, exact.total, rtol=0.1)
    assert "drawn" in found.notes[-1]


@pytest.mark.parametrize("with_data", [False, True])
def test_a_small_sample_fraction_is_not_known(with_data, monkeypatch, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(8, 3, padding="same", activation="relu"),
            L.GlobalAveragePooling2D(),
            L.Dense(32, "relu", kernel_initializer="he_normal"),
            L.Dense(4),
        ]
    )
    # Two samples that are almost equal from the start, where no positions are
    # averaged yet.
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    x[1] = x[0] + 0.1 * x[1]
    kwargs = {"data": x if with_data else None, "weights": "initial"}
    exact = kx.predict(model, samples=2, **kwargs)
    found = averaged(monkeypatch, model, 60, samples=2, **kwargs)
    np.testing.assert_allclose(found.total, exact.total, rtol=0.02)
    np.testing.assert_allclose(found.gradient, exact.gradient, rtol=0.02)
    assert (exact.sample_fraction < 0.05).tolist() == [with_data, True, True]
    unknown = np.array([False, True, True])
    assert np.isnan(found.sample_fraction).tolist() == unknown.tolist()
    assert np.isnan(found.sample_variance).tolist() == unknown.tolist()
    assert np.isnan(found.decay).tolist() == unknown.tolist()
    for note, is_unknown in zip(found.notes, unknown, strict=True):
        said = "the sample fraction is not known: it is below 0.05 here or"
        assert (said in note) == is_unknown
    assert found.verdict.state == "lives"
    sentence = str(found.verdict)
    assert ("is not known" if with_data else "is not judged") in sentence
    assert "nan" in found.table()
    found.save(tmp_path / "p.json")
    assert kx.Prediction.load(tmp_path / "p.json") == found


def test_a_sample_fraction_behind_an_unknown_one_is_not_known(monkeypatch):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(8, 2, activation="relu"),
            L.MaxPooling2D(2, 1),
            L.Conv2D(8, 1),
            L.BatchNormalization(),
            L.Conv2D(8, 1),
            L.Conv2D(8, 1),
        ]
    )
    # What images have in common is the mean that the normalization subtracts.
    noise = 0.3 * np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    kwargs = {"weights": "initial", "training": True, "samples": 2}
    # A variance of 1.6% of the mean square is not known well enough.
    with pytest.raises(ValueError, match=r"'batch_norm.* 3% "):
        averaged(monkeypatch, model, 60, data=1.5 + noise, **kwargs)
    kwargs["data"] = 1 + noise
    exact = kx.predict(model, **kwargs)
    assert exact.sample_fraction[1] < 0.04
    assert (exact.sample_fraction[2:] > 0.2).all()
    found = averaged(monkeypatch, model, 60, **kwargs)
    unknown = [False, True, True, True]
    for column in ("sample_fraction", "sample_variance", "decay"):
        assert np.isnan(getattr(found, column)).tolist() == unknown
    assert not np.isnan([found.total, found.gradient]).any()


def test_a_depthwise_convolution_of_many_positions_in_training(monkeypatch):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.DepthwiseConv2D(3, padding="same"),
            L.BatchNormalization(name="norm"),
            L.Conv2D(4, 1),
        ]
    )
    assert len(averaged(monkeypatch, model, 60)) == 2
    message = r"^layer 'norm' \(BatchNorm.* drawn in training mode, for 60 pos"
    with pytest.raises(ValueError, match=message):
        averaged(monkeypatch, model, 60, training=True)


@pytest.mark.parametrize(
    "pooling",
    [
        lambda: L.GlobalMaxPooling2D(name="top"),
        lambda: L.GlobalMaxPooling2D(keepdims=True, name="top"),
        lambda: L.MaxPooling2D(44, name="top"),
    ],
    ids=["global", "keepdims", "window"],
)
def test_a_maximum_over_too_many_positions_is_refused_by_name(pooling):
    model = keras.Sequential(
        [
            keras.Input((44, 44, 2)),
            L.Conv2D(4, 1, activation="relu"),
            pooling(),
            L.Flatten(),
            L.Dense(4),
        ]
    )
    message = (
        r"^layer 'top' \(.*MaxPooling2D\) cannot be predicted: its maximum "
        "over 1936 positions is drawn, for at most 400 positions in a model of "
        "large images: give smaller images, or put a pooling and a "
        "convolution before it"
    )
    with pytest.raises(ValueError, match=message):
        kx.predict(model)


def test_a_global_maximum_behind_a_pooling_and_a_convolution():
    """The remedy that the refusal of a larger one names."""
    model = keras.Sequential(
        [
            keras.Input((44, 44, 2)),
            L.Conv2D(4, 1),
            L.MaxPooling2D(2, 8),
            L.Conv2D(4, 1, activation="relu"),
            L.GlobalMaxPooling2D(),
            L.Dense(4),
        ]
    )
    found = kx.predict(model)
    assert np.isfinite(found.total).all()
    assert "positions averaged" in found.exactness


def residual():
    """Batch statistics of few positions, behind a pooling of many."""
    inputs = keras.Input((10, 10, 3))
    x = L.Conv2D(16, 3, padding="same")(inputs)
    x = L.Activation("relu")(L.BatchNormalization()(x))
    pooled = L.MaxPooling2D(3, 2, padding="same")(x)
    skip = L.BatchNormalization()(L.Conv2D(16, 1, 2, padding="same")(x))
    x = L.Activation("relu")(L.add([pooled, skip]))
    x = L.BatchNormalization()(L.Conv2D(16, 3, padding="same")(x))
    x = L.Activation("relu")(x)
    return keras.Model(inputs, L.Dense(4)(L.Flatten()(x)))


def test_batch_statistics_behind_a_pooling_of_many_positions(monkeypatch):
    model = residual()
    # Only whether there is a prediction is asked.
    monkeypatch.setattr(averaged_module, "_ENTRIES", 2**19)
    message = "^layer 'conv2d.*batch behind it depend on a larger tensor"
    with pytest.raises(ValueError, match=message):
        averaged(monkeypatch, model, 80, training=True, samples=2)
    assert len(averaged(monkeypatch, model, 80)) == 4


def test_drawn_networks_of_large_images(monkeypatch):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            L.Conv2D(64, 3, padding="same", activation="relu"),
            L.MaxPooling2D(3, 2),
            L.Conv2D(64, 3, 2, padding="same", activation="relu"),
            L.GlobalAveragePooling2D(),
            L.Dense(32),
        ]
    )
    kx.initialize(model, "he_normal", seed=0)
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    # Few positions are drawn, as in larger images.
    monkeypatch.setattr(averaged_module, "_ENTRIES", 2**21)
    prediction = averaged(monkeypatch, model, 200, data=x.astype("float32"))
    assert prediction.exactness[-1] == "positions averaged"
    assert "positions averaged: " in prediction.notes[-1]
    assert_predicted(prediction, model, x.astype("float32"), 0, wide=0.02)
    assert kx.Prediction.from_dict(prediction.to_dict()) == prediction


def test_windows_that_depend_on_too_many_values_are_refused(monkeypatch):
    model = keras.Sequential(
        [keras.Input((8, 8, 2)), L.Conv2D(4, 2), L.MaxPooling2D(2, name="pool")]
    )
    model.add(L.Conv2D(4, 1))
    averaged(monkeypatch, model, 60)
    monkeypatch.setattr(averaged_module, "_MOST_OF_PAIR", 8)
    with pytest.raises(ValueError, match=r"window of it depends on \d+ values"):
        averaged(monkeypatch, model, 60)
