"""The alpha-stable distribution as a TensorFlow Probability class."""

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
from keras_initx.validation import check_choice

_PARAMETERS = ("stability", "skewness", "loc", "scale")


@tfp.experimental.auto_composite_tensor(
    non_identifying_kwargs=("name",),
    module_name=__name__,
)
class AlphaStable(
    tfp.distributions.Distribution, tfp.experimental.AutoCompositeTensor
):
    """The alpha-stable distribution; at `stability=2` it is N(loc, 2 scale^2).

    A sum of independent stable variables of one stability is stable again. For
    a stability below 2 the tails fall as |x|^-stability, so no moment of an
    order of `stability` or more is finite:

    | | stability 2 | in (1, 2) | at most 1 |
    |---|---|---|---|
    | mean | loc | finite | NaN; +-inf if abs(skewness) is 1 |
    | variance, stddev | 2 scale^2, its root | inf | NaN |

    With X standard (loc 0, scale 1), stability a and skewness b,

        S0  E exp(i t X) = exp(-|t|^a [1 + i b sign(t) tan(pi a/2)
                                           (|t|^(1-a) - 1)])
        S1  E exp(i t X) = exp(-|t|^a [1 - i b sign(t) tan(pi a/2)])

    and at a = 1 both are exp(-|t| [1 + i b sign(t) (2/pi) log|t|]). In "S0" the
    distribution is that of `loc + scale X`, and is continuous in all its
    parameters. "S1" is the parameterization of textbooks and of SciPy: for
    a > 1 its `loc` is the mean, but as a approaches 1 a skewed distribution
    moves to infinity. In "S1" and at a = 1, (2/pi) skewness scale log(scale)
    is added to `loc + scale X`.

    Densities, probabilities, quantiles and the mode are computed for a
    stability of 0.05 or more. Below, they are NaN, or an error is raised if
    `validate_args=True`; samples and moments have no such limit. A quantile
    takes about as long as five values of `cdf`, if the stability is 0.3 or
    more.

    Samples are reparameterized: they are differentiable in every parameter,
    through stability 1 and up to 2. A sample beyond the dtype's range is
    clipped to it. The probability of that is below 3e-12 in float32 for
    a >= 0.3; the docstring of `alpha_stable.sampling.standard_stable` states it
    for other dtypes.

    `keras_initx.initializers.AlphaStable` initializes a layer's kernel with
    values of the symmetric distribution.

    Args:
        stability: Floating tensor or variable, in (0, 2]. 2 is normal, 1
            without skewness is Cauchy, 1/2 with skewness 1 is Levy.
        skewness: Floating tensor or variable, in [-1, 1]. At 0 the
            distribution is symmetric about `loc`. It has no effect at
            stability 2. Defaults to 0.
        loc: Floating tensor or variable. The location. Defaults to 0.
        scale: Floating tensor or variable, > 0. The scale. Defaults to 1. The
            four parameters have one dtype, and their shapes broadcast to the
            batch shape.
        parameterization: str. "S0" or "S1". Defaults to "S0".
        validate_args: bool. Whether parameters out of their range raise an
            error. If False, all results are NaN for them. Defaults to False.
        allow_nan_stats: bool. Whether an undefined statistic is NaN. If False,
            it raises an error. Defaults to True.
        name: str. Prefix of the names of the ops. Defaults to "AlphaStable".

    Raises:
        TypeError: If the parameters have different dtypes, or one that is not
            floating.
        ValueError: If `parameterization` is neither "S0" nor "S1".
        tf.errors.InvalidArgumentError: If a parameter is out of its range and
            `validate_args=True`, or if a statistic is undefined and
            `allow_nan_stats=False`. If a density, probability, quantile or
            mode is asked for, `validate_args=True` and a stability is below
            0.05.

    Example:

    >>> distribution = AlphaStable(stability=[1.2, 2.0], scale=3.0)
    >>> distribution.sample(5, seed=1).shape
    TensorShape([5, 2])
    >>> distribution.variance().numpy().tolist()
    [inf, 18.0]
    >>> distribution.fractional_moment(1.0).numpy().round(4)
    array([10.6309,  3.3851], dtype=float32)

    Reference: Nolan, Univariate Stable Distributions (2020), for S0 and S1;
    Chambers, Mallows & Stuck, JASA 71, 340 (1976), for the samples.
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
        arguments = dict(locals())
        check_choice("parameterization", parameterization, ("S0", "S1"))
        with tf.name_scope(name) as name:
            dtype = parameters.common_dtype(
                {key: arguments[key] for key in _PARAMETERS}
            )
            self._stability = parameters.tensor_or_variable(stability, dtype)
            self._skewness = parameters.tensor_or_variable(skewness, dtype)
            self._loc = parameters.tensor_or_variable(loc, dtype)
            self._scale = parameters.tensor_or_variable(scale, dtype)
            self._parameterization = parameterization
            super().__init__(
                dtype=dtype,
                reparameterization_type=(
                    tfp.distributions.FULLY_REPARAMETERIZED
                ),
                validate_args=validate_args,
                allow_nan_stats=allow_nan_stats,
                parameters=arguments,
                name=name,
            )

    @property
    def stability(self) -> Any:
        """The stability, in (0, 2]."""
        return self._stability

    @property
    def skewness(self) -> Any:
        """The skewness, in [-1, 1]."""
        return self._skewness

    @property
    def loc(self) -> Any:
        """The location."""
        return self._loc

    @property
    def scale(self) -> Any:
        """The scale, > 0."""
        return self._scale

    @property
    def parameterization(self) -> str:
        """The parameterization, "S0" or "S1"."""
        return self._parameterization

    def characteristic_function(
        self, t: Any, name: str = "characteristic_function"
    ) -> tf.Tensor:
        """Returns E exp(i t X).

        Args:
            t: Real tensor that broadcasts against the batch shape.
            name: str. Name of the op. Defaults to "characteristic_function".

        Returns:
            A complex tensor: complex128 for float64, complex64 otherwise.
        """
        with self._name_and_control_scope(name):
            a, b, loc, scale = self._s0_parameters()
            t = tf.cast(tf.convert_to_tensor(t, self.dtype), a.dtype)
            real, imaginary = moments.log_characteristic_function(
                scale * t, a, b
            )
            return tf.exp(tf.complex(real, imaginary + loc * t))

    def fractional_moment(
        self, order: Any, name: str = "fractional_moment"
    ) -> tf.Tensor:
        """Returns E|X - loc|^order.

        The moment is infinite for order >= stability if stability < 2. It is
        NaN where no closed form is known: for order <= -1, and with skewness
        in S0, or in S1 at stability 1.

        Args:
            order: Real tensor that broadcasts against the batch shape.
            name: str. Name of the op. Defaults to "fractional_moment".

        Returns:
            A tensor of the distribution's dtype.

        Raises:
            tf.errors.InvalidArgumentError: If the moment is NaN and
                `allow_nan_stats=False`.
        """
        with self._name_and_control_scope(name):
            a, b, _, scale = self._working_parameters()
            if self.parameterization == "S0":
                b = tf.where((b == 0) | (a == 2), b, math.nan)
            order = tf.cast(tf.convert_to_tensor(order, self.dtype), a.dtype)
            moment = moments.fractional_moment(order, a, b) * scale**order
            return self._checked_statistic("The fractional moment", moment)

    @classmethod
    def fit(cls, values: Any) -> AlphaStable:
        """Returns the distribution that fits independent values best.

        `alpha_stable.fit.fit` describes the estimate and has standard errors.

        Args:
            values: Array-like of at least 20 finite numbers, of any shape, all
                of one distribution.

        Returns:
            A scalar distribution in "S0", of the dtype of the values if that
            is floating, else of float32.

        Raises:
            ValueError: If there are too few values, if some are not finite, or
                if half of them are equal.

        Example:

        >>> import numpy as np
        >>> fitted = AlphaStable.fit(np.linspace(-1.0, 1.0, 99) ** 3)
        >>> print(fitted)  # doctest: +ELLIPSIS
        AlphaStable(stability=..., skewness=..., loc=..., scale=..., ...)
        """
        dtype = tf.as_dtype(getattr(values, "dtype", tf.float32))
        number = dtype.as_numpy_dtype if dtype.is_floating else np.float32
        stability, skewness, loc, scale = map(
            number, fit.fit(values).parameters
        )
        return cls(stability, skewness, loc, scale)

    def __str__(self) -> str:
        if not tf.executing_eagerly():
            return super().__str__()
        values = (
            f"{name}={_as_text(value)}"
            for name, value in self._parameter_values().items()
        )
        return (
            f"{self.name}({', '.join(values)}, "
            f"parameterization={self.parameterization!r}, "
            f"dtype={self.dtype.name!r})"
        )

    def __repr__(self) -> str:
        return f"<{self}>"

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return parameters.properties(dtype)

    def _event_shape_tensor(self):
        return tf.constant([], tf.int32)

    def _event_shape(self):
        return tf.TensorShape([])

    def _default_event_space_bijector(self):
        return tfp.bijectors.Identity(validate_args=self.validate_args)

    def _sample_n(self, n, seed=None):
        a, b, loc, scale = self._s0_parameters()
        skewness = self.parameters["skewness"]
        if not (tf.is_tensor(skewness) or parameters.is_variable(skewness)):
            # The Python number 0 makes sampling cheaper.
            b = skewness
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
        a, b, loc, scale = self._s0_parameters()
        a = self._checked_for_densities(a)
        z = quantile.quantile(tf.cast(p, a.dtype), a, b)
        return tf.cast(loc + scale * z, self.dtype)

    def _mode(self):
        a, b, loc, scale = self._s0_parameters()
        a = self._checked_for_densities(a)
        return self._broadcast(loc + scale * quantile.mode(a, b))

    def _mean(self):
        a, b, loc, scale = self._working_parameters()
        standard = moments.mean(a, b)
        if self.parameterization == "S1":
            # A finite mean is S1's location. Computed through S0, it would
            # lose digits.
            standard = tf.where(a > 1, tf.zeros_like(standard), standard)
        return self._checked_statistic(
            "The mean", self._broadcast(loc + scale * standard)
        )

    def _variance(self):
        a, _, _, scale = self._s0_parameters()
        variance = self._broadcast(scale**2 * moments.variance(a))
        return self._checked_statistic("The variance", variance)

    def _parameter_control_dependencies(self, is_init):
        if not self.validate_args:
            return []
        return parameters.assertions(self._parameter_values(), is_init)

    def _parameter_values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _PARAMETERS}

    def _working_parameters(self) -> list[tf.Tensor]:
        """Returns the four parameters in the dtype of computations."""
        working = self.dtype if self.dtype == tf.float64 else tf.float32
        return parameters.in_dtype(self._parameter_values(), working)

    def _s0_parameters(self, dtype: Any = None) -> tuple[tf.Tensor, ...]:
        """Returns stability, skewness, and the location and scale in S0.

        Args:
            dtype: Dtype of the results. Defaults to None, which stands for
                float64 in float64, and for float32 otherwise.
        """
        a, b, loc, scale = (
            self._working_parameters()
            if dtype is None
            else parameters.in_dtype(self._parameter_values(), dtype)
        )
        if self.parameterization == "S1":
            loc += moments.s1_shift(a, b, scale)
        return a, b, loc, scale

    def _standardized(self, x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns (x - loc) / scale in S0, stability, skewness and scale.

        All are float64, since the quotient may be beyond the range of float32.
        """
        a, b, loc, scale = self._s0_parameters(tf.float64)
        a = self._checked_for_densities(a)
        return density.quotient(tf.cast(x, a.dtype) - loc, scale), a, b, scale

    def _checked_for_densities(self, stability: tf.Tensor) -> tf.Tensor:
        """Returns the stability, checked to be in the range of densities."""
        check = None
        if self.validate_args:
            check = parameters.require(
                stability >= density.LEAST_STABILITY,
                "stability must be at least 0.05 for densities, "
                "probabilities, quantiles and the mode",
                stability=self.stability,
            )
        with tf.control_dependencies([] if check is None else [check]):
            return tf.identity(stability)

    def _broadcast(self, statistic: tf.Tensor) -> tf.Tensor:
        """Returns the statistic in the batch shape and the dtype."""
        return tf.broadcast_to(
            tf.cast(statistic, self.dtype), self.batch_shape_tensor()
        )

    def _checked_statistic(self, name: str, statistic: tf.Tensor) -> tf.Tensor:
        """Returns the statistic, which must not be NaN if that is an error."""
        if not self.allow_nan_stats:
            check = parameters.require(
                ~tf.math.is_nan(statistic),
                f"{name} must exist everywhere if allow_nan_stats=False",
                stability=self.stability,
            )
            with tf.control_dependencies([] if check is None else [check]):
                statistic = tf.identity(statistic)
        return tf.cast(statistic, self.dtype)


def _as_text(parameter: Any) -> str:
    """Returns a parameter's value, or its ends if it is long."""
    value = tf.cast(tf.convert_to_tensor(parameter), tf.float64).numpy()
    if value.ndim == 0:
        return f"{value:.6g}"
    return np.array2string(value, precision=6, threshold=8, separator=", ")
