"""Forks processes that run scripts, after one import of Keras.

The import takes seconds of CPU time. It does not start TensorFlow, so that a
forked process can still configure devices and workers.

A line of standard input is a JSON list. `["start", request]` is answered with
the number of the new process, `["poll", number]` with its exit code and CPU
seconds, or with 0 while it runs. The server ends with its standard input.
"""

import gc
import json
import os
import runpy
import sys

import keras  # noqa: F401

from tests.helpers import stacks


def run(request):
    """Runs a script as a new interpreter would."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(request["streams"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["arguments"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")


def main():
    stacks.keep_one_stack()
    # Otherwise a collection in each process copies all that it shares.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        command, argument = json.loads(line)
        if command == "start":
            answer = os.fork()
            if answer == 0:
                return run(argument)
        else:
            number, status, usage = os.wait4(argument, os.WNOHANG)
            answer = number and [
                os.waitstatus_to_exitcode(status),
                usage.ru_utime + usage.ru_stime,
            ]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
