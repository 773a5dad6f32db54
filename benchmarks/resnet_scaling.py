"""How must residual networks be scaled with their depth?

Repeats figures of Marion, Fermanian, Biau & Vert (JMLR 26(56), 2025,
arXiv:2206.06929) with exact samplers of the weights. L is the depth, h_l the
signal and p_l the gradient at layer l, and branches are multiplied by L^-beta:

    figure1    |h_L - h_0| / |h_0| against L, weights independent over depth
    figure2    |h_L| / |h_0| of 10,000 nets, with its normal limit
    figure3    |p_0 - p_L| / |p_L| against L, weights independent over depth
    figure4    as figure1, with weights that are smooth over depth
    figure5    as figure3, with weights that are smooth over depth
    figure7    the beta at which the ratio of figure1, and that of figure3, is
               1, for each Hurst index
    figure9    accuracy on handwritten digits after training, for each Hurst
               index and beta
    orders     the rate at which deep nets approach their continuous limit

Unless noted otherwise, nets have two matrices in a branch, V relu(W h), and are
40 wide. All beta of a net run together on the same weights.

Run `python benchmarks/resnet_scaling.py [PART ...] [--out DIR]`. With `--out`
figures are drawn as well.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from report import new_axes, print_table, save_figure
from rich.progress import track

from keras_initx import theory
from keras_initx.initializers import DepthProcess
from keras_initx.theory import fractional_process, smooth_process
from keras_initx.theory.residual.depth_processes import DepthSpectrum

WIDTH = 40
DEPTHS = (10, 27, 77, 215, 599, 1000)
SEED = 20


# Networks ------------------------------------------------------------------


def run(
    v: np.ndarray, w: np.ndarray | None, x: np.ndarray, scales: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the relative change of signal and gradient through one net.

    Args:
        v: Array (L, d, d). The outer matrices, with entries of variance 1.
        w: Array (L, d, d). The inner matrices, with entries of variance 1.
            None for branches of one matrix, V relu(h).
        x: Array (inputs, d). The inputs h_0.
        scales: Array (betas,). The factors of the branches. All run at once.

    Returns:
        Two arrays (betas, inputs): |h_L - h_0| / |h_0| and
        |p_0 - p_L| / |p_L|, with p the gradient of a random linear function of
        h_L.
    """
    d = x.shape[1]
    h = np.broadcast_to(x, (len(scales), *x.shape)).reshape(-1, d)
    start = h = h.astype(np.float64)
    scale = np.repeat(scales, len(x))[:, None] / math.sqrt(d)
    active = []
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(len(v)):
            z = h if w is None else h @ (w[k].T / math.sqrt(d))
            active.append(z > 0)
            h = h + scale * (np.maximum(z, 0) @ v[k].T)
        signal = _norm(h - start) / _norm(start)
        rng = np.random.default_rng(SEED)
        p = end = np.broadcast_to(rng.standard_normal(d), h.shape)
        for k in reversed(range(len(v))):
            back = active[k] * (p @ v[k])
            p = p + scale * (
                back if w is None else back @ (w[k] / math.sqrt(d))
            )
        gradient = _norm(p - end) / _norm(end)
    shape = len(scales), len(x)
    return signal.reshape(shape), gradient.reshape(shape)


def _norm(h: np.ndarray) -> np.ndarray:
    """Returns the norms without overflow: they reach 1e300 for beta near 0."""
    largest = np.abs(h).max(axis=1, keepdims=True)
    nonzero = np.where(largest > 0, largest, 1)
    return largest[:, 0] * np.linalg.norm(h / nonzero, axis=1)


def sample_matrices(process: DepthSpectrum, rng, width: int = WIDTH):
    """Returns independent v and w of one net."""
    paths = process.sample(2 * width**2, rng)
    paths = paths.reshape(process.depth, 2, width, width)
    return paths[:, 0], paths[:, 1]


# Figures 1 to 5 ------------------------------------------------------------


@functools.cache
def against_depth(
    process: Callable[[int], DepthSpectrum],
    betas: tuple[float, ...],
    nets: int = 50,
) -> np.ndarray:
    """Returns signal and gradient: (2, depths, betas, nets).

    The result is cached, because the figure of the signal and that of the
    gradient use the same networks.
    """
    rng = np.random.default_rng(SEED)
    results = np.empty((2, len(DEPTHS), len(betas), nets))
    for i in track(range(len(DEPTHS)), "nets of all depths"):
        scales = float(DEPTHS[i]) ** -np.array(betas)
        for n in range(nets):
            v, w = sample_matrices(process(DEPTHS[i]), rng)
            x = rng.standard_normal((1, WIDTH))
            signal, gradient = run(v, w, x, scales)
            results[:, i, :, n] = signal[:, 0], gradient[:, 0]
    return results


