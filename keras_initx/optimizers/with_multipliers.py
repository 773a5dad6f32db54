"""Keras optimizers that multiply the learning rate of each weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_initx.optimizers.multipliers import Multipliers, Row
from keras_initx.validation import check_instance, refuse

# The optimizers of Keras whose `update_step` is given the learning rate. Those
# that this version of Keras lacks are left out.
_NAMES = (
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Ftrl",
    "Lamb",
    "Lion",
    "Muon",
    "Nadam",
    "RMSprop",
    "SGD",
    "ScheduleFreeAdamW",
)


def with_multipliers(
    optimizer: Any, multipliers: Mapping[Any, float]
) -> keras.optimizers.Optimizer:
    r"""Returns an optimizer with a learning rate for each weight.

    A weight with the factor f is trained as if the whole optimizer had the
    learning rate f * learning_rate, at each step, whatever a schedule or a
    `LearningRateScheduler` makes of the learning rate. All else is as in the
    optimizer that was given: clipping looks at all gradients together, and
    weight decay takes the learning rate without the factor, so that it is the
    same for all weights. The result is an instance of a subclass of the
    optimizer's class, and is saved and loaded with the model.

    Make it where the optimizer itself would be made: inside the scope of a
    strategy, if there is one.

    Args:
        optimizer: A Keras optimizer that has not been built, its name or
            config: an Adadelta, Adafactor, Adagrad, Adam, AdamW, Adamax, Ftrl,
            Lamb, Lion, Muon, Nadam, RMSprop, SGD or ScheduleFreeAdamW, or a
            LossScaleOptimizer around one of these. It is not changed.
        multipliers: dict. The factors, > 0, by what they belong to: a built
            layer, which stands for all weights inside it; or a regular
            expression that matches whole parts of the path of a weight, as
            Keras has it in `variable.path`. "dense" matches "dense/kernel" and
            not "dense_1/kernel"; "bias" matches every bias; "block_\d+/.*"
            the weights of all blocks. Name layers, and not the model, whose
            name Keras may leave out. Other weights have the factor 1.

    Returns:
        A `keras.optimizers.Optimizer`. It finds its weights when it is built,
        at the latest in the first step, and then raises a ValueError if a key
        matches no trainable weight, or if one weight has two factors. Its
        attribute `multipliers` then is a dict of the factors by path. A loaded
        or copied one takes only weights of the same names, shapes and order.

    Raises:
        ValueError: If the optimizer is none of these or has been built, if a
            key is no regular expression and no built layer, or if a factor is
            not positive. To freeze weights, set `trainable=False`.

    Example:

    >>> import keras, keras_initx as kx
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, "relu", name="body"),
    ...     keras.layers.Dense(2, name="head"),
    ... ])
    >>> adam = keras.optimizers.Adam(1e-3)
    >>> model.compile(
    ...     kx.optimizers.with_multipliers(adam, {"body": 0.1}), "mse"
    ... )
    >>> model.optimizer.build(model.trainable_variables)
    >>> sorted(set(model.optimizer.multipliers.values()))
    [0.1, 1.0]

    Reference: derived here, by the method that the documentation of
    `keras.Optimizer` tells optimizers of one's own to override.
    """
    optimizer = keras.optimizers.get(optimizer)
    check_instance("multipliers", multipliers, Mapping, "a dict")
    if not multipliers:
        refuse("multipliers must have a factor.", multipliers=multipliers)
    return wrapped(optimizer, Multipliers(multipliers))


def with_rows(optimizer: Any, rows: list[Row]) -> keras.optimizers.Optimizer:
    """Returns an optimizer with the factors of a list of weights.

    Args:
        optimizer: As in `with_multipliers`.
        rows: list of Row. The trainable weights of a model, in their order.

    Raises:
        ValueError: As in `with_multipliers`.
    """
    return wrapped(keras.optimizers.get(optimizer), Multipliers(rows))


def check_known(optimizer: keras.optimizers.Optimizer) -> type:
    """Refuses an optimizer whose learning rate cannot be multiplied.

    Returns:
        The public class of Keras that makes it.

    Raises:
        ValueError: If its class is not one of Keras's, if it has factors
            already, or if it has been built.
    """
    if isinstance(optimizer, _WithMultipliers):
        refuse(
            "The optimizer must have no multipliers yet: give all of them in "
            "one call.",
            optimizer=optimizer,
        )
    cls = _public_class(optimizer)
    if cls is None:
        names = ", ".join(known.__name__ for known in _SUBCLASSES)
        raise ValueError(
            f"The optimizer must be one of Keras's {names}, or a "
            "LossScaleOptimizer around one of them. Received: optimizer="
            f"{optimizer!r} of type {type(optimizer).__name__}"
        )
    if optimizer.built:
        refuse(
            "The optimizer must not be built yet, since its state would be "
            "lost: give a new one.",
            optimizer=optimizer,
        )
    return cls


def _public_class(optimizer: keras.optimizers.Optimizer) -> type | None:
    """The class of Keras that makes an optimizer, None if it is not known.

    For PyTorch, Keras makes an instance of a subclass that is not public.
    """
    cls: Any
    for cls in type(optimizer).__mro__:
        if cls in _SUBCLASSES and type(cls.__new__(cls)) is type(optimizer):
            return cls
    return None


def wrapped(
    optimizer: keras.optimizers.Optimizer, multipliers: Multipliers
) -> keras.optimizers.Optimizer:
    """Returns a copy of an optimizer that has the multipliers."""
    if type(optimizer) is keras.optimizers.LossScaleOptimizer:
        if optimizer.built:
            check_known(optimizer.inner_optimizer)
        inner = wrapped(optimizer.inner_optimizer, multipliers)
        config = {**optimizer.get_config(), "inner_optimizer": inner}
        return type(optimizer)(**config)
    copy = _SUBCLASSES[check_known(optimizer)](
        multipliers=multipliers, **_arguments(optimizer)
    )
    for name, value in list(vars(optimizer).items()):
        # What was set after construction, by `exclude_from_weight_decay`.
        if name not in vars(copy):
            setattr(copy, name, value)
    return copy


def _arguments(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """The arguments that make an optimizer again.

    A schedule or function for the learning rate is the same object, since it
    need not have a config.
    """
    held = {name: v for name, v in vars(optimizer).items() if callable(v)}
    if not held:
        return optimizer.get_config()
    ((name, schedule),) = held.items()
    without = object.__new__(type(optimizer))
    vars(without).update({**vars(optimizer), name: 0.0})
    return {**without.get_config(), "learning_rate": schedule}


# The class beside the mixin, of which mypy knows nothing.
_Base: Any = object


class _WithMultipliers(_Base):
    """A mixin for an optimizer whose update takes a multiple of the rate.

    This is the one place of the package that uses a name of Keras with an
    underscore, `_get_variable_index`. The documentation of `keras.Optimizer`
    shows it as the way to find the state of a variable in `update_step`.
    """

    def __init__(self, *args: Any, multipliers: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not isinstance(multipliers, Multipliers):
            multipliers = Multipliers(multipliers)
        self._multipliers = multipliers

    @property
    def multipliers(self) -> dict[str, float]:
        """The factor of each weight by its path, empty before it is built."""
        return self._multipliers.by_path

    def build(self, variables: Any) -> None:
        """Finds the factor of each weight, then makes the state."""
        if self.built:
            return
        self._multipliers.build(variables)
        super().build(variables)

    def update_step(
        self, gradient: Any, variable: Any, learning_rate: Any
    ) -> None:
        """Updates a weight by its multiple of the learning rate."""
        index = self._get_variable_index(variable)
        factor, of_gradient = self._multipliers.built[index]
        if of_gradient != 1:
            gradient = keras.ops.multiply(
                gradient, keras.ops.cast(of_gradient, gradient.dtype)
            )
        if factor != 1:
            # Not every optimizer casts it itself.
            learning_rate = keras.ops.cast(
                keras.ops.multiply(learning_rate, factor), variable.dtype
            )
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """The config of the optimizer, and its factors."""
        config = super().get_config()
        return {**config, "multipliers": self._multipliers.to_config()}


def _subclass(cls: type) -> type:
    """The subclass of an optimizer's class, registered with Keras."""
    name = f"{cls.__name__}WithMultipliers"
    body = {"__module__": __name__, "__doc__": f"{cls.__name__} with factors."}
    made = type(name, (_WithMultipliers, cls), body)
    # pickle looks for the class here.
    globals()[name] = made
    return keras.saving.register_keras_serializable(package="keras_initx")(made)


_SUBCLASSES = {
    cls: _subclass(cls)
    for cls in (getattr(keras.optimizers, name, None) for name in _NAMES)
    if cls is not None
}
