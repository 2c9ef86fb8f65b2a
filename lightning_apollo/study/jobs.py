"""Runs of a study in child processes, or as one Slurm array."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from lightning_apollo.study.score import LOG, StudyScore, read_score

if TYPE_CHECKING:
    from lightning_apollo.study.plan import StudyRun

    Command = Callable[[StudyRun], list[str]]
    Report = Callable[[StudyRun, StudyScore | None], None]  # told of every run that ends; None: it failed

_SLURM = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
# Hand this to sbatch from the folder it was printed in, with what a task may use: sbatch --cpus-per-task=4 --time=2:00:00 SCRIPT
runs=(
{runs}
)
run=${{runs[$SLURM_ARRAY_TASK_ID]}}
folder={output}/$run
mkdir -p "$folder"
lightning-apollo study run {study} --only "$run" > "$folder/{log}" 2>&1
"""


def cli_command(study: str, threads: int | None) -> Command:
    """Command that starts one run of a study."""
    words = [] if threads is None else ["--threads", str(threads)]
    return lambda run: [*(sys.executable, "-m", "lightning_apollo", "study", "run", study, "--only", run.name, *words)]


def run_all(
    runs: Sequence[StudyRun], jobs: int, command: Command, threads: int | None, report: Report
) -> list[StudyRun]:
    """The runs that failed, after starting a process for each of `runs`, at most `jobs` at a time.

    A run whose process leaves no score has failed, and stops no other.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    failed = []
    pool = ThreadPoolExecutor(max_workers=jobs)
    try:
        waiting = {pool.submit(_run_process, run, command(run), environment): run for run in runs}
        for future in as_completed(waiting):
            run, score = waiting[future], future.result()
            if score is None:
                failed.append(run)
            report(run, score)
    finally:  # Ctrl-C reaches the processes by itself; what has not begun shall not begin
        pool.shutdown(cancel_futures=True)
    return failed


def slurm_script(study: str, name: str, output: str, runs: Sequence[StudyRun]) -> str:
    """A script for sbatch with one array task for each run; `study` is what the command line calls it."""
    return _SLURM.format(
        name=shlex.quote(name),
        last=len(runs) - 1,
        runs="\n".join(f"  {run.name}" for run in runs),
        output=shlex.quote(output),
        study=shlex.quote(study),
        log=LOG,
    )


def _run_process(run: StudyRun, command: list[str], environment: dict[str, str]) -> StudyScore | None:
    log = run.folder / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    with log.open("a") as file:  # appending: a process that a killed study left behind may still write to it
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode
        if code < 0:
            file.write(f"ended by signal {-code}\n")
    return read_score(run) if code == 0 else None
