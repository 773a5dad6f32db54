"""Reads the data and the model of `keras-initx report`; writes its files."""

from __future__ import annotations

import contextlib
import csv
import importlib
import inspect
import io
import math
import sys
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_initx._startup.arguments import FILES
from keras_initx._startup.errors import one_line
from keras_initx.profile import VarianceProfile
from keras_initx.profile.display import png
from keras_initx.profile.files import write_whole


def load_data(source: str) -> np.ndarray | dict[str, np.ndarray]:
    """Returns the handwritten digits, or the arrays of a file.

    Args:
        source: str. "digits", or the path of a .npy, .npz or .csv file.

    Returns:
        An array, or a dict of arrays if the file holds several.

    Raises:
        ValueError: If the file cannot be read, or holds anything but real
            numbers and text.
        ImportError: If "digits" is requested and scikit-learn is not installed.
    """
    if source == "digits":
        return digits()
    path = Path(source)
    if path.suffix == ".csv":
        return _load_csv(path)
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                loaded = {path.stem: loaded}
            arrays = dict(loaded)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"data must be a NumPy file of numbers. Received: data={source} "
            f"({one_line(error)})"
        ) from error
    for name, array in arrays.items():
        # NumPy returns other members of a .npz file as bytes.
        kind = array.dtype.kind if isinstance(array, np.ndarray) else "O"
        if kind not in "biufSU" or array.ndim == 0:
            received = f"{array.dtype}" if kind != "O" else "not such an array"
            raise ValueError(
                "data must be arrays of real numbers, with the samples along "
                f"the first axis. Received: data={source}, where {name} is "
                f"{received}"
            )
    if not arrays:
        raise ValueError(f"data must hold an array. Received: data={source}")
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    return arrays


def _load_csv(path: Path) -> np.ndarray:
    """Returns the numbers of a .csv file, a sample in each row, in float32.

    A first row that is not of numbers is the header.
    """
    try:
        # Spreadsheets write a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
        rows = [line for line in text.splitlines() if line.strip()]
        if rows and not _is_of_numbers(rows[0]):
            del rows[0]
        if not rows:
            raise ValueError("no row holds numbers")
        return _numbers(rows)
    except ValueError as error:
        raise ValueError(
            "data must be rows of numbers, separated by commas, under one "
            f"header or none. Received: data={path} ({one_line(error)})"
        ) from error


def _numbers(rows: list[str]) -> np.ndarray:
    return np.loadtxt(
        rows,
        dtype="float32",
        delimiter=",",
        comments=None,
        quotechar='"',
        ndmin=2,
    )


def _is_of_numbers(row: str) -> bool:
    try:
        _numbers([row])
    except ValueError:
        return False
    return True


