"""Fingerprints of real files: changes of data and start weights that count."""

import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.data.shapes import dataset as shapes
from lightning_apollo.recipe.schema import Recipe, RecipeError
from lightning_apollo.runs import data_digest, file_digest
from lightning_apollo.runs.fingerprint import Origin, differences, read_origin
from tests.media_files import write_clip
from tests.small_data import turns, write_pictures, write_rows
from tests.small_recipe import recipe

STAGE = "videos"


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pictures and a video of 8 frames, with a manifest of both."""
    folder = tmp_path / "data"
    write_pictures(folder, 4)
    write_clip(folder / "clip.mp4", num_frames=8)
    rows = [{"video": "clip.mp4", "conversations": turns("<video>\nWhat?", "A clip.")}]
    write_rows(folder / "all.jsonl", [*map(json.loads, (folder / "pictures.jsonl").read_text().splitlines()), *rows])
    return folder


@cache
def one_stage(folder: Path, *words: str) -> Recipe:
    """The second stage of the small recipe alone, which so begins from random weights."""
    one = recipe(folder, *words)
    return type(one)(**{**vars(one), "stages": {STAGE: one.stages[STAGE]}})


def origin(folder: Path, root: Path, *words: str) -> Origin:
    return read_origin(one_stage(folder, f"data.manifests=[{root / 'all.jsonl'}]", f"data.root={root}", *words), STAGE)


def test_an_origin_survives_json_and_is_canonical() -> None:
    one = Origin({"seed": 1, "data.sources": ["x"]}, {"x": "ab", "x/media": "cd"}, None)
    again = Origin.from_json(json.loads(json.dumps(one.to_json())))
    assert again == one
    assert again.fingerprint == one.fingerprint
    shuffled = Origin(
        dict(sorted(one.settings.items(), reverse=True)), dict(sorted(one.data.items(), reverse=True)), None
    )
    assert shuffled.fingerprint == one.fingerprint
    assert Origin(one.settings, one.data, "weights").fingerprint != one.fingerprint


def test_differences_name_keys_with_both_values() -> None:
    before = Origin({"data.sources": ["x"], "stages.a.trains.llm": 0.001}, {"x": "1", "x/media": "2"}, None)
    now = Origin({"data.sources": ["x"], "seed": 1, "stages.a.trains.llm": 0.0001}, {"x": "3", "x/media": "4"}, "w")
    assert differences(before, before) == []
    assert sorted(differences(before, now)) == [
        "data of source x changed",
        "media of source x changed",
        "seed was 0 and is 1",
        "stages.a.trains.llm was 0.001 and is 0.0001",
        "the start weights changed",
    ]


def test_places_spellings_and_times_do_not_count(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = origin(tmp_path, data)
    assert origin(tmp_path, data, f"data.root={data}/") == first
    assert origin(tmp_path, data, f"data.root={data}/../data") == first
    for file in data.iterdir():
        os.utime(file, ns=(1, 1))
    assert origin(tmp_path, data) == first
    shutil.copytree(data, tmp_path / "elsewhere")
    assert origin(tmp_path, tmp_path / "elsewhere") == first
    (tmp_path / "elsewhere" / "all.jsonl").rename(tmp_path / "renamed.jsonl")
    words = [f"data.manifests=[{tmp_path / 'renamed.jsonl'}]", "data.root=elsewhere"]
    monkeypatch.chdir(tmp_path)
    assert read_origin(one_stage(tmp_path, *words), STAGE) == first


def test_rows_and_media_count(tmp_path: Path, data: Path) -> None:
    first = origin(tmp_path, data)
    picture = data / "001.png"
    kept = picture.read_bytes()
    picture.write_bytes(kept + b"more")
    assert differences(first, origin(tmp_path, data)) == ["media of source custom changed"]
    picture.unlink()
    assert differences(first, origin(tmp_path, data)) == ["media of source custom changed"]  # and no error
    picture.write_bytes(kept)
    assert origin(tmp_path, data) == first
    picture.write_bytes(kept[:-20] + bytes(20))  # pixels are not looked at
    assert origin(tmp_path, data) == first
    with (data / "all.jsonl").open("a") as file:
        file.write(json.dumps({"image": "000.png", "conversations": turns("<image>\nAnd?", "yes")}) + "\n")
    assert "data of source custom changed" in differences(first, origin(tmp_path, data))


def test_a_video_of_the_same_size_and_another_length_counts(tmp_path: Path, data: Path) -> None:
    first = origin(tmp_path, data)
    size = (data / "clip.mp4").stat().st_size
    write_clip(data / "clip.mp4", num_frames=4)
    content = (data / "clip.mp4").read_bytes()
    gap = size - len(content)
    assert gap >= 8, "four frames take less room than eight"
    (data / "clip.mp4").write_bytes(content + gap.to_bytes(4, "big") + b"free" + bytes(gap - 8))  # an empty box
    assert (data / "clip.mp4").stat().st_size == size
    assert differences(first, origin(tmp_path, data)) == ["media of source custom changed"]


def test_files_are_opened_once(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts lie in the cache: a later call asks for sizes and times, and opens what is another file now."""
    probed: list[str] = []
    probe_all = data_digest.probe_all

    def noted(keys: Any, *rest: Any) -> Any:
        probed.extend(Path(key.path).name for key in keys)
        return probe_all(keys, *rest)

    monkeypatch.setattr(data_digest, "probe_all", noted)
    first = origin(tmp_path, data)
    assert origin(tmp_path, data) == first
    assert probed == ["clip.mp4"]
    (data / "clip.mp4").touch()
    assert origin(tmp_path, data) == first
    assert probed == ["clip.mp4", "clip.mp4"]


