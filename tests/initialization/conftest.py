"""Fixtures of the tests of models that exist."""

import keras
import pytest


@pytest.fixture
def application(monkeypatch):
    """Returns a function that builds a model of `keras.applications`.

    Its kernels are zero: no test needs the millions of numbers that Keras
    would draw for them.
    """

    def zeros(self, shape, dtype=None):
        return keras.ops.zeros(shape, dtype)

    def build(name, **options):
        make = getattr(keras.applications, name)
        with monkeypatch.context() as patch:
            patch.setattr(keras.initializers.VarianceScaling, "__call__", zeros)
            return make(weights=None, **options)

    return build
