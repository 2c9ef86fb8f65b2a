"""Do small models rank Apollo's designs as a larger one does, and which questions tell models apart? At the size of a CPU.

    python benchmarks/bench_study.py [--jobs 2]

Runs the study `apollo-tiny-design` (3 LLM widths × 4 variants × 2 seeds; what is finished is not run again), asks each of its
models the held-out questions with the whole video, with one frame and without any, and curates the questions by the answers.
Reports, tables and pictures come to benchmarks/results/apollo_tiny_design and apollo_tiny_curation.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.progress import track

from lightning_apollo.evaluation.ask import ask_trained
from lightning_apollo.evaluation.predictions import results
from lightning_apollo.evaluation.readers.shapes import SHAPES, shapes
from lightning_apollo.evaluation.results import MODES, QuestionResult, write_results
from lightning_apollo.inference.trained import load_trained
from lightning_apollo.study.plan import load_study, plan_runs

STUDY = "apollo-tiny-design"
RESULTS = Path(__file__).parent / "results"
TOP = 250  # of the 750 held-out questions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    jobs = parser.parse_args().jobs
    started = time.monotonic()
    _command("study", "run", STUDY, "--jobs", str(jobs))
    study = load_study(STUDY)
    minutes = (time.monotonic() - started) / 60
    _copy(Path(study.output) / "report", RESULTS / "apollo_tiny_design")
    answers = Path(study.output) / "modes.jsonl"
    write_results(_ask_in_all_modes(), answers)
    _command("evaluate", "curate", str(answers), "--top", str(TOP), "--output", str(RESULTS / "apollo_tiny_curation"))
    print(json.dumps({"study": STUDY, "jobs": jobs, "minutes": round(minutes, 1), "runs": len(plan_runs(study))}))


def _ask_in_all_modes() -> list[QuestionResult]:
    """Answers of every model of the study to every question: seeing the video, one frame of it, or nothing."""
    said: list[QuestionResult] = []
    for run in track(plan_runs(load_study(STUDY)), description="ask in three modes"):
        trained, root = load_trained(run.recipe), Path(run.recipe.data.root)
        for mode in MODES:
            shown = replace(trained, preparer=replace(trained.preparer, visuals=mode))
            said += results(list(ask_trained(shown, list(shapes(root)), root)), SHAPES, run.name, mode)
    return said


def _command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "lightning_apollo", *words], check=True)


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


if __name__ == "__main__":
    main()