def _white(depth: int) -> DepthSpectrum:
    return fractional_process(depth, 0.5)


def _figure_of_depth(
    which: int, process, betas, expected, name: str, out: Path | None
) -> None:
    results = against_depth(process, betas)[which]
    rows = [
        [f"beta {beta:g}, {label}", *map(float, values)]
        for j, beta in enumerate(betas)
        for label, values in (
            ("mean", results[:, j].mean(-1)),
            ("root mean square", np.sqrt((results[:, j] ** 2).mean(-1))),
            *([("theory", expected(beta))] if expected else []),
        )
    ]
    quantity = ("|h_L - h_0| / |h_0|", "|p_0 - p_L| / |p_L|")[which]
    title = f"{name}: {quantity}, 50 nets {WIDTH} wide"
    print_table(title, ["L", *map(str, DEPTHS)], rows)
    if out:
        ax = new_axes()
        for j, beta in enumerate(betas):
            low, middle, high = np.percentile(
                results[:, j], [5, 50, 95], axis=-1
            )
            ax.loglog(DEPTHS, middle, label=f"beta = {beta:g}")
            ax.fill_between(DEPTHS, low, high, alpha=0.3)
        ax.set(xlabel="depth L", ylabel=quantity)
        save_figure(ax, out / f"{name}.png")


def _expected_white(beta: float) -> list[float]:
    return [
        math.sqrt(theory.residual_growth(depth, beta) - 1) for depth in DEPTHS
    ]


def figure1(out: Path | None) -> None:
    _figure_of_depth(
        0, _white, (0.25, 0.5, 1.0), _expected_white, "figure1", out
    )


def figure3(out: Path | None) -> None:
    _figure_of_depth(
        1, _white, (0.25, 0.5, 1.0), _expected_white, "figure3", out
    )


def figure4(out: Path | None) -> None:
    _figure_of_depth(0, smooth_process, (0.5, 1.0, 2.0), None, "figure4", out)


def figure5(out: Path | None) -> None:
    _figure_of_depth(1, smooth_process, (0.5, 1.0, 2.0), None, "figure5", out)


def figure2(out: Path | None, nets: int = 10_000) -> None:
    """Draws the products W h and V r instead of the matrices.

    Given h, W h is normal with variance |h|^2 / d. Given r = relu(W h), V r is
    normal with variance |r|^2 / d. Both are independent in each layer, so that
    h_L has the same distribution as with matrices.
    """
    width, depth = 100, 1000
    rng = np.random.default_rng(SEED)
    h = rng.standard_normal((nets, width), dtype=np.float32)
    start = np.linalg.norm(h, axis=1)
    scale = np.float32(1 / math.sqrt(depth * width))
    for _ in track(range(depth), "layers"):
        size = np.linalg.norm(h, axis=1, keepdims=True) / math.sqrt(width)
        z = rng.standard_normal((nets, width), dtype=np.float32)
        r = size * np.linalg.norm(np.maximum(z, 0), axis=1, keepdims=True)
        h += scale * r * rng.standard_normal((nets, width), dtype=np.float32)
    ratio = np.linalg.norm(h, axis=1) / start
    mean, variance = theory.residual_log_norm(depth, width)
    log = np.log(ratio)
    print_table(
        f"figure2: {nets} nets, {width} wide, L = {depth}, beta = 1/2",
        ["", "measured", "theory"],
        [
            ["mean of the logarithm", float(log.mean()), mean],
            ["its standard deviation", float(log.std()), math.sqrt(variance)],
            ["median |h_L| / |h_0|", float(np.median(ratio)), math.exp(mean)],
            ["smallest", float(ratio.min()), ""],
            ["largest", float(ratio.max()), ""],
        ],
    )
    if out:
        ax = new_axes()
        ax.hist(ratio, bins=60, density=True)
        t = np.linspace(ratio.min(), ratio.max(), 300)
        density = np.exp(-((np.log(t) - mean) ** 2) / (2 * variance))
        ax.plot(t, density / (t * math.sqrt(2 * math.pi * variance)))
        ax.set(xlabel="|h_L| / |h_0|")
        save_figure(ax, out / "figure2.png", legend=False)


