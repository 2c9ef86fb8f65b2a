"""Run a function on N gloo ranks of this machine, with a deadline for stuck ranks.

A warm Python forks them, so that N ranks cost no import.
"""

import importlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable

from tests.places import ROOT
from tests.warm import warm


def launch(num_ranks: int, target: str, *arguments: str, deadline_seconds: int = 240) -> subprocess.CompletedProcess:
    """Call `target` ("module:function") with `arguments` on every rank, and return the exit code and what they wrote.

    The exit code is that of the first rank that failed, and the others are killed then; 124 and 137 mean the deadline.
    """
    command = ["timeout", "-k", "5", str(deadline_seconds), *warm("-m", "tests.launch")]
    return subprocess.run(
        [*command, str(num_ranks), target, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _main(num_ranks: int, target: str, *arguments: str) -> int:
    module, name = target.split(":")
    function = getattr(importlib.import_module(module), name)
    ranks = [_fork(rank, num_ranks, function, arguments) for rank in range(num_ranks)]
    while ranks:
        process, status = os.wait()
        ranks.remove(process)
        if code := os.waitstatus_to_exitcode(status):
            for other in ranks:
                os.kill(other, signal.SIGKILL)
            return code if code > 0 else 128 - code
    return 0


def _fork(rank: int, num_ranks: int, function: Callable[..., None], arguments: tuple[str, ...]) -> int:
    """The process id of the new rank."""
    process = os.fork()
    if process:
        return process
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(num_ranks)}
    try:
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # what pytest or a process group would still do at exit belongs to no rank


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1]), *sys.argv[2:]))
