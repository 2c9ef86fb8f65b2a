"""Missing files and unknown names are answered before anything heavy is imported."""

import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_apollo.errors import UserError
from lightning_apollo.recipe.early_checks import require_data, require_manifests, require_trained

# CPU time of a command over that of its command line library alone, measured beside it since a busy machine slows down both:
# about 2.5, and 0.45 s on an idle core. torch alone would make it 10.
MAX_RATIO = 5
YARDSTICK = "import typer, rich.console, importlib.metadata, packaging.requirements"
TRIES = 3  # the best counts
HEAVY = {"torch", "lightning", "transformers", "torchvision", "torchmetrics", "torchcodec"}

# The command line with the packages that it imported as the last line
CLI = f"""
import atexit, sys
atexit.register(lambda: print("heavy:", *sorted({HEAVY} & set(sys.modules))))
from lightning_apollo.cli.main import app
app()
"""

MISSING = {  # command -> what its answer names
    "fit mytusk.yaml": "mytusk.yaml: ",
    "fit videollama3-tyni": " videollama3-tiny",
    "fit videollama3-tiny data.manifests=[no.jsonl]": "no.jsonl: ",
    "fit videollama3-tiny data.manifests=[rows.jsonl] data.root=nowhere": "nowhere: ",
    "fit videollama3-tiny --stage vision_encoder_adaption": " vision_encoder_adaptation",
    "fit mine.yaml": "gone.jsonl: ",
    "fit videollama3-tiny stages.vision_encoder_adaptation.init=gone.safetensors": "gone.safetensors: ",
    "explain videollama3-tyni": " videollama3-tiny",
    "demo videollama3-tyni": " videollama3-tiny",
    "generate videollama3-tyni --prompt x": " videollama3-tiny",
    "generate videollama3-tiny --prompt x": "/model.safetensors ",
    "generate folder --prompt x": "recipe.yaml",
    "generate stage --prompt x": "stage/model.safetensors ",
    "generate export --prompt x --video no.mp4": "no.mp4: ",
    "generate export --prompt x --image no.png": "no.png: ",
    "chat videollama3-tyni": " videollama3-tiny",
    "chat folder": "recipe.yaml",
    "export videollama3-tiny out --stage fine": "stage fine",
    "evaluate folder --benchmark mvbench --data .": "recipe.yaml",
    "evaluate export --benchmark mvbench --data nowhere": "nowhere: ",
    "evaluate export --benchmark chartqa --data . --rule paper": "--judge-url",
    "evaluate export --data no.jsonl": "no.jsonl: ",
    "evaluate export --data rows.jsonl --root nowhere": "nowhere: ",
    "evaluate export --data rows.jsonl --compare folder": "recipe.yaml",
    "evaluate curate no.jsonl": "no.jsonl: ",
    "inspect videollama3-tiny data.manifests=[no.jsonl]": "no.jsonl: ",
    "data index rows.jsonl no.jsonl": "no.jsonl: ",
    "data index --recipe mytusk.yaml": "mytusk.yaml: ",
    "data index --shard 0/2 no.jsonl": "no.jsonl: ",
    "data index merge rows.jsonl no.jsonl": "no.jsonl: ",
    "data index merge --recipe mytusk.yaml": "mytusk.yaml: ",
    "data scan no.jsonl": "no.jsonl: ",
    "data show no-index": "no-index: ",
    "data tune mytusk.yaml": "mytusk.yaml: ",
    "data calibrate videollama3-tyni": " videollama3-tiny",
    "new task --data no.jsonl": "no.jsonl: ",
    "import no.safetensors out": "no.safetensors: ",
    "merge no.safetensors out.safetensors --base base": "no.safetensors: ",
    "consolidate no.ckpt out.safetensors": "no.ckpt: ",
    "study run apollo-tiny-desing": " apollo-tiny-design",
    "study reanalyse no.csv": "no.csv: ",
}
HELP = ("", "fit", "evaluate run", "data scan", "study run")