# Figures 7 and 9 -----------------------------------------------------------

# The beta at which the mean logarithm of the ratio is 0. The keys are Hurst
# indices; the values are for the signal and the gradient. They were read off a
# figure in the history of the authors' code, whose sampler is inaccurate for a
# Hurst index near 1.
AUTHORS_RIDGE = {
    0.05: (0.462, 0.484),
    0.42: (0.460, 0.473),
    0.51: (0.476, 0.478),
    0.69: (0.584, 0.516),
    0.79: (0.683, 0.591),
    0.88: (0.811, 0.740),
    0.97: (0.969, 0.931),
}


def figure7(out: Path | None, nets: int = 5, inputs: int = 10) -> None:
    depth = 1000
    betas = np.linspace(0, 1.3, 70)
    hursts = sorted({*np.linspace(0.05, 0.97, 24).round(3), *AUTHORS_RIDGE})
    rng = np.random.default_rng(SEED)
    logarithms = np.empty((2, len(hursts), nets, len(betas)))
    for i in track(range(len(hursts)), "hurst"):
        process = fractional_process(depth, hursts[i])
        for n in range(nets):
            v, w = sample_matrices(process, rng)
            x = rng.standard_normal((inputs, WIDTH))
            ratios = run(v, w, x, float(depth) ** -betas)
            logarithms[:, i, n] = np.log10(ratios).mean(-1)
    mean = np.nan_to_num(logarithms.mean(2), nan=16, posinf=16)
    rows = []
    for hurst, published in AUTHORS_RIDGE.items():
        i = hursts.index(hurst)
        row = [hurst]
        for which in (0, 1):
            each = [ridge(betas, net) for net in logarithms[which, i]]
            error = np.std(each, ddof=1) / math.sqrt(nets)
            crossing = ridge(betas, mean[which, i])
            row += [f"{crossing:.3f} +- {error:.3f}", published[which]]
        rows.append(row)
    print_table(
        f"figure7: beta at which a ratio of 1 is reached, L = {depth}, "
        f"{nets} nets x {inputs} inputs",
        ["hurst", "signal", "authors", "gradient", "authors"],
        rows,
    )
    if out:
        for which, name in enumerate(("signal", "gradient")):
            ax = new_axes()
            grid = np.clip(mean[which].T, -1, 1)
            image = ax.pcolormesh(hursts, betas, grid, cmap="RdBu_r")
            ax.figure.colorbar(image, label="log10 of the ratio")
            ax.plot(hursts, [ridge(betas, row) for row in mean[which]], "k")
            ax.set(xlabel="hurst", ylabel="beta")
            save_figure(ax, out / f"figure7_{name}.png", legend=False)


def ridge(betas: np.ndarray, logarithm: np.ndarray) -> float:
    """Returns the last beta at which the falling logarithm passes 0."""
    last = np.flatnonzero(np.nan_to_num(logarithm, nan=16, posinf=16) > 0)[-1]
    above, below = logarithm[last : last + 2]
    share = above / (above - below)
    return float(betas[last] + share * (betas[last + 1] - betas[last]))


