"""The process that a test starts in the place of a Python of its own; see warm.py. Imports little, so that it starts at once.

python -I -S warm_client.py SOCKET -m MODULE ... | -c PROGRAM ...
"""

import array
import json
import os
import signal
import socket
import sys

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> int:
    path, *words = sys.argv[1:]
    request = {"words": words, "environment": dict(os.environ), "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
        server.sendmsg([json.dumps(request).encode()], files)
        for number in SIGNALS:
            signal.signal(number, lambda number, _: server.send(bytes([number])))
        return int.from_bytes(server.recv(4), "big", signed=True)


if __name__ == "__main__":
    code = main()
    if code < 0:  # a signal
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