def run_python(program: str, words: list[str], folder: Path) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Output and CPU seconds of a program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def run_in_time(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The answer of a command that imports nothing heavy and stays below the limit in one of its tries."""
    ratios = []
    for _ in range(TRIES):
        yardstick, _ = run_python(YARDSTICK, [], folder)
        took, done = run_python(CLI, words, folder)
        ratios.append(took / yardstick)
        assert done.stdout.splitlines()[-1].split() == ["heavy:"]
        if ratios[-1] <= MAX_RATIO:
            return done
    pytest.fail(f"{shlex.join(words)}: {min(ratios):.1f} times the CPU time of its command line library")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a manifest, a recipe whose data are gone, a stage that is not finished, and an export."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("folder", "stage", "export"):
        (folder / name).mkdir()
    (folder / "rows.jsonl").write_text("")
    (folder / "mine.yaml").write_text(
        "base: [recipe/videollama3-tiny]\nname: mine\ndata: {manifests: [gone.jsonl], root: .}\n"
    )
    (folder / "stage" / "recipe.yaml").write_text("base: [recipe/videollama3-tiny]\n")
    (folder / "export" / "lightning_apollo.json").write_text("{}")
    return folder


@pytest.mark.parametrize("command", MISSING)
def test_what_is_missing_is_answered_at_once(command: str, folder: Path) -> None:
    done = run_in_time(shlex.split(command), folder)
    assert done.returncode == 2
    assert MISSING[command] in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", HELP)
def test_help_is_shown_at_once(command: str, folder: Path) -> None:
    assert run_in_time([*command.split(), "--help"], folder).returncode == 0


def test_a_manifest_lies_here_or_below_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.jsonl").write_text("")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "below.json").write_text("")
    require_manifests(["here.jsonl", "below.json", str(tmp_path / "here.jsonl")], "root")
    require_manifests(["s3://bucket/rows.jsonl"], "root")
    require_manifests(["in-a-shard.jsonl"], "shards/{000..012}.tar")
    with pytest.raises(UserError, match=r"^away\.jsonl: .*\broot\b"):
        require_manifests(["here.jsonl", "away.jsonl"], "root")


def test_what_no_stage_still_reads_need_not_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(
        "base: [recipe/videollama3-tiny]\nname: two\noutput: out\n"
        "data: {shapes: null, sources: {video_qa: {manifests: [gone.jsonl], root: .}}}\n"
        "stages: {multi_task_fine_tuning: {mixture: {video_qa: 1.0, text: 0.0}}}\n"
    )
    with pytest.raises(UserError, match=r"gone\.jsonl: .*file"):
        require_data("two.yaml", stage="multi_task_fine_tuning", begins=True)
    require_data("two.yaml", ["stages.multi_task_fine_tuning.mixture={text: 0}"], "multi_task_fine_tuning")
    require_data(
        "two.yaml", ["data.sources.video_qa.manifests=['${oc.env:HOME}/rows.jsonl']"], "multi_task_fine_tuning"
    )
    finished = tmp_path / "out" / "multi_task_fine_tuning" / "model.safetensors"
    finished.parent.mkdir(parents=True)
    finished.write_bytes(b"")
    require_data("two.yaml", stage="multi_task_fine_tuning", begins=True)
    require_trained(str(tmp_path / "two.yaml"), stage="multi_task_fine_tuning")
    with pytest.raises(UserError, match=r"^out/video_centric_fine_tuning/model\.safetensors "):
        require_trained("two.yaml")
    (tmp_path / "two").mkdir()
    require_trained("two.yaml", ["output=${name}/../out"], "multi_task_fine_tuning")


def test_paths_are_the_text_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained = tmp_path / "012" / "video_centric_fine_tuning" / "model.safetensors"
    trained.parent.mkdir(parents=True)
    trained.write_bytes(b"")
    Path("own.yaml").write_text("base: [recipe/videollama3-tiny]\nname: 2024_11_28\noutput: 012\n")
    require_trained("own.yaml")
    require_trained("videollama3-tiny", ["output=012"])
    for word, folder in (
        ("output=a #1", "a #1"),
        ("output=x: y", "x: y"),
        ("output='z'", "z"),
        ("output=${name}", "2024_11_28"),
    ):
        with pytest.raises(UserError) as error:
            require_trained("own.yaml", [word])
        assert str(error.value).startswith(f"{folder}/video_centric_fine_tuning/model.safetensors ")
    for name in ("2024_11_28", "a #1.jsonl", "yes", "k: v=w.jsonl"):
        with pytest.raises(UserError) as error:
            require_data("own.yaml", [f"data.manifests=[{name}]"], begins=True)
        assert str(error.value).startswith(f"{name}: ")
        Path(name).write_text("")
        require_data("own.yaml", [f"data.manifests=[{name}]"], begins=True)
