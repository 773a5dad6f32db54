"""A residual block around any branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_initx.layers.branch_scale import BranchScale
from keras_initx.validation import is_real


@keras.saving.register_keras_serializable(package="keras_initx")
class Residual(keras.layers.Layer):
    """Adds a branch, scaled, to its own input.

        skip_weight * projection(x) + scale(branch(x))

    Args:
        branch: A layer or model, or a list of layers, of one input: attention
            in a model or layer that hands it all its inputs.
        scale: None, a finite number, or a layer such as `BranchScale`. One
            that learns should be of this block alone: Keras saves what blocks
            share but once, and does not load it.
        projection: A layer for the skip, where the branch changes the shape,
            such as `keras.layers.Dense` or a 1 by 1 convolution; by default the
            input itself.
        skip_weight: A finite number: 1, or the alpha of DeepNorm, see
            `theory.deepnorm_scale`, with a `LayerNormalization` after.
        **kwargs: As in `keras.layers.Layer`.

    Returns:
        When called with a tensor, the sum, of the shape of the branch and in
        the block's compute dtype. The branch sees the mask, and it is passed
        on as the skip passes it.

    Raises:
        ValueError: An argument is none of these, or branch and skip have
            different shapes: nothing is broadcast.

    Example:

    >>> block = Residual(
    ...     [keras.layers.Dense(8, "relu"), keras.layers.Dense(8)],
    ...     scale=BranchScale(depth=100),
    ... )
    >>> block(keras.ops.ones((2, 8))).shape
    TensorShape([2, 8])

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
        several = isinstance(branch, list | tuple) and branch
        if several and all(isinstance(b, keras.layers.Layer) for b in branch):
            branch = keras.Sequential(list(branch))
        if is_real(scale):
            scale = BranchScale(constant=scale, dtype=self.dtype_policy)
        for name, part, expected in (
            ("branch", branch, "a Keras layer, or a list of layers"),
            ("scale", scale, "None, a finite number or a Keras layer"),
            ("projection", projection, "None or a Keras layer"),
        ):
            optional = name != "branch" and part is None
            if not (optional or isinstance(part, keras.layers.Layer)):
                raise ValueError(
                    f"{name} must be {expected}. Received: {name}={part!r}"
                )
        if not is_real(skip_weight):
            raise ValueError(
                "skip_weight must be a finite number. "
                f"Received: skip_weight={skip_weight!r}"
            )
        if isinstance(branch, keras.Model):
            # It hands masks on to its layers, but Keras warns that it may not.
            branch.supports_masking = True
        self.branch = branch
        self.scale = scale
        self.projection = projection
        self.skip_weight = float(skip_weight)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        # A symbolic call builds every kind of layer, and tells its shape.
        self.compute_output_shape(input_shape)
        self.built = True

    def call(self, inputs: Any) -> Any:
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
        if any(not (n is None or isinstance(n, int)) for n in input_shape):
            raise ValueError(
                "Residual takes one tensor. "
                f"Received: input_shape={input_shape}"
            )
        inputs = keras.KerasTensor(input_shape, dtype=self.compute_dtype)
        return tuple(self.call(inputs).shape)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        if self.projection is None:
            return previous_mask
        if not self.projection.supports_masking:
            return None
        return self.projection.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
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
        """A residual block from its `get_config`."""
        parts = ("branch", "scale", "projection")
        restore = keras.saving.deserialize_keras_object
        return cls(**config | {name: restore(config[name]) for name in parts})


def _can_add(branch: Sequence[int | None], skip: Sequence[int | None]) -> bool:
    """Whether the shapes are equal, as far as they are known.

    A branch of size 1, where the skip's is not known, would be broadcast.
    """
    return len(branch) == len(skip) and all(
        b == s or b is None or (s is None and b != 1)
        for b, s in zip(branch, skip, strict=True)
    )
