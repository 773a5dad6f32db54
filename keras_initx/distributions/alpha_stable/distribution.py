"""The stable law as a distribution of TensorFlow Probability."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_initx.distributions.alpha_stable import (
    density,
    fit,
    moments,
    parameters,
    quantile,
)
from keras_initx.distributions.alpha_stable.sampling import standard_stable

tfb = tfp.bijectors
tfd = tfp.distributions

_PARAMETERS = ("stability", "skewness", "loc", "scale")


@tfp.experimental.auto_composite_tensor(
    non_identifying_kwargs=("name",),
    module_name=__name__,
)
class AlphaStable(tfd.Distribution, tfp.experimental.AutoCompositeTensor):
    """The alpha-stable law, which at `stability=2` is N(loc, 2 scale^2).

    Sums of independent stable variables of one stability are stable again. Its
    tails fall as |x|^-stability, so no moment of an order above exists:

    | | stability 2 | in (1, 2) | at most 1 |
    |---|---|---|---|
    | mean | loc | finite | NaN; +-inf if totally skewed |
    | variance, stddev | 2 scale^2, its root | inf | NaN |

    With X standard (loc 0, scale 1), stability a and skewness b,

        S0  E exp(i t X) = exp(-|t|^a [1 + i b sign(t) tan(pi a/2)
                                           (|t|^(1-a) - 1)])
        S1  E exp(i t X) = exp(-|t|^a [1 - i b sign(t) tan(pi a/2)])

    and at a = 1 both exp(-|t| [1 + i b sign(t) (2/pi) log|t|]). In "S0" the law
    of `loc + scale X` has its parameters' names and is continuous in all of
    them. "S1" is the form of textbooks and of SciPy: for a > 1 its `loc` is the
    mean, but towards a = 1 the law runs off to infinity if skewed. There
    `loc + scale X` gains (2/pi) skewness scale log(scale) at a = 1.

    Samples are reparameterised: differentiable in every parameter, through
    stability 1 and up to 2. A sample beyond the dtype's range is clipped to it,
    with the probability that `standard_stable` states: below 3e-12 in float32
    for a >= 0.3.

    Args:
        stability: In (0, 2]. 2 is normal, 1 without skewness is Cauchy, 1/2
            with skewness 1 is Levy.
        skewness: In [-1, 1]; 0 is symmetric about `loc`. No effect at 2.
        loc: Location.
        scale: Scale, > 0. All four are floating tensors, or variables, of one
            dtype, whose shapes broadcast to the batch shape.
        parameterization: "S0" or "S1".
        validate_args: Whether parameters out of their range are an error. All
            results are NaN otherwise.
        allow_nan_stats: Whether an undefined statistic is NaN, not an error.
        name: Prefix of the ops' names.

    Raises:
        TypeError: The parameters have different dtypes, or not a floating one.
        ValueError: `parameterization` is another one.
        tf.errors.InvalidArgumentError: With `validate_args=True`, a parameter
            is out of its range. With `allow_nan_stats=False`, a statistic is
            undefined.

    Example:

    >>> law = AlphaStable(stability=[1.2, 2.0], scale=3.0)
    >>> law.sample(5, seed=1).shape
    TensorShape([5, 2])
    >>> law.variance().numpy().tolist()
    [inf, 18.0]
    >>> law.fractional_moment(1.0).numpy().round(4)
    array([10.6309,  3.3851], dtype=float32)

    Reference: Nolan, Univariate Stable Distributions (2020), whose S0 and S1
    these are; Chambers, Mallows & Stuck, JASA 71, 340 (1976), for the samples.
    """

    def __init__(
        self,
        stability: Any,
        skewness: Any = 0.0,
        loc: Any = 0.0,
        scale: Any = 1.0,
        parameterization: str = "S0",
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "AlphaStable",
    ) -> None:
        given = dict(locals())
        if parameterization not in ("S0", "S1"):
            raise ValueError(
                f'parameterization must be "S0" or "S1". '
                f"Received: parameterization={parameterization!r}"
            )
        with tf.name_scope(name) as name:
            dtype = parameters.common_dtype({p: given[p] for p in _PARAMETERS})
            self._stability = parameters.tensor_or_reference(stability, dtype)
            self._skewness = parameters.tensor_or_reference(skewness, dtype)
            self._loc = parameters.tensor_or_reference(loc, dtype)
            self._scale = parameters.tensor_or_reference(scale, dtype)
            self._parameterization = parameterization
            super().__init__(
                dtype=dtype,
                reparameterization_type=tfd.FULLY_REPARAMETERIZED,
                validate_args=validate_args,
                allow_nan_stats=allow_nan_stats,
                parameters=given,
                name=name,
            )

    stability = property(lambda self: self._stability, doc="In (0, 2].")
    skewness = property(lambda self: self._skewness, doc="In [-1, 1].")
    loc = property(lambda self: self._loc, doc="Location.")
    scale = property(lambda self: self._scale, doc="Scale, > 0.")
    parameterization = property(
        lambda self: self._parameterization, doc='"S0" or "S1".'
    )

    def characteristic_function(
        self, t: Any, name: str = "characteristic_function"
    ) -> tf.Tensor:
        """E exp(i t X).

        Args:
            t: A real tensor that broadcasts against the batch shape.
            name: Name of the op.

        Returns:
            A complex tensor: complex128 for float64, complex64 otherwise.
        """
        with self._name_and_control_scope(name):
            a, b, loc, scale = self._s0()
            t = tf.cast(tf.convert_to_tensor(t, self.dtype), a.dtype)
            real, imaginary = moments.log_characteristic_function(
                scale * t, a, b
            )
            return tf.exp(tf.complex(real, imaginary + loc * t))

    def fractional_moment(
        self, p: Any, name: str = "fractional_moment"
    ) -> tf.Tensor:
        """E|X - loc|^p.

        inf for p >= stability < 2. NaN where no closed form is known: for
        p <= -1, and with skewness in S0, or in S1 at stability 1.

        Args:
            p: A real tensor that broadcasts against the batch shape.
            name: Name of the op.

        Returns:
            A tensor of the distribution's dtype.

        Raises:
            tf.errors.InvalidArgumentError: It is NaN and
                `allow_nan_stats=False`.
        """
        with self._name_and_control_scope(name):
            a, b, _, scale = self._in_working_dtype()
            if self.parameterization == "S0":
                b = tf.where((b == 0) | (a == 2), b, math.nan)
            p = tf.cast(tf.convert_to_tensor(p, self.dtype), a.dtype)
            moment = moments.fractional_moment(p, a, b) * scale**p
            return self._existing("The fractional moment", moment)

    @classmethod
    def fit(cls, x: Any) -> AlphaStable:
        """The law of independent values: the estimate of `fit.fit`.

        Args:
            x: At least 20 finite numbers, of any shape: all are of one law.

        Returns:
            A scalar law in "S0", of x's dtype if floating, else of float32.

        Raises:
            ValueError: Too few values, or not finite, or half of them equal.
        """
        dtype = tf.as_dtype(getattr(x, "dtype", tf.float32))
        number = dtype.as_numpy_dtype if dtype.is_floating else np.float32
        found = fit.fit(x)
        return cls(*(number(value) for value in found.parameters))

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return parameters.properties(dtype)

    def _event_shape_tensor(self):
        return tf.constant([], tf.int32)

    def _event_shape(self):
        return tf.TensorShape([])

    def _default_event_space_bijector(self):
        return tfb.Identity(validate_args=self.validate_args)

    def _sample_n(self, n, seed=None):
        a, b, loc, scale = self._s0()
        given = self.parameters["skewness"]
        if not (tf.is_tensor(given) or parameters.is_reference(given)):
            b = given
        shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
        seed = tfp.random.sanitize_seed(seed, salt="AlphaStable")
        return standard_stable(
            shape, a, b, seed=seed, loc=loc, scale=scale, dtype=self.dtype
        )

    def _log_prob(self, x):
        z, a, b, scale = self._standardized(x)
        log_density = density.log_density(z, a, b)
        return tf.cast(log_density - tf.math.log(scale), self.dtype)

    def _log_cdf(self, x):
        z, a, b, _ = self._standardized(x)
        return tf.cast(density.log_cdf(z, a, b), self.dtype)

    def _log_survival_function(self, x):
        z, a, b, _ = self._standardized(x)
        return tf.cast(density.log_survival(z, a, b), self.dtype)

    def _survival_function(self, x):
        return tf.exp(self._log_survival_function(x))

    def _quantile(self, p):
        a, b, loc, scale = self._s0()
        z = quantile.quantile(tf.cast(p, a.dtype), a, b)
        return tf.cast(loc + scale * z, self.dtype)

    def _mode(self):
        a, b, loc, scale = self._s0()
        return self._batch(loc + scale * quantile.mode(a, b))

    def _mean(self):
        a, b, loc, scale = self._in_working_dtype()
        standard = moments.mean(a, b)
        if self.parameterization == "S1":
            # A finite mean is S1's location; its way through S0 loses digits.
            standard = tf.where(a > 1, tf.zeros_like(standard), standard)
        return self._existing("The mean", self._batch(loc + scale * standard))

    def _variance(self):
        a, _, _, scale = self._s0()
        variance = self._batch(scale**2 * moments.variance(a))
        return self._existing("The variance", variance)

    def _parameter_control_dependencies(self, is_init):
        if not self.validate_args:
            return []
        return parameters.checks(self._parameter_values(), is_init)

    def _parameter_values(self):
        return {name: getattr(self, name) for name in _PARAMETERS}

    def _in_working_dtype(self):
        working = self.dtype if self.dtype == tf.float64 else tf.float32
        return parameters.in_dtype(self._parameter_values(), working)

    def _s0(self):
        """Stability, skewness, and S0's location and scale."""
        a, b, loc, scale = self._in_working_dtype()
        if self.parameterization == "S1":
            loc += moments.s1_shift(a, b, scale)
        return a, b, loc, scale

    def _standardized(self, x):
        a, b, loc, scale = self._s0()
        return (tf.cast(x, a.dtype) - loc) / scale, a, b, scale

    def _batch(self, statistic):
        return tf.broadcast_to(
            tf.cast(statistic, self.dtype), self.batch_shape_tensor()
        )

    def _existing(self, name, statistic):
        if not self.allow_nan_stats:
            check = parameters.require(
                ~tf.math.is_nan(statistic),
                f"{name} must exist everywhere if allow_nan_stats=False",
                stability=self.stability,
            )
            with tf.control_dependencies([] if check is None else [check]):
                statistic = tf.identity(statistic)
        return tf.cast(statistic, self.dtype)
