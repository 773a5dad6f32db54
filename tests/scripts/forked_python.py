"""Runs code as `python -c` does, in a process that has imported Keras.

The arguments are the address of tests/scripts/fork_server.py, and those of the
interpreter: options without a value, "-c", the code and its arguments. This
process passes its streams on, waits, and exits as the other one does.
"""

import json
import os
import signal
import socket
import sys


def main():
    # An interrupt from the keyboard is for the other process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    address, *arguments = sys.argv[1:]
    arguments = arguments[arguments.index("-c") + 1 :]
    request = ["-c", arguments, dict(os.environ), os.getcwd()]
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        message = json.dumps(request).encode() + b"\n"
        sent = socket.send_fds(server, [message], [0, 1, 2])
        server.sendall(message[sent:])
        # Who reads these streams waits for the other process alone.
        for stream in range(3):
            os.close(stream)
        _, ended = server.makefile()
    code, _ = json.loads(ended)
    os._exit(code if code >= 0 else 128 - code)


main()
