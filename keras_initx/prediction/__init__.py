"""Predictions of the signal and the gradient in a model, before training.

`predict(model)` takes these steps. Words: a *point* is one position of one
sample, a *channel* is one index of the last axis, a *tap* is one entry of the
window of a convolution, and the second moments of a tensor are the matrix
E h_i h_j over its points i and j, a mean over channels and networks.

1. `predict` makes an engine. `wide.WideEngine` computes the limit of wide
   layers, `finite_width.DrawnEngine` the values of drawn networks. Both have
   the operations of `engine.Engine`.
2. `walk.Walk` runs the model on tensors of the class `MomentTensor`, which
   Keras takes for symbolic tensors. Each layer and each operation of
   `keras.ops` that has a rule runs the rule; every other layer runs its own
   `call`.
3. The rules (`rules`, and those that `register_propagation` takes) call the
   steps of `propagation.Propagation`: linear maps, activations, sums and so on.
   It reads the variance of a weight (`weights`), translates positions of one
   sample to points, calls the engine, and records a row at each
   pre-activation.
4. The wide engine makes an `expressions.Expression` of each result: what one
   channel is, as a function of Gaussian vectors. `moments.Moments` computes
   means and second moments of expressions, when a linear map asks for those of
   its input, by closed forms, quadrature, or draws.
   `averaged.AveragedMoments` does so for large images, with means over
   positions (`positions.Table`).
5. Each operation also notes how a gradient of its result becomes gradients of
   its arguments. From the last row back, `Engine.gradients` runs these notes
   in reverse order.
6. `predict` computes the row of each pre-activation from the second moments of
   the signal and of the gradient there.
"""

from keras_initx.prediction import rules as _rules  # noqa: F401
from keras_initx.prediction.registry import register_propagation

__all__ = ["register_propagation"]


def __dir__() -> list[str]:
    return __all__
