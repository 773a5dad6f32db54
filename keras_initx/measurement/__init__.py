"""What a model does to a batch. It listens and changes nothing."""

from keras_initx.measurement.measure import measure

__all__ = ["measure"]
