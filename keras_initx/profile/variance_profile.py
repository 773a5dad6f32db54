"""`VarianceProfile`, the record that theory and measurement both return."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from keras_initx.profile import display
from keras_initx.profile.files import write_whole
from keras_initx.profile.verdict import (
    GOOD_FRACTION,
    GOOD_TOTAL,
    ROLES,
    Verdict,
    first_reached,
    verdict,
)
from keras_initx.validation import (
    check_instance,
    did_you_mean,
    is_int,
    refuse,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("sample_variance", "squared_mean", "units")
# The columns that are NaN where nothing was measured.
_SHARES = ("dead_fraction", "saturated_fraction")
_OPTIONAL = ("gradient", *_SHARES)


class Row(NamedTuple):
    """The values of one layer in a `VarianceProfile`.

    Args:
        layer: str. The layer's name.
        units: int or float. Number of output elements that were averaged over.
        sample_variance: float. v^2.
        squared_mean: float. m^2.
        total: float. m^2 + v^2.
        sample_fraction: float. v^2 / (m^2 + v^2).
        decay: float. `sample_fraction` over that of the first layer where it
            is positive.
        dead_fraction: float. Share of dead units, NaN if not measured.
        saturated_fraction: float. Share of saturated units, NaN if not
            measured.
        gradient: float. Mean square of the gradient, NaN if not known.
        gradient_ratio: float. `gradient` over that of the last layer.
        note: str. What a reader should know of the row, or "".
    """

    layer: str
    units: float
    sample_variance: float
    squared_mean: float
    total: float
    sample_fraction: float
    decay: float
    dead_fraction: float
    saturated_fraction: float
    gradient: float
    gradient_ratio: float
    note: str


@dataclass(frozen=True, eq=False, repr=False)
class VarianceProfile:
    """How much of a signal, and of its differences, reaches each layer.

    For one fixed network, let `y` be a pre-activation of a layer and `<.>` the
    average over input samples. The row of a layer holds, averaged over the
    layer's units,

        v^2 = <(y - <y>)^2>     sample_variance: differs between samples
        m^2 = <y>^2             squared_mean: is common to all samples
        v^2 + m^2 = <y^2>       total: the mean square of the signal

    and three ratios of them,

        sample_fraction = v^2 / (m^2 + v^2)
        signal_total    = total / total[first]
        decay           = sample_fraction / sample_fraction[first]

    A profile may hold the mean square of the gradient at each layer too, with

        gradient_ratio  = gradient / gradient[last]

    `sample_fraction` is one minus the mean correlation of two samples. `first`
    is the first row that samples reach, which has a positive
    `sample_fraction`. It is row 0 unless the first layers have outputs that
    are zero or equal for all samples, such as position embeddings.

    Both `signal_total` and `sample_fraction` are needed to tell whether a
    network will train. For the last layer of a network that is not trained,

        signal_total < 1e-4       the signal vanishes
        signal_total > 1e4        the signal explodes
        sample_fraction < 0.2     the differences between samples fade: the
                                  network trains, but worse
        sample_fraction < 0.02    they are lost, as they are after more than 30
                                  layers below 0.2
        otherwise                 the signal lives

    and where the gradient is known, it vanishes where that of the first layer
    is below 1e-4 times that of the last but one, and explodes above 1e4 times.
    `recommend` has the same ranges.

    A `sample_fraction` of 1 is no aim in itself: 30 relu layers that
    `calibrate` brings to 1 train worse than those of He initialization with
    0.1, and those much worse than residual branches with 0.4. `verdict` says
    in a sentence which of these holds, and from which layer on; `print` shows
    it under the table.

    `profile["dense_3"]` and `profile[3]` return the row of one layer.

    `keras_initx.measure` returns a profile for a model and data, and
    `keras_initx.theory.sample_variance_decay` one for an infinitely wide
    network. Theory stores the mean *covariance* of two samples in
    `squared_mean`, which may be negative. A measured value never is.

    Args:
        layers: Sequence of str. Layer names, in the order in which the layers
            ran.
        sample_variance: Array of shape `(layers,)`, finite and not negative.
        squared_mean: Array of shape `(layers,)`, finite.
        units: Array of shape `(layers,)`. Number of output elements of each
            layer that were averaged over, `inf` in the infinite-width theory.
        dead_fraction: Array of shape `(layers,)`, in [0, 1]. The share of a
            layer's units that are constant over all samples after the
            activation, NaN where that was not measured. Defaults to NaN in
            every row.
        saturated_fraction: Array of shape `(layers,)`, in [0, 1]. The share of
            a layer's outputs, over units and samples, that are near a bound of
            the activation, NaN where that was not measured. Defaults to NaN in
            every row.
        gradient: Array of shape `(layers,)`, not negative. The mean square,
            over units and samples, of the gradient at each layer's
            pre-activation, for a gradient at the last layer of independent
            standard normal numbers, or of a loss. NaN where it is not known.
            Defaults to NaN in every row.
        notes: Sequence of str. What a reader should know of each row, "" where
            there is nothing to say. Defaults to "" in every row.
        remarks: Sequence of str. What a reader should know of the whole
            profile. Defaults to none.
        roles: Sequence of str. What each row is for `verdict`: "signal", the
            "table" of an embedding, "scores" for the queries and keys of
            attention, or "zeros" for a kernel of zeros that not only another
            such kernel feeds. Defaults to "signal" in every row.
        white_noise: bool. Whether the samples are white noise: independent
            numbers of mean 0. Positions of it, such as pixels, become alike
            behind pooling and sums over positions, so that the sample fraction
            then says nothing about data. Defaults to False.

    Raises:
        ValueError: If the arrays differ in length, or hold values that no
            network has.

    Example:

    >>> profile = VarianceProfile(["a", "b"], [1.0, 0.5], [1.0, 1.5], [64, 64])
    >>> profile.sample_fraction
    array([0.5 , 0.25])
    >>> profile.decay
    array([1. , 0.5])
    >>> profile["b"].squared_mean
    1.5
    >>> print(profile.verdict)  # doctest: +ELLIPSIS
    The signal lives: at b its mean square is 1 times that of a, ...

    Reference: Luther & Seung, Physical Review Research 2, 033135 (2020),
    arXiv:1902.04942 (m^2, v^2 and their sum). The ratios and their ranges are
    introduced here.
    """

    layers: Sequence[str]
    sample_variance: np.ndarray
    squared_mean: np.ndarray
    units: np.ndarray
    _: dataclasses.KW_ONLY
    dead_fraction: np.ndarray = None  # type: ignore[assignment]
    saturated_fraction: np.ndarray = None  # type: ignore[assignment]
    gradient: np.ndarray = None  # type: ignore[assignment]
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    roles: Sequence[str] = ()
    white_noise: bool = False
    # Whether sample_variance and squared_mean may be NaN.
    _may_be_unknown: ClassVar[bool] = False

    def __post_init__(self) -> None:
        layers = tuple(str(name) for name in self.layers)
        if isinstance(self.layers, (str, bytes)) or not layers:
            refuse(
                "layers must be a list of names, of at least one layer.",
                layers=self.layers,
            )
        object.__setattr__(self, "layers", layers)
        for column in (*_COLUMNS, *_OPTIONAL):
            values = getattr(self, column)
            if values is None and column in _OPTIONAL:
                values = np.full(len(layers), np.nan)
            values = _checked_column(
                column, values, len(layers), self._may_be_unknown
            )
            values.setflags(write=False)
            object.__setattr__(self, column, values)
        # Theory subtracts two numbers near one, so zero may come out as -1e-17.
        _require("total", self.total, ~(self.total < -1e-12), "not negative")
        for column in ("notes", "remarks"):
            texts = _checked_texts(column, getattr(self, column))
            object.__setattr__(self, column, texts)
        if not self.notes:
            object.__setattr__(self, "notes", ("",) * len(layers))
        roles = tuple(self.roles) or ("signal",) * len(layers)
        if len(roles) != len(layers) or not set(roles) <= set(ROLES):
            refuse(
                f"roles must hold one of {ROLES} for each of the "
                f"{len(layers)} layers.",
                roles=self.roles,
            )
        object.__setattr__(self, "roles", roles)
        if len(self.notes) != len(layers):
            raise ValueError(
                f"notes must hold one text for each of the {len(layers)} "
                f"layers. Received: {len(self.notes)} notes"
            )

    @property
    def total(self) -> np.ndarray:
        """Mean square of the pre-activations, m^2 + v^2, shape `(layers,)`."""
        return self.sample_variance + self.squared_mean

    @property
    def sample_fraction(self) -> np.ndarray:
        """Fraction of the total that differs between samples, `(layers,)`.

        It is v^2 / (m^2 + v^2), one minus the mean correlation of two samples:
        1 where samples have nothing in common, 0 where the layer returns the
        same for all of them, and NaN where the layer's output is all zero.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.sample_variance / self.total

    @property
    def signal_total(self) -> np.ndarray:
        """`total` relative to the first layer's, shape `(layers,)`.

        The first layer is the first one that samples reach, or if there is
        none, the first one with a positive total. Without such a layer all
        values are NaN.
        """
        first = first_reached(self.sample_fraction)
        if first is None:
            first = first_reached(self.total)
        return self.total / (np.nan if first is None else self.total[first])

    @property
    def decay(self) -> np.ndarray:
        """`sample_fraction` relative to the first layer's, shape `(layers,)`.

        The first layer is the first one that samples reach, which has a
        positive `sample_fraction`. Where no layer has one, all values are NaN.
        """
        fraction = self.sample_fraction
        first = first_reached(fraction)
        return fraction / (np.nan if first is None else fraction[first])

    @property
    def gradient_ratio(self) -> np.ndarray:
        """`gradient` relative to the last layer's, shape `(layers,)`.

        The last layer is the last one whose gradient is known. Where that is
        zero, or no gradient is known, all values are NaN.
        """
        known = np.flatnonzero(~np.isnan(self.gradient))
        last = self.gradient[known[-1]] if len(known) else np.nan
        return self.gradient / (last if last > 0 else np.nan)

    @property
    def verdict(self) -> Verdict:
        """What the profile says about the network, with the ranges above.

        `verdict.sentence`, which `print` shows, says whether the signal or
        the gradient vanishes or explodes, or the signal loses its differences
        or lives, and from which layer on; `verdict.state` is that word. Rows
        whose total is not known, as a prediction may have them, are skipped.
        """
        (known,) = np.nonzero(~np.isnan(self.total))
        return verdict(
            tuple(self.layers[int(i)] for i in known),
            self.total[known],
            self.sample_fraction[known],
            self.dead_fraction[known],
            self.gradient[known],
            not self.is_noise_of_positions,
            tuple(self.roles[int(i)] for i in known),
        )

    @property
    def is_noise_of_positions(self) -> bool:
        """Whether it is for white noise of several positions."""
        return self.white_noise

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer: str | int) -> Row:
        """Returns the row of a layer.

        Args:
            layer: str or int. The name or the index of the layer.

        Raises:
            KeyError: If no layer has that name, or several have.
            IndexError: If there are fewer layers.
            TypeError: If `layer` is neither a name nor an index.
        """
        i = _row_index(layer, self.layers)
        numbers = {
            name: getattr(self, name)[i].item() for name in Row._fields[1:-1]
        }
        # One NaN for all, so that equal rows compare equal.
        numbers = {
            name: np.nan if np.isnan(value) else value
            for name, value in numbers.items()
        }
        return Row(layer=self.layers[i], note=self.notes[i], **numbers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VarianceProfile):
            return NotImplemented
        texts = ("layers", "notes", "remarks", "roles", "white_noise")
        return all(
            getattr(self, name) == getattr(other, name) for name in texts
        ) and all(
            np.array_equal(
                getattr(self, column), getattr(other, column), equal_nan=True
            )
            for column in (*_COLUMNS, *_OPTIONAL)
        )

    def __repr__(self) -> str:
        ends = [
            f"{name} {values[0]:.4g} at {self.layers[0]!r}, "
            f"{values[-1]:.4g} at {self.layers[-1]!r}"
            for name, values in (
                ("total", self.total),
                ("sample fraction", self.sample_fraction),
            )
        ]
        return (
            f"<{type(self).__name__} of {len(self)} layers: {'; '.join(ends)}>"
        )

    def __str__(self) -> str:
        return f"{self.table()}\n{self.verdict}"

    def table(self, expected: VarianceProfile | None = None) -> str:
        """Returns the profile as an aligned text table.

        Args:
            expected: VarianceProfile or None. A profile with the same number of
                layers, usually from theory or from `predict`. Its `total`,
                its `sample_fraction` and, where it has one, its
                `gradient_ratio` are the columns `expected total`, `expected
                fraction` and `expected gradient ratio`. Defaults to None.

        Returns:
            str. A heading, one line for each layer, and the notes and remarks.

        Raises:
            ValueError: If `expected` has another number of layers.
        """
        table = display.text_table(*self._cells(expected))
        return "\n".join([table, *self._lines()])

    def check_expected(self, expected: VarianceProfile) -> None:
        """Checks that a profile can be compared with this one layer by layer.

        Raises:
            ValueError: If `expected` is not a profile with the same number of
                layers.
        """
        check_instance(
            "expected", expected, VarianceProfile, "a VarianceProfile"
        )
        if len(expected) != len(self):
            raise ValueError(
                f"expected must have as many layers as the profile, "
                f"{len(self)}. "
                f"Received: expected of {len(expected)} layers"
            )

    def _repr_html_(self) -> str:
        lines = [*self._lines(), str(self.verdict)]
        return display.html_table(*self._cells(None)) + "".join(
            f"<p>{html.escape(line)}</p>" for line in lines
        )

    def _lines(self) -> Iterator[str]:
        """What stands under the table."""
        for text, mark in self._marks().items():
            yield f"{mark} {text}"
        yield from self.remarks

    def _marks(self) -> dict[str, str]:
        """The mark in the table of each note."""
        texts = dict.fromkeys(note for note in self.notes if note)
        return {text: f"[{i}]" for i, text in enumerate(texts, 1)}

    def _cells(
        self, expected: VarianceProfile | None
    ) -> tuple[list[str], list[list[str]]]:
        """Returns the headings and the rows of the table."""
        columns = {
            "units": self.units,
            "sample variance": self.sample_variance,
            "squared mean": self.squared_mean,
            "total": self.total,
        }
        if expected is not None:
            self.check_expected(expected)
            columns["expected total"] = expected.total
        columns["sample fraction"] = self.sample_fraction
        if expected is not None:
            columns["expected fraction"] = expected.sample_fraction
        columns["decay"] = self.decay
        cells = {
            name: [display.number(value) for value in values]
            for name, values in columns.items()
        }
        optional = {"gradient": self.gradient}
        # For a gradient that starts with 1 at the last layer both are equal.
        ratio = self.gradient_ratio
        if not np.allclose(ratio, self.gradient, rtol=1e-4, equal_nan=True):
            optional["gradient ratio"] = ratio
        if expected is not None:
            optional["expected gradient ratio"] = expected.gradient_ratio
        for column in _SHARES:
            optional[column.replace("_", " ")] = getattr(self, column)
        for name, values in optional.items():
            if not np.isnan(values).all():
                cells[name] = [
                    "" if np.isnan(value) else display.number(value)
                    for value in values
                ]
        if any(self.notes):
            marks = self._marks()
            cells["note"] = [marks.get(note, "") for note in self.notes]
        rows = zip(self.layers, *cells.values(), strict=True)
        return ["layer", *cells], [list(row) for row in rows]

    def plot(
        self,
        expected: VarianceProfile | None = None,
        ax: Axes | Sequence[Axes] | np.ndarray | None = None,
        *,
        label: str = "measured",
    ) -> Axes | np.ndarray:
        """Plots `signal_total`, `sample_fraction` and `gradient_ratio`.

        The first panel shows `signal_total`, the second one
        `sample_fraction`, and where gradients are known, a third one shows
        `gradient_ratio`, by layer, on logarithmic scales. Shaded are the ranges
        in which the last layer of a network lies that trains well. A cross
        marks a row without a value to show: one that is zero, equal for all
        samples, or not reached by the gradient. Where there are dead units, the
        second panel also shows their share, as a dotted line, unless it is the
        only one.

        Args:
            expected: VarianceProfile or None. A profile to plot as a dashed
                line, usually from theory. Defaults to None.
            ax: Matplotlib axes, two or three of them, or None. One is for
                `sample_fraction` alone, two for the first two panels, and three
                for all, so that several profiles can be plotted on the same
                axes. Defaults to a new figure, with the third panel if the
                profile has gradients.
            label: str. The name of this profile in the legend. Defaults to
                "measured".

        Returns:
            The Matplotlib axes, or an array of them.

        Raises:
            ImportError: If Matplotlib is not installed.
            ValueError: If `expected` has another number of layers, or `ax` is
                something else.
        """
        check_instance("label", label, str, "a str")
        if expected is not None:
            self.check_expected(expected)
        low, high = GOOD_TOTAL
        panels = [
            display.Panel(
                "signal_total",
                "total / first total",
                GOOD_TOTAL,
                f"good: {low:g} to {high:g}",
                "zero",
            ),
            display.Panel(
                "sample_fraction",
                "sample fraction",
                (GOOD_FRACTION, 1.0),
                f"good: {GOOD_FRACTION:g} to 1",
                "equal for all samples",
            ),
            display.Panel(
                "gradient_ratio",
                "gradient / last gradient",
                None,
                "",
                "zero or not reached",
            ),
        ]
        given = display.new_axes(self.panels) if ax is None else ax
        axes = np.asarray(given, dtype=object).ravel()
        counts = range(1, self.panels + 1)
        if len(axes) not in counts or not all(hasattr(a, "plot") for a in axes):
            refuse(
                "ax must be Matplotlib axes or a pair of them, or three for a "
                "profile with gradients.",
                ax=ax,
            )
        shown = panels[1:2] if len(axes) == 1 else panels[: len(axes)]
        for panel, panel_ax in zip(shown, axes, strict=True):
            curves = {label: (getattr(self, panel.column), "-")}
            if expected is not None:
                curves["expected"] = (getattr(expected, panel.column), "k--")
            is_upper = panel_ax is axes[0]
            display.plot_by_layer(panel, curves, panel_ax, with_names=is_upper)
        if len(axes) > 1:
            # A single panel is for several profiles, whose shares would mix.
            display.plot_share(self.dead_fraction, "dead units", axes[1])
        axes[-1].set_xlabel("index of the layer", fontsize="small")
        return axes if len(axes) > 1 else axes[0]

    @property
    def panels(self) -> int:
        """The number of panels of `plot`: 3 with gradients, or else 2."""
        return 2 if np.isnan(self.gradient).all() else 3

    def to_dict(self) -> dict[str, Any]:
        """Returns the profile as lists for JSON; infinite units are None.

        The dict has the keys `dead_fraction`, `saturated_fraction`,
        `gradient`, `notes`, `remarks`, `roles` and `white_noise` only where
        they hold something. A value that was not measured is None.
        """

        def with_none(values: np.ndarray, missing: np.ndarray) -> list:
            pairs = zip(values.tolist(), missing, strict=True)
            return [
                None if is_missing else value for value, is_missing in pairs
            ]

        config: dict[str, Any] = {
            "layers": list(self.layers),
            "sample_variance": with_none(
                self.sample_variance, np.isnan(self.sample_variance)
            ),
            "squared_mean": with_none(
                self.squared_mean, np.isnan(self.squared_mean)
            ),
            "units": with_none(self.units, np.isinf(self.units)),
        }
        for column in _OPTIONAL:
            values = getattr(self, column)
            if not np.isnan(values).all():
                config[column] = with_none(values, np.isnan(values))
        if any(self.notes):
            config["notes"] = list(self.notes)
        if self.remarks:
            config["remarks"] = list(self.remarks)
        if set(self.roles) != {"signal"}:
            config["roles"] = list(self.roles)
        if self.white_noise:
            config["white_noise"] = True
        return config

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Creates a profile from the lists that `to_dict` returned.

        Args:
            config: dict. What `to_dict` returned.

        Returns:
            VarianceProfile.

        Raises:
            ValueError: If `config` lacks a column, has one too many, or its
                values are not those of a profile.
        """
        keys = {"layers", *_COLUMNS}
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(config, Mapping) or not keys <= set(config) <= known:
            optional = sorted(known - keys)
            raise ValueError(
                f"config must be a dict with the keys {sorted(keys)} and, "
                f"where they are known, {optional}.{cls._belongs_to(config)} "
                f"Received: config={_short(config)}"
            )
        try:
            units = [np.inf if n is None else n for n in config["units"]]
            return cls(**{**config, "units": units})
        except TypeError as error:
            raise ValueError(
                "config must hold lists of names and numbers. "
                f"Received: config={_short(config)}"
            ) from error

    @classmethod
    def _belongs_to(cls, config: Any) -> str:
        """Says which kind of profile a config is of, if of another."""
        for kind in cls.__subclasses__():
            names = {field.name for field in dataclasses.fields(kind)}
            if isinstance(config, Mapping) and set(config) <= names:
                name = kind.__name__
                return (
                    f" These are the keys of a {name}: read them by "
                    f"{name}.from_dict, and their file by {name}.load."
                )
        return ""

    def save(self, path: str | os.PathLike) -> None:
        """Writes the profile to a JSON file.

        If writing fails, an existing file at `path` is unchanged.

        Args:
            path: str or path-like. The file.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        write_whole(path, text.encode())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Reads a profile from a JSON file that `save` wrote.

        Args:
            path: str or path-like. The file.

        Returns:
            VarianceProfile.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the file does not hold a profile.
        """
        try:
            config = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"path must be a JSON file of a {cls.__name__}. "
                f"Received: path={path}"
            ) from error
        return cls.from_dict(config)


def _short(config: Any) -> str:
    """The keys of a config, or what else it is, without its values."""
    if isinstance(config, Mapping):
        return f"a dict with the keys {reprlib.repr(sorted(map(str, config)))}"
    return reprlib.repr(config)


def _checked_column(
    name: str, column: Any, layers: int, may_be_unknown: bool
) -> np.ndarray:
    """Returns a column as an array with one number for each layer.

    The dtype is float64, or int64 for `units` that are all finite. None stands
    for NaN where a column may hold it.
    """
    try:
        values = np.array(column, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold one number for each layer. "
            f"Received: {name}={column!r}"
        ) from error
    if values.shape != (layers,):
        raise ValueError(
            f"{name} must hold one number for each of the {layers} layers. "
            f"Received: {name} of shape {values.shape}"
        )
    if name == "units":
        whole = (values >= 0) & (values == np.floor(values))
        _require(name, values, whole, "a whole number >= 0")
        return values.astype(np.int64) if np.isfinite(values).all() else values
    if name in _SHARES:
        share = np.isnan(values) | ((values >= 0) & (values <= 1))
        _require(name, values, share, "in [0, 1] or NaN")
        return values
    if name == "gradient":
        known = np.isnan(values) | ((values >= 0) & np.isfinite(values))
        _require(name, values, known, "not negative, or NaN")
        return values
    unknown = np.isnan(values) & may_be_unknown
    _require(name, values, unknown | np.isfinite(values), "finite")
    if name == "sample_variance":
        _require(name, values, ~(values < 0), "not negative")
    return values


def _checked_texts(name: str, texts: Any) -> tuple[str, ...]:
    """Returns texts as a tuple."""
    is_list = isinstance(texts, Sequence) and not isinstance(texts, str)
    if not is_list or not all(isinstance(text, str) for text in texts):
        refuse(f"{name} must be a list of str.", **{name: texts})
    return tuple(texts)


def _require(
    name: str, values: np.ndarray, holds: np.ndarray, condition: str
) -> None:
    """Raises an error with the first value for which `holds` is False."""
    if not holds.all():
        first = int(np.argmin(holds))
        raise ValueError(
            f"{name} must be {condition} in every layer. "
            f"Received: {name}[{first}]={values[first]}"
        )


def _row_index(layer: str | int, names: Sequence[str]) -> int:
    """Returns the index of a layer from its name or its index."""
    if isinstance(layer, str):
        count = names.count(layer)
        if count > 1:
            refuse(
                f"layer must be an index, since {count} layers have this name.",
                KeyError,
                layer=layer,
            )
        if count == 0:
            hint = did_you_mean(layer, names)
            refuse(
                f"layer must be one of {list(names)}.{hint}",
                KeyError,
                layer=layer,
            )
        return names.index(layer)
    if not is_int(layer):
        refuse("layer must be a name or an index.", TypeError, layer=layer)
    if not -len(names) <= layer < len(names):
        refuse(
            f"layer must be an index of the {len(names)} layers.",
            IndexError,
            layer=layer,
        )
    return int(layer)
