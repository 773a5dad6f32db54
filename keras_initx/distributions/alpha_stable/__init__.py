"""The alpha-stable distribution for TensorFlow Probability."""
