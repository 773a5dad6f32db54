"""Compares what runs on a GPU with the same on the CPU, in one process.

    make gpu-check

It needs JAX or PyTorch with CUDA, NumPy, SciPy, and Keras, but no TensorFlow
and no network: packages that are missing are taken from the wheels of the
folder `wheels`, which `make gpu-wheels` fills elsewhere. Each backend that is
installed runs in a process of its own. A table is printed, and the exit code is
1 if a row has failed or no backend has seen a GPU.

    --backend jax     runs one backend
    --device cpu      compares another device than the first GPU

Both sides compute in float32, and products in TensorFloat-32, which rounds
factors to a share of 5e-4, are off while they are compared. A GPU adds up in
another order, and the last bits of its exp and tanh are others. Layers and sums
over samples pass such differences of 1e-7 on, so that the tolerance of a number
is 1e-4 of it, and ten times as much where a model has been trained.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
BACKENDS = ("jax", "torch")
# Relative to the CPU's number, and absolute, where signals are about 1.
NUMBERS = (1e-4, 1e-5)
TRAINED = (1e-3, 1e-4)
Arrays = dict[str, object]


def check(device: str, tiny: bool = False) -> int:
    """Prints the table of a backend, and returns how many rows have failed.

    Args:
        device: str. The name that Keras has for the device.
        tiny: bool. Whether to run the smallest part of everything.
    """
    import keras

    failed = 0
    print(f"\n{versions()}\nCompared: cpu and {device}\n")
    print("| what | numbers | largest difference, over the tolerance | |")
    print("|---|---|---|---|")
    for name, run, tolerance in comparisons(tiny):
        try:
            with exact_products():
                with keras.device("cpu"):
                    expected = run()
                with keras.device(device):
                    found = run()
            count, share = largest_difference(found, expected, tolerance)
            verdict = "" if share <= 1 else "FAILED"
        except Exception:
            traceback.print_exc()
            count, share, verdict = 0, float("nan"), "FAILED"
        failed += bool(verdict)
        print(f"| {name} | {count} | {share:.2g} | {verdict} |", flush=True)
    print("\n| net | forward | measure, over it |\n|---|---|---|")
    with keras.device(device):
        for name, make, shape in nets(tiny):
            seconds, ratio = times(make, shape, 1 if tiny else 20)
            print(f"| {name} | {1e3 * seconds:.2f} ms | {ratio} |", flush=True)
    print(f"\n{failed} failed")
    return failed


def largest_difference(
    found: Arrays, expected: Arrays, tolerance: tuple[float, float]
) -> tuple[int, float]:
    """How many numbers there are, and the largest difference of two.

    The difference is given as a share of `rtol * abs(expected) + atol`.
    """
    import numpy as np

    assert set(found) == set(expected)
    rtol, atol = tolerance
    count, largest = 0, 0.0
    for key, value in expected.items():
        value, other = np.asarray(value), np.asarray(found[key])
        assert value.shape == other.shape, key
        if value.dtype.kind not in "fiub":
            assert (value == other).all(), key
            continue
        value, other = value.astype(float), other.astype(float)
        same = (value == other) | (np.isnan(value) & np.isnan(other))
        allowed = rtol * abs(value) + atol
        shares = np.where(same, 0, abs(value - other) / allowed)
        count += value.size
        # NaN on one side alone is a difference.
        largest = max(largest, float(np.nan_to_num(shares, nan=np.inf).max()))
    return count, largest


def comparisons(
    tiny: bool,
) -> Iterator[tuple[str, Callable[[], Arrays], tuple[float, float]]]:
    """Each name, what computes the numbers, and the tolerance."""
    import keras_initx as kx
    from tests.helpers import backend_models

    yield "initializers", lambda: drawn(tiny), NUMBERS
    yield "layers", lambda: outputs_of_layers(tiny), NUMBERS
    names = ("shared",) if tiny else tuple(backend_models.MODELS)
    for name in names:
        yield f"measure, {name}", lambda name=name: measured(name), NUMBERS
    name = "shared" if tiny else "wide"
    yield "SampleVarianceDecay in fit", lambda: trained(name), TRAINED
    if "calibrate" in kx.__all__:
        for name in ("shared",) if tiny else ("nested", "convolutional"):
            run = lambda name=name: calibrated(name)  # noqa: E731
            yield f"calibrate, {name}", run, NUMBERS


def drawn(tiny: bool) -> Arrays:
    """Weights, which are also compared with their distribution.

    The generators of PyTorch differ between devices, so that only weights that
    are not random are compared there.
    """
    import keras
    import numpy as np

    from tests.helpers.initializer_rows import BUILT, ROWS

    rows = {k: v for k, v in ROWS.items() if not k.startswith("drawn-")}
    weights = {}
    for name, row in list(rows.items())[: 2 if tiny else None]:
        found = keras.ops.convert_to_numpy(row.make(seed=5)((64, 4096)))
        row.assert_drawn(found, 64)
        if keras.config.backend() != "torch":
            # The largest numbers of a heavy tail are far from 1.
            weights[name] = np.arcsinh(found)
    for name, row in BUILT.items():
        if name.startswith("wave") or keras.config.backend() != "torch":
            made = row.make(seed=5)(row.shape)
            weights[name] = keras.ops.convert_to_numpy(made)
    return weights


def outputs_of_layers(tiny: bool) -> Arrays:
    """The outputs of all layers, which NumPy computes too."""
    import keras
    import numpy as np

    from tests.helpers.layer_rows import ROWS

    x = np.linspace(-1, 1, 32, dtype="float32").reshape(8, 4)
    outputs = {}
    for name, (make, expected) in list(ROWS.items())[: 3 if tiny else None]:
        outputs[name] = keras.ops.convert_to_numpy(make()(x))
        np.testing.assert_allclose(
            outputs[name], expected(x), rtol=1e-4, atol=1e-5, err_msg=name
        )
    return outputs


def measured(name: str) -> Arrays:
    """The columns of a profile, with the gradient."""
    import keras_initx as kx
    from tests.helpers import backend_models

    model, x = backend_models.made(name)
    profile = kx.measure(model, x, gradient=True, batch_size=8)
    return {
        column: getattr(profile, column)
        for column in (*backend_models.COLUMNS, "gradient", "notes")
    }


def trained(name: str) -> Arrays:
    """What the callback has measured in a fit, and the weights at its end."""
    import keras
    import numpy as np

    import keras_initx as kx
    from tests.helpers import backend_models

    model, x = backend_models.made(name)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    decay = kx.callbacks.SampleVarianceDecay(x, update_freq=1, verbose=0)
    model.fit(
        *(x, np.ones((len(x), *model.output_shape[1:]), "float32")),
        **{"batch_size": 6, "epochs": 1, "verbose": 0, "shuffle": False},
        callbacks=[decay],
    )
    totals = [profile.total for profile in decay.profiles]
    assert len(totals) > 2
    return {"totals": np.array(totals), **weights_of(model)}


def calibrated(name: str) -> Arrays:
    """The weights after `calibrate`."""
    import keras_initx as kx
    from tests.helpers import backend_models

    model, x = backend_models.made(name)
    kx.calibrate(model, x)
    return weights_of(model)


def weights_of(model: object) -> Arrays:
    import keras

    return {
        f"{i}": keras.ops.convert_to_numpy(weight)
        for i, weight in enumerate(model.weights)
    }


def nets(tiny: bool) -> Iterator[tuple[str, Callable, tuple[int, ...]]]:
    import keras

    width, samples = (8, 8) if tiny else (4096, 4096)
    channels = 64

    def dense() -> keras.Model:
        layers = [
            keras.layers.Dense(width, "relu", kernel_initializer="he_normal")
            for _ in range(2 if tiny else 20)
        ]
        return keras.Sequential([keras.Input((width,)), *layers])

    def convolutional() -> keras.Model:
        layers = [
            keras.layers.Conv2D(
                channels,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
            )
            for _ in range(10)
        ]
        return keras.Sequential([keras.Input((size, size, channels)), *layers])

    yield f"dense, {width} wide, {samples} samples", dense, (samples, width)
    if tiny:
        return
    size, samples = 32, samples // 8
    name = f"conv, {channels} channels of {size}x{size}, {samples} samples"
    yield name, convolutional, (samples, size, size, channels)


def times(
    make: Callable, shape: tuple[int, ...], rounds: int
) -> tuple[float, str]:
    """Seconds of the forward pass, and the ratio of a measurement to it.

    Products are computed as the backend does by default.
    """
    import keras
    import numpy as np
    import paired
    from backends import compiled_forward

    import keras_initx as kx

    keras.utils.set_random_seed(0)
    model = make()
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    x = keras.ops.convert_to_tensor(x)
    meter, forward = kx.Meter(model), compiled_forward(model)

    def run_forward() -> None:
        forward(x)
        wait()

    ways = {
        "forward": run_forward,
        "measure": lambda: meter(x, batch_size=shape[0]),
    }
    seconds = paired.times(ways, rounds, time.perf_counter)
    ratios = seconds["measure"] / seconds["forward"]
    median = float(np.median(seconds["forward"]))
    return median, paired.median_and_quartiles(ratios)


def wait() -> None:
    """Waits for the GPU; JAX's forward pass has waited."""
    import keras

    if keras.config.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Products in float32, and not in TensorFloat-32."""
    import keras

    if keras.config.backend() == "jax":
        import jax

        with jax.default_matmul_precision("highest"):
            yield
        return
    import torch

    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [each.allow_tf32 for each in backends]
    for each in backends:
        each.allow_tf32 = False
    try:
        yield
    finally:
        for each, value in zip(backends, before, strict=True):
            each.allow_tf32 = value


def versions() -> str:
    """The versions, and the devices that the backend sees."""
    import keras
    import numpy as np
    import scipy

    name = keras.config.backend()
    module = __import__(name)
    if name == "jax":
        devices = [f"{each} ({each.device_kind})" for each in module.devices()]
    else:
        devices = [
            module.cuda.get_device_name(i)
            for i in range(module.cuda.device_count())
        ]
    return (
        f"Python {platform.python_version()}, {name} {module.__version__}, "
        f"Keras {keras.__version__}, NumPy {np.__version__}, "
        f"SciPy {scipy.__version__}\nDevices: {', '.join(devices) or 'CPU'}"
    )


def has_gpu() -> bool:
    """Whether the backend sees a GPU."""
    import keras

    if keras.config.backend() == "jax":
        import jax

        return jax.default_backend() == "gpu"
    import torch

    return torch.cuda.is_available()


def run_backend(options: argparse.Namespace) -> int:
    os.environ["KERAS_BACKEND"] = options.backend
    for name in ("tensorflow", "tensorflow_probability", "tf_keras"):
        sys.modules[name] = None
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    if options.packages:
        # What is installed comes first.
        sys.path.append(options.packages)
    device = options.device
    if device is None:
        if not has_gpu():
            print(f"\n{versions()}\nNo GPU was seen")
            return 1
        device = "gpu:0"
    return int(check(device, options.tiny) > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--device")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--packages", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.packages:
        return run_backend(options)
    found = [each for each in BACKENDS if importlib.util.find_spec(each)]
    codes = []
    with tempfile.TemporaryDirectory() as packages:
        for wheel in (ROOT / "wheels").glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(packages)
        for backend in [options.backend] if options.backend else found:
            done = subprocess.run(
                [
                    *(sys.executable, __file__, "--backend", backend),
                    *(["--device", options.device] if options.device else []),
                    *(["--tiny"] if options.tiny else []),
                    *("--packages", packages),
                ]
            )
            codes.append(done.returncode)
    if not codes:
        print("Neither JAX nor PyTorch is installed")
    return int(not codes or any(codes))


if __name__ == "__main__":
    sys.exit(main())
