"""What a profile says about a network, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# The last layer's total over the first one's: outside of this range networks
# train badly or not at all.
GOOD_TOTAL = (1e-4, 1e4)
# The last layer's sample fraction: from the first number on differences are
# kept. Below the second there is little to learn from, and where a fraction
# below the first one lasts for many layers.
GOOD_FRACTION = 0.2
LOST_FRACTION = 0.02
MANY_LAYERS = 30
# The same in words, for places without a docstring.
RANGES = {
    "signal_total": (
        f"good at the start of a training from {GOOD_TOTAL[0]:g} to "
        f"{GOOD_TOTAL[1]:g}; below, the signal vanishes, and above, it "
        "explodes."
    ),
    "sample_fraction": (
        f"good at the start of a training from {GOOD_FRACTION:g} on; below, "
        "the differences between samples fade, and they are lost below "
        f"{LOST_FRACTION:g} or after more than {MANY_LAYERS} such layers."
    ),
}
# What a row may be: the signal, the output of a table of embeddings, the
# queries and keys of attention, or the output of a kernel of zeros that more
# than zeros enter.
ROLES = ("signal", "table", "scores", "zeros")
# A mean square. Far below it, the squares of a layer's units underflow in
# float32.
SMALLEST_TOTAL = 1e-32
# A sample fraction near 1 in so many rows is no merit.
_ALL, _DEEP = 0.99, 20


class Verdict(NamedTuple):
    """What a profile says about a network before it is trained.

    Attributes:
        state: str. "vanishes", "explodes", "dies", "loses its differences",
            "gradient vanishes", "gradient explodes", "fades" or "lives".
        sentence: str. The state, where it begins, and the numbers behind it.
    """

    state: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def first_reached(sample_fraction: np.ndarray) -> int | None:
    """Returns the first row that samples reach, None if there is none.

    It is the first row with a positive sample fraction. A row of an output
    that is zero or equal for all samples, such as position embeddings, has
    none, and no ratio refers to it.
    """
    reached = np.flatnonzero(sample_fraction > 0)
    return int(reached[0]) if len(reached) else None


def verdict(
    layers: Sequence[str],
    total: np.ndarray,
    sample_fraction: np.ndarray,
    dead_fraction: np.ndarray,
    gradient: np.ndarray | None = None,
    judges_samples: bool = True,
    roles: Sequence[str] | None = None,
) -> Verdict:
    """Returns what the rows of a profile say about a network.

    The first row is the first one that samples reach, `total` the mean square,
    and the first condition that holds decides. Tables of embeddings are left
    out, since their scale is that of no signal, and so are last rows of kernels
    of zeros, as usual heads that start at zero: `judged` says which rows count.
    A kernel of zeros that only another one feeds is no head, but a "signal"
    that vanishes, since neither of the two is ever trained.

        dies         all units of the last row that samples reach are dead
        vanishes     the total is 0, or below 1e-32, at the last row
        loses ...    the last row is equal for all samples
        vanishes     total[last] / total[first] < 1e-4
        explodes     total[last] / total[first] > 1e4
        loses ...    sample_fraction[last] < 0.02, or sample_fraction < 0.2
                     in each of the last 31 rows or more
        gradient vanishes    gradient[first] / gradient[last but one] < 1e-4
        gradient explodes    gradient[first] / gradient[last but one] > 1e4
        fades        sample_fraction[last] < 0.2
        lives        otherwise

    A last row whose total is out of range, where it would not be if the total
    went on as in the rows before, does not decide: it is a head that is drawn
    on its own scale, or that follows residual branches whose weights are scaled
    down. So `drift` is judged, and `gradient_growth`, as in `recommend`.

    The ranges are a rule of thumb, which says nothing of networks that are
    trained already. They come from plain networks of layers of 128 relu units,
    which Adam trains on images of digits for a few epochs. With 30 layers, the
    accuracy is 0.77 where the total stays near 1, 0.67 where it ends at 1e-2,
    0.61 at 1e-4, 0.47 at 1e-6 and that of a guess at 1e-12; 0.78 at 1e2 and
    0.70 at 1e4 (`benchmarks/first_aid.py --totals`). With weights of He
    initialization the sample fraction ends near 0.1 at 30 layers as at 100,
    since narrow layers keep more than theory predicts: the accuracy is 0.77
    with 30 layers, and that of a guess with 100. Hence the number of layers.

    Args:
        layers: Sequence of str. The names of the rows.
        total: Array of shape `(layers,)`.
        sample_fraction: Array of shape `(layers,)`. NaN where it is not known,
            or the total is 0.
        dead_fraction: Array of shape `(layers,)`, NaN where not measured.
        gradient: Array of shape `(layers,)`, NaN where it is not known.
            Defaults to not known.
        judges_samples: bool. Whether the sample fraction says something about
            the network. Defaults to True.
        roles: Sequence of str. What each row is, one of `ROLES`. Defaults to
            "signal" in every row.

    Returns:
        A `Verdict`.

    Example:

    >>> total, dead = np.array([1, 1e-3, 1e-6]), np.full(3, np.nan)
    >>> found = verdict("abc", total, np.array([0.4, 0.3, 0.2]), dead)
    >>> found.state
    'vanishes'
    >>> print(found)  # doctest: +ELLIPSIS
    The signal vanishes: its mean square is multiplied by 0.001 in each ...

    Reference: derived here, from the figures in the benchmarks.
    """
    roles = roles or ("signal",) * len(layers)
    rows = judged(roles)
    if len(rows) < len(layers):
        found = verdict(
            [layers[i] for i in rows],
            total[rows],
            sample_fraction[rows],
            dead_fraction[rows],
            None if gradient is None else gradient[rows],
            judges_samples,
            # A table or a head that is left is judged as it is.
            [
                "signal" if roles[i] in ("table", "zeros") else roles[i]
                for i in rows
            ],
        )
        heads = [name for name in layers[rows[-1] + 1 :]]
        if not heads or roles[-1] != "zeros":
            return found
        return found._replace(
            sentence=f"{found.sentence} Behind it {heads[0]} starts at zero, "
            "as a head may: its output is the same for all samples until it "
            "is trained."
        )
    seen = np.flatnonzero(total > SMALLEST_TOTAL)
    if not len(seen):
        return Verdict(
            "vanishes", f"The signal vanishes: in every layer it is {_ZERO}."
        )
    # Where it is not known, a prediction has a total all the same.
    unknown = np.isnan(sample_fraction) & (total > SMALLEST_TOTAL)
    reached = np.flatnonzero((sample_fraction > 0) | unknown)
    if not len(reached):
        return Verdict(
            _LOSES,
            "The signal loses its differences: every layer returns the same "
            "for all samples.",
        )
    first, last = int(reached[0]), int(reached[-1])
    if dead_fraction[last] == 1:
        return Verdict(
            "dies",
            f"The signal dies: all units of {layers[last]} are constant over "
            "the samples, behind its activation.",
        )
    if seen[-1] + 1 < len(total):
        return Verdict(
            "vanishes",
            f"The signal vanishes: from {layers[seen[-1] + 1]} on it is "
            f"{_ZERO}.",
        )
    if last + 1 < len(total):
        return Verdict(
            _LOSES,
            f"The signal loses its differences: from {layers[last + 1]} on "
            "every layer returns the same for all samples.",
        )
    growth = None
    if gradient is not None:
        kinds = [roles[int(i)] for i in reached]
        growth = gradient_growth(gradient[reached], kinds)
    fraction = sample_fraction if judges_samples else None
    return _by_range(layers, total / total[first], fraction, first, growth)


def judged(roles: Sequence[str]) -> list[int]:
    """Returns the rows of a profile by which a network is judged.

    Tables of embeddings and last rows of kernels of zeros are left out, unless
    there are no other rows.

    Args:
        roles: Sequence of str. What each row is, one of `ROLES`.

    Example:

    >>> judged(["table", "signal", "zeros", "signal", "zeros", "zeros"])
    [1, 2, 3]
    >>> judged(["table", "zeros"])
    [0]

    Reference: derived here.
    """
    end = len(roles)
    while end > 1 and roles[end - 1] == "zeros":
        end -= 1
    rows = [i for i in range(end) if roles[i] != "table"]
    return rows or list(range(end))


def drift(total: np.ndarray) -> float:
    """Returns how the total of the last row stands to that of the first one.

        total[last] / total[first]    or
        (total[last but one] / total[first])^(last / (last - 1))

    whichever is nearer to 1. The second one is where the last row would be if
    the total went on as before it.

    Args:
        total: Array of shape `(layers,)`, whose first number is positive.

    Reference: derived here.
    """
    steps = len(total) - 1
    ends = [float(total[-1] / total[0])]
    if steps > 1:
        ends.append(float(total[-2] / total[0]) ** (steps / (steps - 1)))
    with np.errstate(divide="ignore"):
        return ends[int(np.argmin(np.abs(np.log(ends))))]


def gradient_growth(gradient: np.ndarray, roles: Sequence[str]) -> float | None:
    """Returns the gradient at the first row over that at the last but one.

    The gradient at the last row is given, whatever the scale of that row. With
    two rows it is taken all the same, and with fewer there is no ratio. The
    queries and keys of attention are left out: their gradient is that of the
    scores, which is small by itself, and no part of the way back.

    Args:
        gradient: Array of shape `(layers,)`. Rows where it is not positive, or
            not known, are left out.
        roles: Sequence of str. What each row is, one of `ROLES`.

    Reference: derived here.
    """
    on_the_way = [role != "scores" for role in roles]
    known = gradient[(gradient > 0) & np.array(on_the_way, dtype=bool)]
    if len(known) < 2:
        return None
    return float(known[0] / known[-2 if len(known) > 2 else -1])


_ZERO = "zero, or too small to be squared in float32"
_LOSES = "loses its differences"


def _by_range(
    layers: Sequence[str],
    ratio: np.ndarray,
    fraction: np.ndarray | None,
    first: int,
    growth: float | None,
) -> Verdict:
    low, high = GOOD_TOTAL
    start, end = layers[first], layers[-1]
    steps = max(1, len(layers) - 1 - first)
    rate = ratio[-1] ** (1 / steps)
    at_end = drift(ratio[first:])
    if at_end < low:
        return Verdict(
            "vanishes",
            f"The signal vanishes: its mean square is multiplied by "
            f"{rate:.2g} in each layer, {ratio[-1]:.1g} of it reaches {end}, "
            f"and less than {low:g} from {layers[_since(ratio < low)]} on.",
        )
    if at_end > high:
        return Verdict(
            "explodes",
            f"The signal explodes: its mean square is multiplied by "
            f"{rate:.2g} in each layer, to {ratio[-1]:.1g} times that of "
            f"{start} at {end}, and is above {high:g} times from "
            f"{layers[_since(ratio > high)]} on.",
        )
    backward = None
    if growth is not None and not low <= growth <= high:
        word = "vanishes" if growth < low else "explodes"
        backward = Verdict(
            f"gradient {word}",
            f"The gradient {word}: on the way back from the layers before "
            f"{end} to {start} its mean square is multiplied by {growth:.1g}, "
            f"while that of the signal is {ratio[-1]:.2g} times as large at "
            f"{end} as at {start}.",
        )
    # With one row there is nothing to compare it with.
    alone = first == len(layers) - 1
    lives = (
        f"The signal lives: {end} is the only layer that is judged"
        if alone
        else f"The signal lives: at {end} its mean square is {ratio[-1]:.2g} "
        f"times that of {start}"
    )
    if fraction is None or np.isnan(fraction[-1]):
        if backward is not None:
            return backward
        return Verdict(
            "lives",
            f"{lives}. How much of it differs between samples is "
            + (
                "not judged, since positions of white noise become alike."
                if fraction is None
                else "not known."
            ),
        )
    if fraction[-1] < GOOD_FRACTION:
        since = _since(~(fraction >= GOOD_FRACTION))
        many = len(layers) - since > MANY_LAYERS
        state, head = (
            (_LOSES, "The signal loses its differences")
            if many or fraction[-1] < LOST_FRACTION
            else ("fades", "The differences between samples fade")
        )
        if state == "fades" and backward is not None:
            return backward
        begins = (
            "the data are as alike"
            if since <= first
            else f"it is below {GOOD_FRACTION} from {layers[since]} on"
        )
        after = "" if alone else f", after {fraction[first]:.2g} at {start}"
        return Verdict(
            state,
            f"{head}: only {fraction[-1]:.2g} of the mean square differs "
            f"between samples at {end}{after}; {begins}.",
        )
    if backward is not None:
        return backward
    what = "its mean square" if alone else "it"
    text = f"{lives}, and {fraction[-1]:.2g} of {what} differs between samples"
    if (fraction[first:] > _ALL).all() and steps >= _DEEP:
        text += (
            ", which is no aim in itself: deep relu networks that are "
            "calibrated to 1 train worse than those with residual branches"
        )
    return Verdict("lives", text + ".")


def _since(holds: np.ndarray) -> int:
    """The first of the last rows, in all of which a condition holds."""
    fails = np.flatnonzero(~holds)
    return int(fails[-1]) + 1 if len(fails) else 0
