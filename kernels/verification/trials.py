"""Run the tests of an op over a changed copy of its package, in forks of this process."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import ModuleType

import pytest

HYPOTHESIS_IS_LOADED = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # once, for all forks
PYTEST_OPTIONS = ("-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--tb=short", "-W", HYPOTHESIS_IS_LOADED)


@dataclass(frozen=True)
class Trial:
    name: str  # for people
    package: Path
    module: str  # the op: its file in the package is replaced
    source: str  # by this
    test_file: Path
    limit_seconds: float


@dataclass(frozen=True)
class Verdict:
    kind: str  # "survived": the tests pass; "killed": one failed; "crash": the process died; "timeout"
    test: str = ""  # the one that failed, or ran last
    error: str = ""  # the first line of what it said
    seconds: float = 0.0


def run_trials(trials: Sequence[Trial], jobs: int) -> Iterator[tuple[int, Verdict]]:
    """The number of each trial and its verdict, as soon as it has one; `jobs` run at a time."""
    running: dict[int, _Run] = {}
    try:
        for number, trial in enumerate(trials):
            running[number] = _Run(trial)
            while len(running) == jobs:
                yield from _finished(running)
        while running:
            yield from _finished(running)
    finally:
        for run in running.values():
            run.end()


def _finished(running: dict[int, "_Run"]) -> Iterator[tuple[int, Verdict]]:
    """Wait until a run ends or is late, and take such runs out."""
    ended = wait([run.process.sentinel for run in running.values()], min(run.seconds_left for run in running.values()))
    for number, run in list(running.items()):
        if run.process.sentinel in ended or run.seconds_left == 0:
            yield number, running.pop(number).finish(is_late=run.process.sentinel not in ended)


class _Run:
    """A trial that runs: its process and the folder with the changed package, where the process leaves what it found."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.start = time.monotonic()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{trial.module}-"))
        package = self.folder / trial.package.name
        shutil.copytree(trial.package, package, ignore=shutil.ignore_patterns("__pycache__"))
        (package / f"{trial.module}.py").write_text(trial.source)
        self.process = ForkProcess(target=_run_tests, args=(trial, self.folder))
        self.process.start()

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.start + self.trial.limit_seconds - time.monotonic())

    def finish(self, is_late: bool) -> Verdict:
        """The verdict of a process that ended, or that must end now. Raises RuntimeError where the tests could not run."""
        seconds = round(time.monotonic() - self.start, 1)
        try:
            return self._verdict(is_late, seconds)
        finally:
            self.end()

    def _verdict(self, is_late: bool, seconds: float) -> Verdict:
        last_test = _read(self.folder / "running")
        if is_late:
            return Verdict("timeout", last_test, f"more than {self.trial.limit_seconds:.0f} s", seconds)
        self.process.join()
        code = self.process.exitcode
        assert code is not None
        if code == 0:
            return Verdict(**json.loads(_read(self.folder / "verdict")), seconds=seconds)
        if code < 0:
            return Verdict("crash", last_test, signal.Signals(-code).name, seconds)
        raise RuntimeError(f"{self.trial.name}: the tests did not run\n{_read(self.folder / 'output')[-4000:]}")

    def end(self) -> None:
        if self.process.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)  # with whatever it started
        self.process.join()
        shutil.rmtree(self.folder)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


class _CopyFinder(MetaPathFinder):
    """Import the package from the folder of its copy, whatever the tests and pytest's settings put on sys.path."""

    def __init__(self, package: str, folder: Path) -> None:
        self.package, self.folder = package, folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [str(self.folder)]) if fullname == self.package else None


class _FirstFailure:
    """A plugin of pytest that keeps which test failed first, and notes which one runs."""

    def __init__(self, running: Path) -> None:
        self.running, self.test, self.error = running, "", ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running.write_text(_short(nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and not self.test:
            crash = getattr(report.longrepr, "reprcrash", None)
            lines = (crash.message if crash else report.longreprtext).strip().splitlines()
            self.test, self.error = _short(report.nodeid), lines[0 if crash else -1]


def _short(nodeid: str) -> str:
    return nodeid.partition("::")[2] or Path(nodeid).name  # pytest names files from a folder of its own choice


def _run_tests(trial: Trial, folder: Path) -> None:
    """In the fork: the tests over the changed package. Exits with 1 where that says nothing about the change."""
    os.setsid()  # so that a kill reaches what the tests start
    output = os.open(folder / "output", os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.meta_path.insert(0, _CopyFinder(trial.package.name, folder))
    failure = _FirstFailure(folder / "running")
    code = pytest.main([*PYTEST_OPTIONS, str(trial.test_file)], plugins=[failure])
    module = sys.modules.get(f"{trial.package.name}.{trial.module}")
    if module is not None and not Path(module.__file__).is_relative_to(folder):
        sys.exit(f"the tests imported {module.__file__}, not the changed copy in {folder}")
    if code == pytest.ExitCode.OK and module is not None:
        verdict = Verdict("survived")
    elif failure.test:
        verdict = Verdict("killed", failure.test, failure.error)
    else:
        sys.exit(
            f"pytest ended with {code!r} and no failed test; the changed module was imported: {module is not None}"
        )
    (folder / "verdict").write_text(json.dumps({"kind": verdict.kind, "test": verdict.test, "error": verdict.error}))
