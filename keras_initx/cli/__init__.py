"""The command line, `keras-initx` or `python -m keras_initx`."""
