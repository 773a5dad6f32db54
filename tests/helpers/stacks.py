"""Operations of TensorFlow without the stack of their creation.

Each operation of a graph keeps the Python stack of its creation, for messages
of errors. Stacks are deep in tests, and to keep them takes an eighth of the
time. TensorFlow has no public switch for it.
"""

import functools

from tensorflow.python.util import tf_stack


def keep_one_stack():
    """Makes all operations created later share the stack of the first one."""
    extract = functools.cache(tf_stack.extract_stack)
    tf_stack.extract_stack = lambda stacklevel=1: extract()
