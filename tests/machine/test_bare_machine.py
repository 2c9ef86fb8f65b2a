"""A machine without FFmpeg: a copy of the checkout, in a mount namespace in which its libraries are hidden."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_apollo.machine import ffmpeg
from tests.machine.checkout import copy_installed
from tests.machine.commands import VIDEO_COMMANDS

pytestmark = pytest.mark.slow

LIBRARY = re.compile(r"lib(?:av(?:util|codec|format|device|filter)|sw(?:scale|resample))\.so")
WITHOUT = ("apt-get", "sudo")  # with neither nothing can be installed
APT_GET = """#!/bin/sh
echo "$@" >> {log}
case "$1" in install) {install} ;; esac
"""


class Machine:
    """A checkout, and the ways to run something in it with FFmpeg's libraries hidden."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout = folder / "checkout"
        self.programs = folder / "programs"
        self.files = [*map(shlex.quote, ffmpeg_files())]
        self.checkout.mkdir()
        copy_installed(self.checkout)
        link_programs(self.programs)
        hide = [f"mount --bind /dev/null {file} || exit 99" for file in self.files]
        (folder / "hide.sh").write_text("\n".join([*hide, 'exec "$@"']) + "\n")

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inside = ["unshare", "-rm", "sh", str(self.folder / "hide.sh"), *command]
        inherited = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        variables = {**inherited, "PATH": str(self.programs), "COLUMNS": "250", "NO_COLOR": "1", **environment}
        return subprocess.run(inside, cwd=self.checkout, env=variables, capture_output=True, text=True, check=False)

    def with_apt_get(self, install: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """`make setup` where apt-get does `install`, and what apt-get was asked for."""
        folder, log = self.folder / "apt", self.folder / "apt.log"
        folder.mkdir(exist_ok=True)
        log.write_text("")
        (folder / "apt-get").write_text(APT_GET.format(log=shlex.quote(str(log)), install=install))
        (folder / "apt-get").chmod(0o755)
        done = self.run("make", "setup", PATH=f"{folder}:{self.programs}")
        return done, log.read_text().splitlines()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    done = subprocess.run(["unshare", "-rm", "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"the kernel refuses a mount namespace, so that nothing can be proven here: {done.stderr.strip()}")
    return Machine(tmp_path_factory.mktemp("bare"))


def ffmpeg_files() -> list[str]:
    """Every file of FFmpeg's libraries that a loader can find here."""
    cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    named = [line.partition(" => ")[2] for line in cache.splitlines()]
    searched = [f"{prefix}/lib" for prefix in (sys.prefix, sys.base_prefix, "/usr", "/usr/local")]
    searched += [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    named += [str(path) for folder in searched for path in Path(folder).glob("lib*.so*")]
    return sorted({os.path.realpath(path) for path in named if LIBRARY.match(Path(path).name)})


def link_programs(folder: Path) -> None:
    """Fill a folder with what PATH has, but with what could install something."""
    folder.mkdir()
    for path in (path for place in os.environ["PATH"].split(":") for path in Path(place).glob("*")):
        if path.name not in WITHOUT and not (folder / path.name).is_symlink():
            (folder / path.name).symlink_to(path)


@pytest.mark.parametrize("target", ["setup", "demo"])
def test_make_fails_and_names_ffmpeg(machine: Machine, target: str) -> None:
    done = machine.run("make", target)
    assert done.returncode == 2, done.stdout
    line, *rest = done.stderr.splitlines()
    assert line == f"FFmpeg's libraries are missing: {ffmpeg.fix()}"
    assert all(word.startswith("make: ***") for word in rest)


def test_make_installs_where_it_may(machine: Machine) -> None:
    done, asked = machine.with_apt_get(f"umount {' '.join(machine.files)}")
    assert done.returncode == 0, done.stderr
    assert asked == ["update -qq", "install -y -qq --no-install-recommends ffmpeg"]
    assert done.stdout == "installing ffmpeg with apt-get\n"


def test_make_fails_where_the_installation_does(machine: Machine) -> None:
    done, asked = machine.with_apt_get("exit 100")
    assert done.returncode == 2
    assert len(asked) == 2
    assert done.stderr.splitlines()[0] == f"FFmpeg's libraries are missing: {ffmpeg.fix()}"


@pytest.mark.parametrize("name", ["demo", "fit", "generate", "data scan", "inspect"])
def test_commands_say_it_in_one_line(machine: Machine, name: str) -> None:
    done = machine.run(".venv/bin/lightning-apollo", *VIDEO_COMMANDS[name])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"FFmpeg's libraries are missing: {ffmpeg.fix()}\n"


def test_the_doctor_says_the_same(machine: Machine) -> None:
    done = machine.run(".venv/bin/lightning-apollo", "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count("FFmpeg's libraries are missing") == done.stdout.count(ffmpeg.fix()) == 2


@pytest.mark.parametrize("number", [55, 99])
def test_another_version_is_told_apart(machine: Machine, number: int) -> None:
    version = ffmpeg.loadable_version()
    assert version is not None
    name = ffmpeg.file_name("avutil", ffmpeg.LIBRARIES[version]["avutil"])
    (real,) = (file for file in ffmpeg_files() if Path(file).name.startswith(name))
    other = machine.folder / f"version{number}"
    other.mkdir()
    shutil.copy(real, other / f"libavutil.so.{number}")
    done = machine.run("make", "setup", LD_LIBRARY_PATH=str(other))
    reason = f"FFmpeg has a version that torchcodec does not take (libavutil.so.{number}; it takes 4 to 9)"
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"{reason}: {ffmpeg.fix()}"
