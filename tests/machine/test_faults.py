"""Real faults of the machine, each as one line with the fix. Mistakes of ours keep their traceback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from torch.utils.data import DataLoader

from lightning_apollo.cli.user_errors import errors_in_one_line

# On its own disk, in the folder that is named: full, then out of inodes, then read-only; then without a permission
DISKS = """
import os, subprocess, sys
from pathlib import Path
import typer
from lightning_apollo.cli.user_errors import errors_in_one_line

def attempt(action):
    try:
        with errors_in_one_line(debug=False):
            action()
    except typer.Exit as error:
        print(f"code {error.exit_code}", file=sys.stderr)

folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=4", "tmpfs", folder], check=True)
attempt(lambda: (folder / "large").write_text("x" * 100_000))
(folder / "large").unlink()
attempt(lambda: [(folder / str(number)).mkdir() for number in range(9)])
subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
attempt(lambda: (folder / "0" / "run").mkdir())
"""
PERMISSION = """
import os, sys
from pathlib import Path
from lightning_apollo.cli.user_errors import errors_in_one_line
if os.geteuid() == 0:
    os.seteuid(65534)
with errors_in_one_line(debug=False):
    Path(sys.argv[1]).mkdir()
"""


def line_of(action: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(typer.Exit) as ended, errors_in_one_line(debug=False):
        action()
    assert ended.value.exit_code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def run_program(program: str, folder: Path, *launcher: str) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [*launcher, sys.executable, "-c", program, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stderr.splitlines()


def test_a_full_or_read_only_disk_is_one_line_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "a disk"
    folder.mkdir()
    launcher = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]
    full, code, inodes, code_again, read_only, last_code = run_program(DISKS, folder, *launcher)
    assert str(folder) in full.split(": no space left on the disk: make room there, or write elsewhere")[0]
    assert inodes == f"{folder}/3: no space left on the disk: make room there, or write elsewhere"
    assert read_only == f"{folder}/0/run: on a disk that is read-only: write elsewhere, for example output=FOLDER"
    assert {code, code_again, last_code} == {"code 2"}


def test_a_missing_permission_is_one_line() -> None:
    folder = Path("/tmp") / f"lightning_apollo_permission_{os.getpid()}"
    folder.mkdir(mode=0o500)
    try:
        (line, *_) = run_program(PERMISSION, folder / "run")
    finally:
        shutil.rmtree(folder)
    assert line == f"{folder}/run: no permission: change it with chmod or chown, or name another place"


def test_a_place_that_cannot_be_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "[file]"
    file.write_text("")
    below, long = file / "x", tmp_path / ("n" * 300)
    (tmp_path / "loop").symlink_to("loop")
    lines = {
        below: "a file lies where a folder is wanted: name another place, or move the file away",
        file: "a file lies where a folder is wanted: name another place, or move the file away",
        long: "a name longer than the disk allows: shorten it",
        tmp_path / "loop" / "x": "symbolic links that lead in a circle: correct them",
    }
    for path, line in lines.items():
        made = line_of(lambda path=path: path.mkdir(exist_ok=True), capsys)
        assert made == f"{path}: {line}"
    assert line_of(lambda: tmp_path.write_text("x"), capsys) == (
        f"{tmp_path}: a folder lies where a file is wanted: name another file"
    )


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        line = line_of(lambda: torch.distributed.TCPStore("127.0.0.1", port, is_master=True), capsys)  # pyright: ignore[reportPrivateImportUsage]
    assert line == f"port {port} is taken: set MASTER_PORT to a free one"


class _Killed(torch.utils.data.Dataset[int]):
    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), self.number)
        return index


@pytest.mark.parametrize(
    ("number", "line"),
    [(signal.SIGBUS, "no shared memory left: give /dev/shm more"), (signal.SIGKILL, "lower data.num_workers")],
)
def test_a_worker_without_memory_is_one_line(
    number: signal.Signals, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loader = DataLoader(_Killed(number), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(typer.Exit), errors_in_one_line(debug=False):
        list(loader)
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "none", "gone"), PermissionError(1, "of a signal"), RuntimeError("ours"), OSError()]
)
def test_what_may_be_a_mistake_of_ours_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), errors_in_one_line(debug=False):
        raise error
    with pytest.raises(OSError, match="full"), errors_in_one_line(debug=True):
        raise OSError(28, "full", "place")
