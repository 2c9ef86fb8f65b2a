"""The fork server and what it forks do not hear the signals that ask a run to stop; the process that started it does."""

import json
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, multiprocessing, os, pathlib, signal, sys
from lightning_apollo.data.media.fork_server import start_fork_server

def name(process):
    words = pathlib.Path(f"/proc/{process}/cmdline").read_text()
    return "server" if "forkserver" in words else "tracker"

def blocked(process):
    return int(pathlib.Path(f"/proc/{process}/status").read_text().split("SigBlk:")[1].split()[0], 16)

if __name__ == "__main__":
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    start_fork_server()
    children = pathlib.Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
    context = multiprocessing.get_context("forkserver")
    fork = context.Process(target=signal.pause)
    fork.start()
    print(json.dumps({
        "unchanged": signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before,
        "children": {name(child): blocked(child) for child in children},
        "fork": blocked(fork.pid),
    }))
    fork.kill()
"""


def test_stop_signals_are_blocked_below_the_server_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    command = ["timeout", "-k", "5", "60", sys.executable, str(path)]
    seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    usr1, term = (1 << (number - 1) for number in (signal.SIGUSR1, signal.SIGTERM))
    assert seen["unchanged"]
    assert seen["children"]["tracker"] & usr1  # SIGTERM it ignores by itself
    assert seen["children"]["server"] & (usr1 | term) == usr1 | term
    assert seen["fork"] & (usr1 | term) == usr1 | term
