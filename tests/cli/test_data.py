"""The commands of `lightning-apollo data`. Tables, exit codes, mistakes in one line, help without torch."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.data.index.tables import Index
from tests.media_files import write_clip
from tests.small_data import turns, write_pictures, write_rows

HEAVY = ("torch", "lightning", "transformers", "torchcodec", "omegaconf", "pyarrow", "numpy")


def run(*words: object) -> Any:
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner().invoke(app, ["data", *map(str, words)], env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures, one of them broken, and a clip of 4 seconds with a question."""
    folder = tmp_path_factory.mktemp("data")
    write_pictures(folder, 20, broken=[3])
    write_clip(folder / "clip.mp4", 40, 10)
    rows = [{"video": "clip.mp4", "conversations": turns("<video>\nWhat comes first?", "red")}]
    write_rows(folder / "films.jsonl", [*rows, {"conversations": turns("Why?", "Because.")}])
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> Path:
    result = run("index", *manifests(folder), "--root", folder, "--output", folder / "index", "--jobs", 0)
    assert result.exit_code == 0, result.output
    assert re.search(r"index: 22 rows \(1 broken\), 21 files \(1 broken\), fingerprint [0-9a-f]{12}\n$", result.stdout)
    return folder / "index"


def manifests(folder: Path) -> list[Path]:
    return [folder / "pictures.jsonl", folder / "films.jsonl"]


@pytest.mark.parametrize("command", ["", "index", "index merge", "scan", "show"])
def test_help_loads_nothing_heavy(command: str) -> None:
    words = [*command.split(), "--help"]
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom lightning_apollo.cli.main import app\n"
        f"assert CliRunner().invoke(app, {['data', *words]!r}).exit_code == 0\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_manifests_become_sources_by_name(made: Path) -> None:
    assert Index(made).sources == ("pictures", "films")


def test_scan_says_what_is_broken_and_fails_above_the_share(made: Path, folder: Path, tmp_path: Path) -> None:
    result = run("scan", made, "--csv", tmp_path / "broken.csv")
    assert result.exit_code == 1  # 5 % of the pictures
    assert "5.00%" in result.stdout
    assert "003.png: " in result.stdout
    assert (tmp_path / "broken.csv").read_text().count("\n") == 2
    assert run("scan", made, "--max-error-share", 0.05).exit_code == 0
    assert run("scan", made, "--max-error-share", 0.04).exit_code == 1
    direct = run("scan", *manifests(folder), "--root", folder, "--jobs", 0)
    assert direct.exit_code == 1
    assert direct.stdout == run("scan", made).stdout
    assert run("scan", folder / "films.jsonl", "--root", folder, "--jobs", 0).exit_code == 0