def test_blind_stages_look_at_no_media(tmp_path: Path, data: Path) -> None:
    first = origin(tmp_path, data, "data.visuals=blind")
    (data / "001.png").unlink()
    assert origin(tmp_path, data, "data.visuals=blind") == first


def test_error_policy_of_rows_counts_only_where_rows_are_left_out(tmp_path: Path, data: Path) -> None:
    """A stage that packs leaves refused rows out; any other stops at them, and resumes once they are allowed."""
    with (data / "all.jsonl").open("a") as file:
        row = {"image": "002.png", "weight": 3, "conversations": turns("<image>\nAnd?", "yes")}
        file.write(json.dumps(row) + "\n")
    assert origin(tmp_path, data) == origin(tmp_path, data, "data.unknown_keys=ignore")
    packing = f"stages.{STAGE}.packing={{max_llm_tokens: 600, max_patches: 2000, micro_batches: 4}}"
    packed = origin(tmp_path, data, packing)
    assert differences(packed, origin(tmp_path, data, packing, "data.unknown_keys=ignore")) == [
        "data of source custom changed"
    ]


def test_what_is_not_there_is_one_line(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.jsonl: .*file"):
        read_origin(one_stage(tmp_path, "data.manifests=[none.jsonl]", f"data.root={data}"), STAGE)
    with pytest.raises(RecipeError, match=r"/dat: .*source custom\b"):
        origin(tmp_path, data, f"data.root={tmp_path / 'dat'}")
    with pytest.raises(RecipeError, match=r"stage videos .*model\.safetensors\b"):
        read_origin(recipe(tmp_path), STAGE)
    with pytest.raises(RecipeError, match=r"stages\.videos\.init: none\.safetensors"):
        read_origin(one_stage(tmp_path, f"stages.{STAGE}.init=none.safetensors"), STAGE)


def test_the_built_in_set_counts_rendered_or_not(tmp_path: Path) -> None:
    words = ("data.shapes.num_clips=2", "data.shapes.num_images=4")
    one = one_stage(tmp_path, *words)
    first = read_origin(one, STAGE)
    assert not Path(one.data.root).exists()  # nothing is rendered for it
    assert one.data.shapes is not None
    shapes.render_shapes(one.data.shapes, Path(one.data.root))
    assert read_origin(one, STAGE) == first
    assert read_origin(one_stage(tmp_path, *words, f"data.root={tmp_path / 'other'}"), STAGE) == first
    manifest = Path(one.data.root) / "video_qa.jsonl"
    manifest.write_text(manifest.read_text().replace("red", "blue", 1))
    assert differences(first, read_origin(one, STAGE)) == ["data of source videos changed"]
    with pytest.raises(shapes.ShapesError, match=r"configuration.*data\.root"):
        read_origin(one_stage(tmp_path, *words, "data.shapes.seed=1"), STAGE)


def test_start_weights_count_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "start.safetensors"
    weights.write_bytes(bytes(2**20 + 1))

    def start(*words: str) -> str | None:
        return read_origin(one_stage(tmp_path, "data.shapes.num_clips=2", *words), STAGE).start

    assert start() is None  # random weights
    first = start(f"stages.{STAGE}.init={weights}")
    reads: list[Path] = []
    read = file_digest._read

    def noted(path: Path) -> str:
        reads.extend([path] if path == weights else [])
        return read(path)

    monkeypatch.setattr(file_digest, "_read", noted)
    assert start(f"stages.{STAGE}.init={tmp_path}/./start.safetensors") == first
    assert reads == []  # noted in the cache
    weights.touch()
    assert start(f"stages.{STAGE}.init={weights}") == first
    assert reads == [weights]
    stage = tmp_path / "stage"
    stage.mkdir()
    shutil.copy(weights, stage / "model.safetensors")
    assert start(f"stages.{STAGE}.init={stage}") == first
    with weights.open("r+b") as file:
        file.seek(2**19)
        file.write(b"1")
    assert start(f"stages.{STAGE}.init={weights}") != first


def test_published_weights_in_a_folder_count_by_their_content(tmp_path: Path) -> None:
    def start(folder: Path) -> str | None:
        return read_origin(one_stage(tmp_path, "data.shapes.num_clips=2", f"model.llm.weights={folder}"), STAGE).start

    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    assert start(one) == start(other) is not None
    (other / "model.safetensors").write_bytes(b"Weights")
    assert start(one) != start(other)
    hub = start(Path("org/some-model"))
    assert hub is not None
    assert hub != start(Path("org/another-model"))
