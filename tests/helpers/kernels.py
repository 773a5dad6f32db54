"""Operations of TensorFlow that stay ready from one test to the next.

TensorFlow drops the kernels of all operations at each new seed, and Keras when
it resets its names. To make them again takes most of the time of small tests.
TensorFlow has no public switch for it.
"""

import contextlib

from tensorflow.python import pywrap_tfe

_NAME = "TFE_ContextClearCaches"


@contextlib.contextmanager
def kept():
    """Keeps the kernels in spite of new seeds and of `clear_session`.

    A kernel that draws random numbers is of one seed, so that those of another
    seed are not affected.
    """
    clear = getattr(pywrap_tfe, _NAME)
    setattr(pywrap_tfe, _NAME, lambda handle: None)
    try:
        yield
    finally:
        setattr(pywrap_tfe, _NAME, clear)