def test_scan_finds_corrupt_pixels_unless_headers_alone_are_asked_for(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    whole = (tmp_path / "001.png").read_bytes()
    (tmp_path / "001.png").write_bytes(whole[: len(whole) // 2])
    words = ["scan", tmp_path / "pictures.jsonl", "--root", tmp_path, "--jobs", 0]
    result = run(*words)
    assert result.exit_code == 1
    assert "001.png: " in result.stdout
    assert run(*words, "--headers-only").exit_code == 0


def test_show_says_what_the_sources_hold(made: Path) -> None:
    text = run("show", made).stdout
    assert re.search(r"pictures +│ +20 │ +1 │ +19 │ +0 │ +0\.00 │", text)
    assert re.search(r"films +│ +2 │ +0 │ +0 │ +1 │", text)
    assert "samples by bytes of text" in text
    assert "█" in text


def test_show_with_a_recipe_says_what_samples_cost(folder: Path, tmp_path: Path) -> None:
    words = ["videollama3-tiny", f"data.manifests=[{folder / 'films.jsonl'}]", f"data.root={folder}"]
    result = run("index", "--recipe", *words, f"output={tmp_path}", "--jobs", 0)
    assert result.exit_code == 0, result.output
    result = run("show", tmp_path / "index", "--recipe", *words)
    assert result.exit_code == 0, result.output
    (visual,) = re.findall(r"custom +│ visual +│ +(\d+) │ +(\d+) │ +(\d+) │ +(\d+) │ +0", result.stdout)
    assert visual[0] == visual[3]  # one video, and a text that shows nothing
    assert 32 <= int(visual[0]) <= 64  # 8 frames of at least 4 tokens in a budget of 64
    assert "counted exactly" in result.stdout
    other = run("show", tmp_path / "index", "--recipe", *words, "data.system_prompt=Sing.")
    assert "upper bounds for 2 of 2 samples (the index was made without this recipe's tokenizer" in other.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "nowhere"], r"nowhere: .*path"),
        (["scan", "none.jsonl"], r"none\.jsonl: .*manifest"),
        (["index"], r".*\bindex: .*--recipe"),
        (["index", "--recipe", "videollama3-tiny", "sed=7"], r"sed=7: sed: .*\bseed\b"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2
    assert re.match(message, result.stderr.strip().splitlines()[-1])


def test_a_stage_that_is_not_there_is_a_mistake(made: Path) -> None:
    result = run("show", made, "--recipe", "videollama3-tiny", "--stage", "vision_encoder_adaption")
    assert result.exit_code == 2
    assert " vision_encoder_adaption, " in result.stderr


def test_keys_that_are_not_read_are_refused_or_counted(folder: Path, tmp_path: Path) -> None:
    talk = turns("Why?", "So.")
    rows = [
        {"conversations": talk},
        {"tools": "x", "conversations": talk},
        {"tools": "y", "mood": 1, "conversations": talk},
    ]
    path = write_rows(tmp_path / "chat.jsonl", rows)
    refused = run("scan", path, "--jobs", 0)
    assert refused.exit_code == 1
    assert "'tools' is not read" in " ".join(refused.stdout.split())
    ignored = run("scan", path, "--jobs", 0, "--unknown-keys", "ignore")
    assert ignored.exit_code == 0
    assert ignored.stdout.splitlines()[-2:] == [
        f"chat: ignored 'tools' in 2 rows, for example {path}, row 2",
        f"chat: ignored 'mood' in 1 rows, for example {path}, row 3",
    ]
    wrong = run("scan", path, "--unknown-keys", "drop")
    assert wrong.exit_code == 2
    assert "--unknown-keys " in wrong.stderr


def test_shards_are_merged_into_the_index_of_one_process(folder: Path, made: Path, tmp_path: Path) -> None:
    words = [*manifests(folder), "--root", folder, "--output", tmp_path]
    refused = run("index", "merge", *words)
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1].endswith("make them with `lightning-apollo data index --shard i/n`")
    first, done = (run("index", "--shard", f"{number}/2", "--jobs", 0, *words) for number in range(2))
    assert (first.exit_code, done.exit_code) == (0, 0), first.output + done.output
    files, broken = re.findall(rf"{tmp_path}: shard 1/2: 0 rows, (\d+) files \((\d) broken\); when all 2", done.stdout)[
        0
    ]
    assert 0 < int(files) < 21
    assert int(broken) < 2
    command = done.stdout.splitlines()[-1].split(" are done: lightning-apollo data ")[1]
    merged = run(*shlex.split(command))
    assert merged.exit_code == 0, merged.output
    said = rf"{tmp_path}: 22 rows \(1 broken\), 21 files \(1 broken\), fingerprint [0-9a-f]{{12}}; next: (.+)\n$"
    (following,) = re.findall(said, merged.stdout)
    assert following == f"lightning-apollo data show {tmp_path}"
    for name in ("media.parquet", "samples.parquet", "media.arrow", "samples.arrow"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()
    assert run("show", tmp_path).stdout == run("show", made).stdout


def test_shards_of_a_recipe_count_its_tokens(folder: Path, tmp_path: Path) -> None:
    films = ["videollama3-tiny", f"data.manifests=[{folder / 'films.jsonl'}]", f"data.root={folder}"]
    words = ["--recipe", *films, f"output={tmp_path}"]
    assert run("index", *words, "--jobs", 0, "--output", tmp_path / "one").exit_code == 0
    first, done = (run("index", *words, "--shard", f"{number}/2", "--jobs", 0) for number in (1, 0))
    assert (first.exit_code, done.exit_code) == (0, 0), first.output + done.output
    assert run(*shlex.split(done.stdout.splitlines()[-1].split(" are done: lightning-apollo data ")[1])).exit_code == 0
    assert (tmp_path / "index" / "samples.parquet").read_bytes() == (tmp_path / "one" / "samples.parquet").read_bytes()
    shown = run("show", tmp_path / "index", "--recipe", *films)
    assert "counted exactly" in shown.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index", "--shard", "4/4", "{films}"], "--shard 4/4: of 4 shards, i is from 0 to 3"),
        (["index", "--shard", "x", "{films}"], "--shard x: write i/n, as 0/4 to 3/4, or auto"),
        (["index", "merge", "none.jsonl"], "none.jsonl: no such file: correct the path of the manifest"),
        (["index", "merge"], "nothing to index: name manifests, or a recipe with --recipe"),
    ],
)
def test_a_mistake_with_shards_is_one_line_and_code_2(
    words: list[str], message: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*(word.format(films=folder / "films.jsonl") for word in words))
    assert (result.exit_code, result.stderr.strip().splitlines()[-1]) == (2, message)
