"""Forks processes that run Python, after one import of Keras.

The import takes seconds of CPU time. It does not start TensorFlow, so that a
forked process can still configure devices and workers.

The argument is the number of a file descriptor: a Unix socket for clients. A
client connects for each process, and sends `[command, arguments, environment,
folder]` as JSON, with the descriptors of its three standard streams. The
command is the path of a script, or "-c", where the first argument is the code.
The answers are lines of JSON: the number of the process, and at its end the
exit code and the CPU seconds. A process whose client goes away is killed. The
server ends with its standard input.
"""

import contextlib
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import types

import keras  # noqa: F401

from tests.helpers import stacks

# A pause between two looks at the processes that run, in seconds.
PAUSE = 0.03


def run(command, arguments, environment, folder):
    """Runs a script, or code, as a new interpreter would."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [command, *arguments]
    if command != "-c":
        sys.path[0] = os.path.dirname(command)
        runpy.run_path(command, run_name="__main__")
        return
    sys.path[0] = ""
    code = sys.argv.pop(1)
    sys.modules["__main__"] = main_module = types.ModuleType("__main__")
    exec(code, vars(main_module))


class Server:
    """The processes that run, by the connections of their clients."""

    def __init__(self, incoming):
        self.selector = selectors.DefaultSelector()
        self.incoming = incoming
        self.numbers = {}
        for each in (incoming, sys.stdin):
            self.selector.register(each, selectors.EVENT_READ)

    def serve(self):
        """Returns at the end of standard input, or what a new process runs."""
        while True:
            pause = PAUSE if self.numbers else None
            for key, _ in self.selector.select(pause):
                if key.fileobj is sys.stdin:
                    return None
                if key.fileobj is not self.incoming:
                    # A client writes nothing after its request.
                    os.kill(self.numbers[key.fileobj], signal.SIGKILL)
                    self.selector.unregister(key.fileobj)
                elif request := self.start():
                    return request
            self.tell_ends()

    def start(self):
        """Forks a process, where it returns the request of a client."""
        client, _ = self.incoming.accept()
        message, streams, _, _ = socket.recv_fds(client, 2**16, 3)
        while not message.endswith(b"\n"):
            part = client.recv(2**16)
            if not part:
                # The client died while it sent its request.
                for stream in streams:
                    os.close(stream)
                client.close()
                return None
            message += part
        request = json.loads(message)
        number = os.fork()
        if number == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for place, stream in enumerate(streams):
                os.dup2(stream, place)
                os.close(stream)
            for each in (self.selector, self.incoming, client, *self.numbers):
                each.close()
            return request
        for stream in streams:
            os.close(stream)
        self.numbers[client] = number
        self.selector.register(client, selectors.EVENT_READ)
        tell(client, number)
        return None

    def tell_ends(self):
        """Tells clients of the processes that have ended."""
        for client, number in [*self.numbers.items()]:
            ended, status, usage = os.wait4(number, os.WNOHANG)
            if ended:
                seconds = usage.ru_utime + usage.ru_stime
                tell(client, [os.waitstatus_to_exitcode(status), seconds])
                with contextlib.suppress(KeyError):
                    self.selector.unregister(client)
                client.close()
                del self.numbers[client]


def tell(client, answer):
    # A client that was killed reads nothing.
    with contextlib.suppress(ConnectionError):
        client.sendall(json.dumps(answer).encode() + b"\n")


def main():
    stacks.keep_one_stack()
    # Otherwise a collection in each process copies all that it shares.
    gc.collect()
    gc.freeze()
    # An interrupt from the keyboard is for the processes, whose end is awaited.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if request:
        run(*request)


if __name__ == "__main__":
    main()