def as_vectors(data: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
    """Returns each sample as a vector, which dense layers need.

    Raises:
        ValueError: If `data` is not one array of numbers with two or more axes.
    """
    if not isinstance(data, np.ndarray):
        raise ValueError(
            "data of the plain network must be one array, in a file without "
            f"others. Received: arrays {', '.join(data)}"
        )
    if data.ndim < 2 or data.dtype.kind in "SU":
        raise ValueError(
            "data of the plain network must be numbers, with the samples "
            "along the first of two or more axes. Received: "
            f"data of dtype {data.dtype} and shape {data.shape}"
        )
    vectors = data.reshape(len(data), math.prod(data.shape[1:]))
    if data.dtype in (np.float32, np.float64):
        return vectors
    return vectors.astype("float32")


def digits() -> np.ndarray:
    """Returns 1797 images of handwritten digits from scikit-learn.

    Each is a vector of 8 by 8 pixels. All pixels together have mean 0 and
    variance 1.
    """
    from sklearn.datasets import load_digits

    pixels = load_digits().data
    return ((pixels - pixels.mean()) / pixels.std()).astype("float32")


def import_modules(names: Sequence[str]) -> dict[str, Any]:
    """Imports modules and returns their classes and functions by name.

    Args:
        names: Sequence of str. Names as in an `import` statement.

    Raises:
        ValueError: If one of them cannot be imported.
    """
    found: dict[str, Any] = {}
    for name in names:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            raise ValueError(
                "import must be the name of a Python module that can be "
                f"imported. Received: import={name} ({one_line(error)})"
            ) from error
        found |= {
            key: value
            for key, value in vars(module).items()
            if inspect.isclass(value) or inspect.isfunction(value)
        }
    return found


def load_model(
    source: str,
    custom_objects: dict[str, Any] | None = None,
    with_optimizer: bool = False,
) -> keras.Model:
    """Loads a saved model without running code stored in it.

    Args:
        source: str. The path of a .keras, .h5 or .hdf5 file.
        custom_objects: dict. Classes and functions that the model needs, by
            name. Defaults to None.
        with_optimizer: bool. Whether to load the optimizer too, which knows
            for how many steps the model was trained, if the file has one that
            can be loaded. Defaults to False.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If the file is not such a model, or needs stored code.
    """
    if with_optimizer:
        # A custom loss, say, need not be known here.
        with contextlib.suppress(Exception):
            return _loaded(source, custom_objects, compile=True)
    try:
        return _loaded(source, custom_objects, compile=False)
    except Exception as error:
        raise ValueError(
            f"{_what_is_missing(source, error)} Received: "
            f"model={source} ({one_line(error)})"
        ) from error


def _loaded(source: str, custom_objects: Any, compile: bool) -> keras.Model:
    with _deep_recursion(), warnings.catch_warnings():
        if compile:
            # Keras warns of an optimizer that it cannot load.
            warnings.simplefilter("ignore")
        return keras.saving.load_model(
            source, custom_objects, compile=compile, safe_mode=True
        )


def _what_is_missing(source: str, error: Exception) -> str:
    """Says what a file that cannot be loaded lacks."""
    text = str(error)
    if source.endswith(".weights.h5") or "No model config" in text:
        return (
            "model must be a whole model, as model.save writes it, and not its "
            "weights alone."
        )
    if "Lambda" in text:
        return (
            "model must be one that Keras loads without stored code, which a "
            "Lambda layer of a Python lambda is: write the layer as a class, "
            "and name its module with --import."
        )
    return (
        "model must be one that Keras loads without stored code; --import "
        "names a module of its custom classes."
    )


@contextlib.contextmanager
def _deep_recursion() -> Iterator[None]:
    """Raises Python's recursion limit inside the context.

    Keras loads a functional model with one more call for every layer.
    """
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 100_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def reshape_to_input(
    data: np.ndarray | dict[str, np.ndarray], model: keras.Model, source: str
) -> np.ndarray | dict[str, np.ndarray]:
    """Returns data in the shape of the model's input.

    Vectors are reshaped to the input's axes and the reverse. Axes of length
    one, such as the channel of a gray image, are added or removed. Data for a
    model with several inputs is returned as it is.

    Args:
        data: Array or dict of arrays.
        model: A `keras.Model`.
        source: str. The name of the data in error messages.

    Raises:
        ValueError: If a sample has another number of elements than the input,
            or the order of its axes is unknown.
    """
    shape = getattr(model, "input_shape", None)
    if not isinstance(data, np.ndarray) or not isinstance(shape, tuple):
        return data
    sample, target = data.shape[1:], shape[1:]
    if None in target:
        lacks_channel = target[-1] == 1 and len(sample) == len(target) - 1
        return data[..., None] if lacks_channel else data
    same_but_for_ones = [n for n in sample if n != 1] == [
        n for n in target if n != 1
    ]
    has_vectors = 1 in (len(sample), len(target))
    if math.prod(sample) == math.prod(target) and (
        has_vectors or same_but_for_ones
    ):
        return data.reshape(len(data), *target)
    raise ValueError(
        f"data must have the shape of the model's input, {shape}. "
        f"Received: data={source} of shape {data.shape}"
    )


def notes_of_shape(given: Any, used: Any) -> list[str]:
    """Returns a note if the shape of the samples was changed."""
    if not isinstance(used, np.ndarray) or given.shape == used.shape:
        return []
    return [
        f"The data of shape {given.shape} was reshaped to {used.shape}, the "
        "input of the model."
    ]


def write_files(
    folder: Path,
    profile: VarianceProfile,
    expected: VarianceProfile | None,
    title: str,
) -> list[Path]:
    """Writes profile.json, profile.csv and profile.png.

    Args:
        folder: Path. The folder, which is created if it does not exist.
        profile: VarianceProfile. The measured profile.
        expected: VarianceProfile or None. The profile from theory.
        title: str. The title of the figure.

    Returns:
        List of Path. The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in FILES]
    profile.save(paths[0])
    write_whole(paths[1], _csv(profile, expected).encode())
    image = png(
        lambda axes: profile.plot(expected, axes), f"{title}\n{profile.verdict}"
    )
    write_whole(paths[2], image)
    return paths


def _csv(profile: VarianceProfile, expected: VarianceProfile | None) -> str:
    columns = {
        "layer": profile.layers,
        "units": profile.units.tolist(),
        "sample_variance": profile.sample_variance.tolist(),
        "squared_mean": profile.squared_mean.tolist(),
        "total": profile.total.tolist(),
        "sample_fraction": profile.sample_fraction.tolist(),
        "decay": profile.decay.tolist(),
        "dead_fraction": profile.dead_fraction.tolist(),
        "saturated_fraction": profile.saturated_fraction.tolist(),
        "note": profile.notes,
    }
    if expected is not None:
        columns["expected"] = expected.sample_fraction.tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
