"""A network measured on data, and the files that tell of it."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import keras
import numpy as np

from keras_initx import theory
from keras_initx.files import write_whole
from keras_initx.profile import VarianceProfile

# Scaling the weights scales every layer alike: the decay does not see it.
SCALE_FREE = ("linear", "relu", "leaky_relu")
# Their weights are random and all alike, as theory takes them to be.
RANDOM = (
    keras.initializers.Orthogonal,
    keras.initializers.RandomNormal,
    keras.initializers.RandomUniform,
    keras.initializers.TruncatedNormal,
    keras.initializers.VarianceScaling,
)
ACTIVATIONS = (
    *SCALE_FREE,
    *("tanh", "gelu", "silu", "elu", "selu", "softplus"),
)


def plain_network(
    inputs: int,
    depth: int,
    width: int,
    activation: str,
    initializer: str | None,
) -> keras.Model:
    """Dense layers 0 to `depth`, zero biases, and nothing else.

    Without `initializer` the first layer keeps the mean square of its input
    and the others the variance of the pre-activations: weights are normal of
    variance 1/fan_in, then critical_gain/fan_in. Set `keras`'s random seed to
    get the same network again; no two layers are equal.
    """

    def kernel(layer: int) -> keras.Initializer:
        if initializer is not None:
            return keras.initializers.get(initializer)
        gain = theory.critical_gain(activation) if layer else 1.0
        return keras.initializers.VarianceScaling(
            gain, mode="fan_in", distribution="untruncated_normal"
        )

    layers = [
        keras.layers.Dense(
            width,
            activation,
            kernel_initializer=kernel(layer),
            name=f"layer_{layer}",
        )
        for layer in range(depth + 1)
    ]
    return keras.Sequential([keras.Input((inputs,)), *layers])


def expected_profile(
    measured: VarianceProfile, activation: str, initializer: str | None
) -> VarianceProfile | None:
    """What theory says of a plain network, from its measured first layer on.

    None where theory does not speak: it is for random weights, and takes total
    variance one, which only the default initializer keeps, unless the
    activation does not mind.
    """
    if initializer is not None and not (
        activation in SCALE_FREE
        and isinstance(keras.initializers.get(initializer), RANDOM)
    ):
        return None
    if not np.isfinite(measured.decay[0]):
        return None
    first = float(measured.decay[0])
    return theory.sample_variance_decay(
        len(measured) - 1, activation, initial_correlation=1 - first
    )


def load_data(source: str) -> np.ndarray | dict[str, np.ndarray]:
    """`digits`, or the array or arrays in a NumPy file.

    Raises:
        ValueError: The file is none, or holds pickled objects.
        ImportError: scikit-learn is not installed, for the digits.
    """
    if source == "digits":
        return digits()
    path = Path(source)
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(
            'data must be "digits" or a .npy or .npz file. '
            f"Received: data={source}"
        )
    if not path.is_file():
        raise ValueError(f"data must be a file. Received: data={source}")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"data must be a NumPy file of numbers. Received: data={source} "
            f"({error})"
        ) from error
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    return arrays


def digits() -> np.ndarray:
    """1797 real handwritten digits of 8 by 8 pixels, mean 0 and variance 1."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The digits come with scikit-learn: "
            'pip install "keras-initx[examples]", or give --data a file'
        ) from error
    pixels = load_digits().data
    return ((pixels - pixels.mean()) / pixels.std()).astype("float32")


def load_model(source: str) -> keras.Model:
    """The model in a `.keras` file, without running code that is in it.

    Raises:
        ValueError: The file is none, or needs such code.
    """
    path = Path(source)
    if path.suffix != ".keras" or not path.is_file():
        raise ValueError(
            f"model must be a .keras file. Received: model={source}"
        )
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise ValueError(
            f"model must load without code of its own. Received: "
            f"model={source} ({error})"
        ) from error


def fitted(
    data: np.ndarray | dict[str, np.ndarray], model: keras.Model
) -> np.ndarray | dict[str, np.ndarray]:
    """The digits as the model takes them: flat, as an image, with a channel."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(data, np.ndarray) or not isinstance(shape, tuple):
        return data
    wanted = shape[1:]
    if None in wanted or data.shape[1:] == wanted:
        return data
    if data.shape[1:] == (64,) and wanted in [(8, 8), (8, 8, 1)]:
        return data.reshape(-1, *wanted)
    raise ValueError(
        f"data must have the shape of the model's input, {shape}. "
        f"Received: data of shape {data.shape}"
    )


def write(
    folder: Path, profile: VarianceProfile, expected: VarianceProfile | None
) -> list[Path]:
    """Write profile.json, decay.csv and decay.png; return their paths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        folder / name for name in ("profile.json", "decay.csv", "decay.png")
    ]
    profile.save(paths[0])
    write_whole(paths[1], _csv(profile, expected).encode())
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    profile.plot(expected, ax=figure.subplots())
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    write_whole(paths[2], image.getvalue())
    return paths


def _csv(profile: VarianceProfile, expected: VarianceProfile | None) -> str:
    columns = {
        "layer": profile.layers,
        "units": profile.units.tolist(),
        "sample_variance": profile.sample_variance.tolist(),
        "squared_mean": profile.squared_mean.tolist(),
        "decay": profile.decay.tolist(),
        "relative": profile.relative.tolist(),
    }
    if expected is not None:
        columns["expected"] = expected.decay.tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
