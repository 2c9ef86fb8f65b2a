"""The wheel in an environment without a checkout, from another folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.machine.checkout import copy_sources, make_environment

pytestmark = pytest.mark.slow

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which the wheel is installed, on top of the packages that are here."""
    folder = tmp_path_factory.mktemp("wheel")
    copy_sources(folder / "checkout")
    offline = ["--no-deps", "--no-index"]
    build = [*PIP, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "checkout")]
    subprocess.run(build, check=True, capture_output=True)
    python = make_environment(folder / "environment")
    (wheel,) = folder.glob("*.whl")
    install = [*PIP, "--python", str(python), "install", *offline, "--ignore-installed", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return python


def command(python: Path, *words: str) -> list[str]:
    return [str(python.with_name("lightning-apollo")), *words]


def environment() -> dict[str, str]:
    """Without PYTHONPATH, by which the checkout would be found."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"NO_COLOR": "1"}


def test_the_package_is_that_of_the_wheel(python: Path, tmp_path: Path) -> None:
    program = "import apollo_kernels, lightning_apollo\nprint(lightning_apollo.__file__, apollo_kernels.__file__)"
    done = subprocess.run(
        [python, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert all(Path(file).is_relative_to(python.parents[1]) for file in done.stdout.split()), done.stdout


@pytest.mark.parametrize(
    ("words", "shown"),
    [(["doctor"], "8 of 8 frames"), (["explain", "videollama3-tiny"], "video_centric_fine_tuning")],
)
def test_commands_need_no_checkout(python: Path, tmp_path: Path, words: list[str], shown: str) -> None:
    done = subprocess.run(
        command(python, *words), cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert shown in done.stdout


def test_the_demo_trains(python: Path, tmp_path: Path) -> None:
    """Until the first step is logged; `make demo` goes to the end."""
    log = tmp_path / "demo.log"
    with log.open("w") as output:
        demo = subprocess.Popen(
            command(python, "demo"),
            cwd=tmp_path,
            env=environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + 900
        while demo.poll() is None and time.monotonic() < until and not _logged_steps(tmp_path):
            time.sleep(1)
        assert demo.poll() is None, log.read_text()
        assert _logged_steps(tmp_path), log.read_text()
    finally:
        os.killpg(demo.pid, signal.SIGKILL)
        demo.wait()


def _logged_steps(folder: Path) -> list[str]:
    return [line for path in folder.glob("runs/demo/full/*/metrics.csv") for line in path.read_text().splitlines()[1:]]
