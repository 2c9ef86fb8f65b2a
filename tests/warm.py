"""Programs forked from a warm Python that has imported torch, Lightning and the package.

    process of the tests ── warm("-m", "tests.launch", ...) ──> a command for `subprocess`, which runs warm_client.py
    warm_client.py ──socket: words, environment, folder; its files 0 to 2──> the warm Python, which forks
    fork ──exit status──> warm_client.py, which ends like it       signals go the other way

A fresh Python needs about five seconds of CPU for those imports. A fork needs none, has one thread, and is as a fresh process in
all else: its words, environment, folder and files are those of the command. No test that measures imports or memory, or sends
signals to a group, may start one.
"""

import array
import atexit
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.places import ROOT

CLIENT = Path(__file__).with_name("warm_client.py")


def warm(*words: str) -> list[str]:
    """Command with the words of `python -m MODULE ...` or `python -c PROGRAM ...`."""
    return [sys.executable, "-I", "-S", str(CLIENT), _server(), *words]


@functools.cache
def _server() -> str:
    """Path of the socket of a warm Python, which ends with this process."""
    path = Path(tempfile.mkdtemp(prefix="warm-")) / "socket"
    command = [sys.executable, "-m", "tests.warm", str(path)]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"warm\n"

    def end() -> None:
        process.communicate()  # closes its standard input
        path.parent.rmdir()

    atexit.register(end)
    return str(path)


def serve(path: str) -> list[str]:
    """Fork for each connection until standard input ends. Returns in the forks alone, with the words that each shall run."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    keepers = 0
    sys.stdout.write("warm\n")
    sys.stdout.flush()
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection = listener.accept()[0]
        if os.fork() == 0:
            listener.close()
            return _keep(connection)
        connection.close()
        keepers += 1
        while keepers and os.waitpid(-1, os.WNOHANG)[0]:
            keepers -= 1
    while keepers:
        os.wait()
        keepers -= 1
    os.unlink(path)
    raise SystemExit


def _keep(connection: socket.socket) -> list[str]:
    """Fork once more. The first process passes signals on, ends the second with its client, and reports its end."""
    files = array.array("i")
    message, ancillary, *_ = connection.recvmsg(1 << 20, socket.CMSG_LEN(3 * files.itemsize))
    files.frombytes(ancillary[0][2])
    request = json.loads(message)
    child = os.fork()
    if child == 0:
        connection.close()
        return _become(request, list(files))
    for file in files:
        os.close(file)
    end = os.pidfd_open(child)
    while end not in select.select([end, connection], [], [])[0]:
        number = connection.recv(1)  # of a signal
        if number:
            os.kill(child, number[0])
        else:
            os.killpg(child, signal.SIGKILL)
            break
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(OSError):  # where the client is gone
        connection.sendall(status.to_bytes(4, "big", signed=True))
    os._exit(0)


def _become(request: dict, files: list[int]) -> list[str]:
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return request["words"]


def run(words: list[str]) -> None:
    """Do what `python WORDS` does."""
    how, program, *arguments = words
    sys.argv = ["-c" if how == "-c" else program, *arguments]
    sys.path[0] = "" if how == "-c" else os.getcwd()
    if how == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})


if __name__ == "__main__":
    import lightning_apollo.cli.main
    import lightning_apollo.runs.fit
    import lightning_apollo.stages  # noqa: F401 (imported for the forks)

    run(serve(sys.argv[1]))
