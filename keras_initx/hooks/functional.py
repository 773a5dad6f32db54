"""Releases the signals of a functional model once no layer needs them.

Outside of a graph, a functional model keeps the outputs of all its layers until
it has run, and so needs the memory of all of them together.

What this module needs of Keras, and what is not documented:

* A functional model, or the one that a `Sequential` model holds in
  `_functional`, runs the nodes in `_nodes_by_depth`, the deepest first.
* Right before it runs a node, it calls `node.arguments.fill_in(signals)`, an
  attribute of the instance, with a dict of the signals that there are, by the
  ids of their symbolic tensors. It runs a node only if all of `input_tensors`
  are there.

`tests/hooks/test_undocumented_keras.py` fails as soon as either is not so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_initx import backend
from keras_initx.hooks.patching import replaced


@contextlib.contextmanager
def releasing_signals(layer: keras.layers.Layer) -> Iterator[None]:
    """The context in which a layer runs that may be a functional model.

    Args:
        layer: The layer, of any kind.
    """
    function = getattr(layer, "_functional", layer)
    # In a graph TensorFlow releases signals.
    if (
        not isinstance(function, keras.Function)
        or not backend.executes_eagerly()
    ):
        yield
        return
    with contextlib.ExitStack() as stack:
        for node, signals in _last_uses(function):
            wrap = _releasing(node.arguments, signals)
            stack.enter_context(replaced(node.arguments, "fill_in", wrap))
        yield


def _last_uses(function: Any) -> list[tuple[Any, list[int]]]:
    """Each node, and the ids of the signals that no later one needs."""
    by_depth = sorted(function._nodes_by_depth.items(), reverse=True)
    nodes = [node for _, of_depth in by_depth for node in of_depth]
    needed = {id(tensor) for tensor in function.outputs}
    uses = []
    for node in reversed(nodes):
        inputs = {id(tensor) for tensor in node.input_tensors}
        uses.append((node, list(inputs - needed)))
        needed |= inputs
    return uses


def _releasing(
    arguments: Any, signals: list[int]
) -> Callable[[Callable], Callable]:
    def wrap(fill_in: Callable) -> Callable:
        def fill_in_and_release(tensors: dict[int, Any]) -> Any:
            # Two models may share a node. Only the inner one is running, so
            # what was put in the place of this method for the outer one, which
            # is `fill_in`, is passed over.
            filled = type(arguments).fill_in(arguments, tensors)
            for signal in signals:
                tensors.pop(signal, None)
            return filled

        return fill_in_and_release

    return wrap
