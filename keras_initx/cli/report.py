"""The files of the command line: data and a model in, a report out."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from keras_initx.cli.errors import one_line
from keras_initx.profile import VarianceProfile
from keras_initx.profile.display import png
from keras_initx.profile.files import write_whole

FILES = ("profile.json", "profile.csv", "profile.png")


def load_data(source: str) -> np.ndarray | dict[str, np.ndarray]:
    """`digits`, or the array or arrays in a NumPy file.

    Raises:
        ValueError: The file is none, or holds anything but real numbers and
            text.
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
        raise ValueError(
            f"data must be a file. Received: data={source}, which is none"
        )
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
        # What a .npz holds that is no array comes as bytes.
        kind = array.dtype.kind if isinstance(array, np.ndarray) else "O"
        if kind not in "biufSU" or array.ndim == 0:
            received = f"{array.dtype}" if kind != "O" else "no array"
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


def as_vectors(data: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
    """Each sample of `data` as a vector, for dense layers."""
    if not isinstance(data, np.ndarray):
        raise ValueError(
            "data of the plain network must be one array, so leave the others "
            f"out of the file. Received: arrays {', '.join(data)}"
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
    wrong = None
    if path.suffix != ".keras":
        wrong = "which has another ending"
    elif not path.is_file():
        wrong = "which is no file"
    elif not zipfile.is_zipfile(path):
        wrong = "which is no zip archive, or not all of one"
    if wrong:
        raise ValueError(
            "model must be a .keras file, as model.save writes it. "
            f"Received: model={source}, {wrong}"
        )
    try:
        with _deep_recursion():
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise ValueError(
            "model must load, and without code of its own. Received: "
            f"model={source} ({one_line(error)})"
        ) from error


@contextlib.contextmanager
def _deep_recursion() -> Iterator[None]:
    # Keras walks a functional model one call deeper for every layer.
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 100_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def fitted(
    data: np.ndarray | dict[str, np.ndarray], model: keras.Model, source: str
) -> np.ndarray | dict[str, np.ndarray]:
    """`data` in the shape that the model's one input has.

    Vectors are laid out as the input is, and the reverse; axes of length one,
    such as the channel of a grey image, are added or left out.

    Raises:
        ValueError: The numbers of a sample are not as many as the input's, or
            their order would be a guess.
    """
    shape = getattr(model, "input_shape", None)
    if not isinstance(data, np.ndarray) or not isinstance(shape, tuple):
        return data
    given, wanted = data.shape[1:], shape[1:]
    if None in wanted:
        grey = wanted[-1] == 1 and len(given) == len(wanted) - 1
        return data[..., None] if grey else data
    same_but_for_ones = [n for n in given if n != 1] == [
        n for n in wanted if n != 1
    ]
    flat = 1 in (len(given), len(wanted))
    if math.prod(given) == math.prod(wanted) and (flat or same_but_for_ones):
        return data.reshape(len(data), *wanted)
    raise ValueError(
        f"data must have the shape of the model's input, {shape}. "
        f"Received: data={source} of shape {data.shape}"
    )


def check_folder(folder: Path) -> None:
    """Refuse, before any work is done, a folder that cannot be written to."""
    there = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
    try:
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        raise ValueError(
            "out must be a folder that can be written to. "
            f"Received: out={folder}, where {there} is none ({error.strerror})"
        ) from error
    for name in FILES:
        if (folder / name).is_dir():
            raise ValueError(
                f"out must have room for the file {name}. "
                f"Received: out={folder}, where {name} is a folder"
            )


def write(
    folder: Path,
    profile: VarianceProfile,
    expected: VarianceProfile | None,
    title: str,
) -> list[Path]:
    """Writes profile.json, profile.csv and profile.png; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in FILES]
    profile.save(paths[0])
    write_whole(paths[1], _csv(profile, expected).encode())
    # The font need not have every sign, and a "$" here is no mathematics.
    title = title.encode("ascii", "replace").decode()
    write_whole(
        paths[2],
        png(
            lambda ax: profile.plot(expected, ax).set_title(
                title, fontsize="medium", parse_math=False
            )
        ),
    )
    return paths


def _csv(profile: VarianceProfile, expected: VarianceProfile | None) -> str:
    columns = {
        "layer": profile.layers,
        "units": profile.units.tolist(),
        "sample_variance": profile.sample_variance.tolist(),
        "squared_mean": profile.squared_mean.tolist(),
        "sample_fraction": profile.sample_fraction.tolist(),
        "decay": profile.decay.tolist(),
    }
    if expected is not None:
        columns["expected"] = expected.sample_fraction.tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
