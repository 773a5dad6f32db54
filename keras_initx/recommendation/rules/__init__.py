"""The rules of `recommend`, by name.

A rule takes a `case.Case` and returns a `reading.Reading`, or None where there
is nothing that it could look at. Causes come before what follows from them: a
finding that the line of an earlier one removes is not given again.
"""

from keras_initx.recommendation.reading import Rule
from keras_initx.recommendation.rules.attention import (
    alike_tokens,
    query_key_scale,
)
from keras_initx.recommendation.rules.gradient import (
    batch_normalization,
    gradient,
)
from keras_initx.recommendation.rules.signal import (
    dead_at_birth,
    residual_growth,
    sample_fraction,
    scale,
    small_before_normalization,
)
from keras_initx.recommendation.rules.units import (
    dead_units,
    inputs,
    saturation,
)
from keras_initx.recommendation.rules.weights import (
    equal_weights,
    width_against_depth,
    wrong_fans,
)

RULES: dict[str, Rule] = {
    "equal weights": equal_weights,
    "wrong fans": wrong_fans,
    "inputs": inputs,
    "embedding": small_before_normalization,
    "query and key": query_key_scale,
    "residual growth": residual_growth,
    "saturation": saturation,
    "dead units": dead_units,
    "scale": scale,
    "dead at birth": dead_at_birth,
    "batch normalization": batch_normalization,
    "tokens": alike_tokens,
    "width": width_against_depth,
    "gradient": gradient,
    "sample fraction": sample_fraction,
}
