"""Every public initializer and layer, for the tests that take all of them.

The rows are those of test_initializers and test_layers, and BUILT for the
initializers that do not draw their weights.
"""

import keras

import keras_initx as kx
from tests.initializers import test_initializers
from tests.layers import test_layers

# name: (keyword seed -> initializer, shape of a kernel)
BUILT = {
    "wave-first": (
        lambda seed: kx.initializers.TriangleWaveKernel(2, 0, seed=seed),
        (3, 8),
    ),
    "wave-hidden": (
        lambda seed: kx.initializers.TriangleWaveKernel(2, 1, seed=seed),
        (8, 8),
    ),
    "wave-bias": (
        lambda seed: kx.initializers.TriangleWaveBias(2, 1, seed=seed),
        (8,),
    ),
}
INITIALIZERS = {
    name: (row.make, (64, 8)) for name, row in test_initializers.ROWS.items()
} | BUILT
# name: (how to make it, what it does to an array of 4 channels)
LAYERS = test_layers.ROWS


def missing() -> set[str]:
    """Public initializers and layers that are no row."""
    made = [make(seed=1) for make, _ in INITIALIZERS.values()]
    made += [make() for make, _ in LAYERS.values()]
    there = {type(each).__name__ for each in made}
    public = set()
    for module, kind in (
        (kx.initializers, keras.Initializer),
        (kx.layers, keras.layers.Layer),
    ):
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, type) and issubclass(thing, kind):
                public.add(name)
    return public - there