def figure9(
    out: Path | None, depth: int = 100, width: int = 30, epochs: int = 30
) -> None:
    """Trains all nets together, each on its own loss."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(y))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    train, test = slice(0, 1437), slice(1437, None)
    hursts = np.linspace(0.1, 0.9, 5)
    betas = np.linspace(0.1, 0.9, 5)
    cells = [(hurst, beta) for hurst in hursts for beta in betas]
    layers = np.empty((depth, len(cells), width, width), np.float32)
    for i, (hurst, _) in enumerate(cells):
        process = DepthProcess(depth, "fractional", hurst=hurst, seed=SEED)
        for k in range(depth):
            layers[k, i] = process.at(k)((width, width))
    scale = tf.constant([depth**-beta for _, beta in cells], tf.float32)
    keras.utils.set_random_seed(SEED)
    lecun = keras.initializers.LecunNormal()
    first = np.stack([lecun((64, width))] * len(cells))
    last = np.stack([lecun((width, 10))] * len(cells))
    variables = [keras.Variable(value) for value in (first, layers, last)]
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(variables)

    def logits(x):
        first, layers, last = (v.value for v in variables)
        h = tf.einsum("bi,cij->cbj", x, first)
        for k in range(depth):
            branch = tf.matmul(tf.nn.relu(h), layers[k])
            h += scale[:, None, None] * branch
        return tf.matmul(h, last)

    @tf.function(reduce_retracing=True)
    def step(x, y):
        with tf.GradientTape() as tape:
            out = logits(x)
            labels = tf.tile(y[None], (len(cells), 1))
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, out), 1
            )
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]))

    best = np.zeros(len(cells))
    accuracy = tf.function(
        lambda: tf.reduce_mean(
            tf.cast(
                tf.argmax(logits(x[test]), -1) == y[test][None], tf.float32
            ),
            1,
        )
    )
    for _ in track(range(epochs), "epochs"):
        order = np.random.default_rng(SEED).permutation(1437)
        for rows in np.array_split(order, 11):
            step(tf.constant(x[train][rows]), tf.constant(y[train][rows]))
        best = np.fmax(best, accuracy().numpy())
    grid = best.reshape(len(hursts), len(betas))
    print_table(
        f"figure9: best accuracy on {len(y[test])} digits, {depth} layers "
        f"{width} wide of one matrix, {epochs} epochs of Adam(1e-3)",
        ["beta \\ hurst", *(f"{hurst:g}" for hurst in hursts)],
        [
            [f"{beta:g}", *map(float, grid[:, j])]
            for j, beta in reversed(list(enumerate(betas)))
        ],
    )
    if out:
        ax = new_axes()
        image = ax.pcolormesh(hursts, betas, grid.T)
        ax.figure.colorbar(image, label="best accuracy")
        ax.set(xlabel="hurst", ylabel="beta")
        save_figure(ax, out / "figure9.png", legend=False)


# Orders --------------------------------------------------------------------


def orders(out: Path | None, nets: int = 20) -> None:
    """Compares nets with a net of 4096 layers: |h_L - limit| / |limit|.

    The nets have one matrix and tanh in a branch and are 20 wide. At beta 1/2
    all have weights from the same Brownian path, whose steps are summed for
    fewer layers; at beta 1 all have the same smooth weights.
    """
    width, finest = 20, 4096
    depths = 2 ** np.arange(4, 10)
    rng = np.random.default_rng(SEED)
    kinds = {"white, beta 1/2": _white, "smooth, beta 1": smooth_process}
    errors = {kind: np.empty((nets, len(depths))) for kind in kinds}
    for kind, process in kinds.items():
        for n in track(range(nets), kind):
            fine = process(finest).sample(width**2, rng)
            fine = fine.reshape(finest, width, width).astype(float)
            x = rng.standard_normal(width)

            def end(depth, fine=fine, x=x, rough=process is _white):
                block = finest // depth
                if rough:
                    w = fine.reshape(depth, block, width, width).sum(1)
                    w /= math.sqrt(block)
                else:
                    w = fine[::block]
                scale = depth ** -(0.5 if rough else 1.0) / math.sqrt(width)
                h = x
                for layer in w:
                    h = h + scale * (layer @ np.tanh(h))
                return h

            limit = end(finest)
            errors[kind][n] = [
                np.linalg.norm(end(depth) - limit) / np.linalg.norm(limit)
                for depth in depths
            ]
    rows = []
    for kind, theory_order in zip(kinds, (-0.5, -1.0), strict=True):
        size = np.sqrt((errors[kind] ** 2).mean(0))
        order = np.polyfit(np.log(depths), np.log(size), 1)[0]
        rows.append([kind, *map(float, size), f"{order:.2f}", theory_order])
    print_table(
        f"orders: distance from the net of {finest} layers, {nets} nets",
        ["L", *map(str, depths), "order", "theory"],
        rows,
    )
    if out:
        ax = new_axes()
        for kind in kinds:
            ax.loglog(depths, np.sqrt((errors[kind] ** 2).mean(0)), label=kind)
        ax.set(xlabel="depth L", ylabel="distance from the limit")
        save_figure(ax, out / "orders.png")


PARTS = {
    part.__name__: part
    for part in (
        figure1,
        figure2,
        figure3,
        figure4,
        figure5,
        figure7,
        figure9,
        orders,
    )
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--out", type=Path, help="folder for figures")
    options = parser.parse_args(argv)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(
            f"PART must be one of {', '.join(PARTS)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        PARTS[part](options.out)


if __name__ == "__main__":
    main()
