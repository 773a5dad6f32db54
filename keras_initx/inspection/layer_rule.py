"""What the package knows of a class of layers: one rule, registered once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_initx.inspection.geometry import Geometry, check_size
from keras_initx.validation import check_instance, refuse

# Attributes in which the layers of Keras hold the weights of linear maps.
_KERNEL_ATTRIBUTES = (
    "kernel",
    "depthwise_kernel",
    "pointwise_kernel",
    "recurrent_kernel",
    "embeddings",
)


@dataclass(frozen=True)
class LinearUnits:
    """How the units of a layer's pre-activation y depend on its weights.

    Each unit j has its own slice of a kernel, in which it is linear, and may
    have a bias of its own:

        y_j = <kernel_j, x> + bias_j

    The pre-activation is what the layer gives to its attribute `activation`,
    an attribute of the layer or of its class; of a layer that has no such
    attribute, or does not use it, it is the output. A layer that calls, say,
    `keras.ops.relu` in its `call` has an output that is not linear in a kernel,
    and so no `LinearUnits`. `calibrate` runs each layer with its new weights,
    and refuses a rule that does not hold.

    Args:
        kernel: keras.Variable. The kernel.
        kernel_axes: tuple of ints. The axes of the kernel along which units
            differ, in the order in which the signal counts them.
        signal_axes: tuple of ints. The axes of y along which units differ;
            axis 0 counts samples. Defaults to the last axis.
        bias: keras.Variable. Has one number for each unit, in the order of
            the signal, unless `bias_per_unit` is False. A layer that adds a
            bias to its pre-activation must name it. Defaults to no bias.
        bias_per_unit: bool. Whether each unit has a bias of its own, or there
            is no bias. Defaults to True.

    Raises:
        ValueError: If `kernel` or `bias` is no variable, if an axis is not
            one of the kernel, or if the size of the bias is not the number of
            units.

    Example:

    >>> layer = keras.layers.Dense(3)
    >>> layer.build((None, 2))
    >>> LinearUnits(layer.kernel, (1,), bias=layer.bias).count
    3

    Reference: derived here.
    """

    kernel: keras.Variable
    kernel_axes: tuple[int, ...]
    signal_axes: tuple[int, ...] = (-1,)
    bias: keras.Variable | None = None
    bias_per_unit: bool = True

    def __post_init__(self) -> None:
        check_instance("kernel", self.kernel, keras.Variable, "a variable")
        check_instance(
            "bias", self.bias, keras.Variable, "a variable", optional=True
        )
        rank = len(self.kernel.shape)
        axes = self.kernel_axes
        if not set(axes) <= set(range(rank)) or len(set(axes)) < len(axes):
            raise ValueError(
                "kernel_axes must be different axes of the kernel, of shape "
                f"{tuple(self.kernel.shape)}. Received: kernel_axes={axes}"
            )
        if 0 in self.signal_axes:
            refuse(
                "signal_axes must not have axis 0, which counts samples.",
                signal_axes=self.signal_axes,
            )
        if self.bias is None or not self.bias_per_unit:
            return
        if math.prod(self.bias.shape) != self.count:
            raise ValueError(
                f"The bias must have one number for each of {self.count} "
                "units, or bias_per_unit must be False. "
                f"Received: bias of shape {tuple(self.bias.shape)}"
            )

    @property
    def count(self) -> int:
        """The number of units."""
        return math.prod(self.kernel.shape[axis] for axis in self.kernel_axes)

    @property
    def weights(self) -> tuple[keras.Variable, ...]:
        """The kernel, and the bias if there is one."""
        return (self.kernel,) if self.bias is None else (self.kernel, self.bias)


@dataclass(frozen=True)
class LayerRule:
    """All that the package needs to know of one layer.

    What a rule leaves out is taken from the rules of the classes that the
    layer's class inherits from.

    Args:
        weights: dict. For each weight that the layer itself holds, by the
            name of the weight or of the attribute that holds it, its
            `Geometry`. Defaults to none.
        units: LinearUnits. The kernel in which the units of the layer's
            pre-activation are linear: of what the layer gives to its attribute
            `activation`, or of the output of a layer that uses no such
            attribute. With it, `calibrate` scales the layer. It holds for the
            `call` of the registered class, so a subclass with a `call` of its
            own does not inherit it. Defaults to None.
        measured: bool. Whether the layer is a row of `measure` by default.
            Defaults to whether a weight is a linear map, or there are `units`.
        skip_calibration: str. Why `calibrate` skips the layer and the layers
            inside it, "" if it does not. Defaults to "".
        normalizes: bool. Whether the layer normalizes its input, so that the
            scale of a layer before it has no effect. Defaults to False.
        output_layer: keras.layers.Layer. The layer inside this one whose
            output is the output of this one, as the output projection of
            attention. Defaults to None.
        symbolic: bool. Whether the layer may be called on the symbolic tensors
            of Keras, so that `scale_branches` sees the residual branches in
            its `call`. Such a call adds nodes to the layers inside it.
            Defaults to False.
        activates: bool. Whether the layer is an activation, in whose output
            `measure` looks for dead units. Defaults to False.
        score_layers: tuple of keras.layers.Layer. The layers inside this one
            whose outputs are queries and keys of attention. Their gradients
            are those of scores, and no part of the way back through the
            model. Defaults to none.

    Raises:
        ValueError: If an argument is of another type.

    Example:

    >>> rule = LayerRule({"w": Geometry("kernel", (4, 8), (), (0,), (1,))})
    >>> rule.weights["w"].fan_in
    4

    Reference: derived here.
    """

    weights: Mapping[str, Geometry] = field(default_factory=dict)
    units: LinearUnits | None = None
    measured: bool | None = None
    skip_calibration: str | None = None
    normalizes: bool | None = None
    output_layer: keras.layers.Layer | None = None
    symbolic: bool | None = None
    activates: bool | None = None
    score_layers: tuple[keras.layers.Layer, ...] | None = None

    def __post_init__(self) -> None:
        check_instance("weights", self.weights, Mapping, "a dict")
        for name, geometry in self.weights.items():
            check_instance("a name in weights", name, str, "a str")
            check_instance(f"weights[{name!r}]", geometry, Geometry, "Geometry")
        for name, classes, wanted in (
            ("units", LinearUnits, "LinearUnits"),
            ("measured", bool, "True, False"),
            ("skip_calibration", str, "a str"),
            ("normalizes", bool, "True, False"),
            ("output_layer", keras.layers.Layer, "a Keras layer"),
            ("symbolic", bool, "True, False"),
            ("activates", bool, "True, False"),
            ("score_layers", tuple, "a tuple of layers"),
        ):
            value = getattr(self, name)
            check_instance(name, value, classes, wanted, optional=True)


Rule = Callable[[Any], LayerRule | None]
_RULES: dict[type, Rule] = {}


def register_layer(*classes: type) -> Callable[[Rule], Rule]:
    """Registers what the package needs to know of a layer class.

    `initialize` then draws the weights of such layers at their fans, `measure`
    reports them, `calibrate` scales them, and `callbacks.FeatureSymmetry`
    compares their features. `measure` and `calibrate` look at what a layer
    gives to its attribute `activation`; an activation that is applied in
    another way belongs to the output, which is then not linear in a kernel
    (`LinearUnits`). Subclasses inherit the rule. A rule takes the
    place of an earlier one for the same class.

    Args:
        *classes: Layer classes.

    Returns:
        A decorator of a function that is called with a built layer and
        returns its `LayerRule`, or None if it has none for this layer.

    Raises:
        TypeError: If one of `classes` is no layer class.

    Example:

    >>> import keras, keras_initx as kx
    >>> class Mix(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.w = self.add_weight(shape=(7, shape[-1]), name="w")
    ...     def call(self, inputs):
    ...         return inputs @ keras.ops.transpose(self.w)
    >>> @kx.inspection.register_layer(Mix)
    ... def mix(layer):
    ...     shape = tuple(layer.w.shape)
    ...     return kx.inspection.LayerRule(
    ...         {"w": kx.inspection.Geometry("kernel", shape, (), (1,), (0,))},
    ...         kx.inspection.LinearUnits(layer.w, kernel_axes=(0,)),
    ...     )
    >>> model = keras.Sequential([keras.Input((5,)), Mix()])
    >>> kx.inspection.kernel_geometry(model.layers[0])["w"].fan_in
    5
    >>> x = keras.random.normal((64, 5))
    >>> done = kx.calibrate(model, x)
    >>> float(kx.measure(model, x).sample_variance[0].round(3))
    1.0

    Reference: derived here.
    """
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, keras.layers.Layer)):
            raise TypeError(
                "register_layer takes layer classes, as in "
                f"@register_layer(MyLayer). Received: {cls!r}"
            )

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(classes, rule))
        return rule

    return register


def layer_rule(layer: keras.layers.Layer) -> LayerRule:
    """What the rules of a layer's class and of its base classes say together.

    A layer that is not built has an empty rule. Names of weights are as the
    rules give them; `geometries` finds the weights that they mean.

    Raises:
        ValueError: If a rule fails, or returns something else than a
            `LayerRule` or None.
    """
    return _joined([rule for _, rule in _answers(layer)])


def measured_by_default(
    layer: keras.layers.Layer, rule: LayerRule | None = None
) -> bool:
    """Whether a layer is a row of `measure` unless the user names others.

    The rule of its class says so. A layer without a rule is a row if it holds
    a weight, or a tensor in its place, under a name that Keras gives to those
    of linear maps: `kernel`, `depthwise_kernel`, `pointwise_kernel`,
    `recurrent_kernel`, `embeddings`. A wrapper such as `TimeDistributed` is
    none; the layer inside it is.

    Args:
        layer: keras.layers.Layer. The layer.
        rule: LayerRule. What `layer_rule` returns for it, if that is known.

    Raises:
        ValueError: As `layer_rule` does.
    """
    rule = layer_rule(layer) if rule is None else rule
    if rule.measured is not None:
        return rule.measured
    if rule.units or any(g.is_linear for g in rule.weights.values()):
        return True
    return not isinstance(layer, keras.layers.Wrapper) and any(
        isinstance(held, keras.Variable) or keras.ops.is_tensor(held)
        for held in (getattr(layer, name, None) for name in _KERNEL_ATTRIBUTES)
    )


def geometries(
    layer: keras.layers.Layer, weights: list[keras.Variable]
) -> list[Geometry]:
    """The geometry of each weight that a layer itself holds.

    Args:
        layer: The layer.
        weights: The weights that it holds, without those of inner layers.

    Returns:
        For each weight its geometry, with the role "unknown" where no rule
        names the weight.

    Raises:
        ValueError: If a rule fails, gives a geometry of another size, or names
            weights that the layer does not have while it leaves out others.
    """
    by_id: dict[int, Geometry] = {}
    missing = []
    for cls, rule in _answers(layer):
        for name, geometry in rule.weights.items():
            meant = _meant(layer, name, weights)
            if not meant and cls is type(layer):
                missing.append(name)
            for weight in meant:
                if id(weight) not in by_id:
                    _check_geometry(cls, layer, weight, geometry)
                    by_id[id(weight)] = geometry
    # A rule may name an optional weight; a slip of the pen leaves another
    # weight without a rule.
    left = [weight for weight in weights if id(weight) not in by_id]
    if missing and left:
        raise ValueError(
            f"The rule of {type(layer).__name__} must name weights that "
            f"{layer.name!r} has. Received: {missing}, and no rule for "
            f"{_described(left)}"
        )
    return [by_id.get(id(weight), Geometry("unknown")) for weight in weights]


def _answers(layer: keras.layers.Layer) -> list[tuple[type, LayerRule]]:
    """What each rule says of a layer, the one of its own class first."""
    if not layer.built:
        return []
    answers = []
    for cls in type(layer).__mro__:
        rule = _RULES.get(cls)
        if rule is None:
            continue
        try:
            answer = rule(layer)
            if answer is None:
                continue
            if not isinstance(answer, LayerRule):
                raise TypeError(f"it returns {answer!r}")
        except Exception as error:
            raise ValueError(
                f"The rule of {cls.__name__} must return a LayerRule, or None, "
                f"for {layer.name!r} with the weights "
                f"{_described(layer.weights)}. Received: {error}"
            ) from error
        if type(layer).call is not getattr(cls, "call", None):
            # A call of its own need not be linear in the kernel.
            answer = dataclasses.replace(
                answer, units=None, output_layer=None, symbolic=None
            )
        answers.append((cls, answer))
    return answers


def _joined(rules: list[LayerRule]) -> LayerRule:
    def first(name: str) -> Any:
        said = (getattr(rule, name) for rule in rules)
        return next((value for value in said if value is not None), None)

    weights: dict[str, Geometry] = {}
    for rule in rules:
        weights = {**rule.weights, **weights}
    fields = [f.name for f in dataclasses.fields(LayerRule)]
    return LayerRule(weights, *map(first, fields[1:]))


def _meant(
    layer: keras.layers.Layer, name: str, weights: list[keras.Variable]
) -> list[keras.Variable]:
    """The weights of that name, or the one in the attribute of that name."""
    named = [weight for weight in weights if weight.name == name]
    if named:
        return named
    held = getattr(layer, name, None)
    return [weight for weight in weights if weight is held]


def _check_geometry(
    cls: type, layer: keras.layers.Layer, weight: Any, geometry: Geometry
) -> None:
    if not geometry.is_linear:
        return
    try:
        check_size(weight.shape, geometry)
    except ValueError as error:
        raise ValueError(
            f"The rule of {cls.__name__} must give a geometry of the size of "
            f"the weight {weight.name!r} of {layer.name!r}, of shape "
            f"{tuple(weight.shape)}. Received: {error}"
        ) from error


def _described(weights: Iterable[Any]) -> str:
    return ", ".join(f"{w.name!r} of shape {tuple(w.shape)}" for w in weights)
