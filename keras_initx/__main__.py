"""Runs the command line as `python -m keras_initx`."""

import sys

from keras_initx.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
