"""A residual block around any branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_initx.inspection.layer_rule import LayerRule, register_layer
from keras_initx.layers.branch_scale import BranchScale
from keras_initx.validation import check_instance, check_real, is_real, refuse


@keras.saving.register_keras_serializable(package="keras_initx")
class Residual(keras.layers.Layer):
    """Adds a scaled branch to its own input.

        skip_weight * projection(x) + scale(branch(x))

    Args:
        branch: A layer or model of one input, or a list of layers. A layer of
            several inputs, such as attention, must be wrapped in a model or
            layer of one input.
        scale: None, float, or a layer such as `BranchScale`. A scale that is
            trained must belong to one block only: Keras saves a layer that
            blocks share once, and does not load it for the others.
        projection: A layer for the skip if the branch changes the shape, such
            as `keras.layers.Dense` or a convolution with a window of 1 by 1.
            By default the skip is the input itself.
        skip_weight: float. The factor of the skip, such as the alpha of
            DeepNorm, see `theory.deepnorm_scale`, which also needs a
            `LayerNormalization` after the block. Defaults to 1.
        **kwargs: Arguments of `keras.layers.Layer`.

    Returns:
        When called with a tensor: the sum, with the shape of the branch, in the
        layer's compute dtype. The branch sees the mask of the input. The mask
        is passed on as the skip passes it on.

    Raises:
        ValueError: If an argument has another type. When called: if branch and
            skip have different shapes, which are not broadcast.

    Example:

    >>> block = Residual(
    ...     [keras.layers.Dense(8, "relu"), keras.layers.Dense(8)],
    ...     scale=BranchScale(depth=100),
    ... )
    >>> tuple(block(keras.ops.ones((2, 8))).shape)
    (2, 8)

    Reference: He et al., CVPR (2016), arXiv:1512.03385; for the scales see
    `BranchScale`.
    """

    def __init__(
        self,
        branch: keras.layers.Layer | Sequence[keras.layers.Layer],
        scale: keras.layers.Layer | float | None = None,
        projection: keras.layers.Layer | None = None,
        skip_weight: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        if (
            isinstance(branch, list | tuple)
            and branch
            and all(isinstance(b, keras.layers.Layer) for b in branch)
        ):
            branch = keras.Sequential(list(branch))
        if is_real(scale):
            scale = BranchScale(constant=scale, dtype=self.dtype_policy)
        layer = keras.layers.Layer
        check_instance(
            "branch", branch, layer, "a Keras layer or a list of them"
        )
        check_instance(
            "scale",
            scale,
            layer,
            "a finite number, a Keras layer",
            optional=True,
        )
        check_instance(
            "projection", projection, layer, "a Keras layer", optional=True
        )
        if isinstance(branch, keras.Model):
            # A model passes masks on to its layers, but without this Keras
            # warns that it may not.
            branch.supports_masking = True
        self.branch: Any = branch
        self.scale: Any = scale
        self.projection = projection
        self.skip_weight = check_real("skip_weight", skip_weight)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the layers inside."""
        # A symbolic call builds every kind of layer.
        self.compute_output_shape(input_shape)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Returns the sum of the skip and the scaled branch."""
        added = self.branch(inputs)
        if self.scale is not None:
            added = self.scale(added)
        skip = inputs if self.projection is None else self.projection(inputs)
        if not _can_add(added.shape, skip.shape):
            hint = "" if self.projection is not None else " (see projection)"
            raise ValueError(
                "The branch must keep the shape of the skip, or the two cannot "
                f"be added{hint}. Received: branch of shape "
                f"{tuple(added.shape)}, skip of shape {tuple(skip.shape)}"
            )
        added, skip = (
            keras.ops.cast(part, self.compute_dtype) for part in (added, skip)
        )
        if self.skip_weight != 1:
            skip = keras.ops.multiply(skip, self.skip_weight)
        return keras.ops.add(skip, added)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the shape of the sum."""
        if any(not (n is None or isinstance(n, int)) for n in input_shape):
            refuse("Residual takes one tensor.", input_shape=input_shape)
        inputs = keras.KerasTensor(input_shape, dtype=self.compute_dtype)
        return tuple(self.call(inputs).shape)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Returns the mask as the skip passes it on."""
        if self.projection is None:
            return previous_mask
        if not self.projection.supports_masking:
            return None
        return self.projection.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        parts = {
            "branch": self.branch,
            "scale": self.scale,
            "projection": self.projection,
        }
        serialize = keras.saving.serialize_keras_object
        return (
            super().get_config()
            | {name: serialize(part) for name, part in parts.items()}
            | {"skip_weight": self.skip_weight}
        )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Residual:
        """Returns a block made from its config."""
        parts = ("branch", "scale", "projection")
        restore = keras.saving.deserialize_keras_object
        return cls(**config | {name: restore(config[name]) for name in parts})


@register_layer(Residual)
def _rule(layer: Residual) -> LayerRule:
    return LayerRule(symbolic=True)


def _can_add(branch: Sequence[int | None], skip: Sequence[int | None]) -> bool:
    """Whether the shapes are equal, as far as they are known.

    A branch of size 1 would be broadcast if the size of the skip is unknown.
    """
    return len(branch) == len(skip) and all(
        b == s or b is None or (s is None and b != 1)
        for b, s in zip(branch, skip, strict=True)
    )
