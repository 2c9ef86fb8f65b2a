"""The built-in video QA set: answers from single frames, contents of its files and interrupted renders."""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from random import Random

import pytest
import torch
from omegaconf import OmegaConf

from lightning_apollo.data.annotations.manifest import check_manifest, read_manifest
from lightning_apollo.data.media.video import decode, load_image, probe
from lightning_apollo.data.sampling.budget import BudgetConfig, target_sizes
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import sample_timestamps
from lightning_apollo.data.shapes.dataset import HELD_OUT_QUESTIONS, REPEATS, ShapesConfig, render_shapes, texts
from lightning_apollo.data.shapes.render import draw_still
from lightning_apollo.data.shapes.scene import (
    BORDERS,
    COLOURS,
    LAMPS,
    NUM_STORIES,
    NUMBERS,
    QUESTIONS,
    Scene,
    Still,
    clip_scene,
    describe_image,
)
from tests.places import ROOT

SMALL = ShapesConfig(num_clips=6, num_held_out=2, num_images=8, seed=3)
SHAPES_YAML = ROOT / "conf" / "data" / "shapes.yaml"
TEMPORAL = [kind for kind, question in QUESTIONS.items() if question.is_temporal]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    render_shapes(SMALL, folder)
    return folder


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tiny_data() -> dict:
    tree = OmegaConf.to_container(OmegaConf.load(SHAPES_YAML), resolve=True)
    assert isinstance(tree, dict)
    return tree["data"]


def watched_answer(question: str, stills: tuple[Still, ...]) -> str:
    """The answer of someone who watches the eight stills one after another and knows nothing of how they were made."""
    colours = list(dict.fromkeys(still.colour for still in stills))
    lamp = "".join("1" if still.is_lit else "0" for still in stills)
    return {
        "Which colour came first?": colours[0],
        "Which colour came last?": colours[-1],
        "In which order did the colours come?": ", ".join(colours),
        "How many flashes?": NUMBERS[len(lamp.replace("0", " ").split()) - 1],
        "What colour is the border?": stills[0].border,
    }[question]


@pytest.fixture(scope="module")
def stories() -> list[Scene]:
    """Every order, split of eight slots into four lengths, and lamp, with one border."""
    lengths = [split for split in product((1, 2, 3), repeat=4) if sum(split) == 8]
    return [Scene(*story, "white") for story in product(permutations(COLOURS), lengths, LAMPS)]


def test_every_story_is_told_once(stories: list[Scene]) -> None:
    scenes = [clip_scene(7, index) for index in range(NUM_STORIES)]
    assert set(scenes) == {replace(story, border=border) for story, border in product(stories, BORDERS)}
    assert len(scenes) == len(set(scenes)) == 36480
    assert scenes[:20] == [clip_scene(7, index) for index in range(20)]
    assert scenes[:20] != [clip_scene(8, index) for index in range(20)]
    with pytest.raises(ValueError, match=r"^clip 36480\b.*\b36480 different"):
        clip_scene(7, NUM_STORIES)


@pytest.mark.parametrize("kind", TEMPORAL)
def test_one_still_leaves_every_answer_equally_likely(kind: str, stories: list[Scene]) -> None:
    """Exact, over all stories and slots: P(answer | colour and lamp of the still) is uniform over the choices."""
    answers: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    for scene in stories:
        for still in scene.stills():
            answers[still.colour, still.is_lit][QUESTIONS[kind].answer(scene)] += 1
    assert set(answers) == set(product(COLOURS, (False, True)))
    for counts in answers.values():
        assert set(counts) == set(QUESTIONS[kind].choices)
        assert len(set(counts.values())) == 1


def test_the_lamp_is_lit_half_the_time_however_often_it_flashes_and_in_whichever_slot() -> None:
    drawn = ["".join(".#"[is_lit] for is_lit in lamp) for lamp in LAMPS]
    assert len(set(drawn)) == 20
    assert Counter(len(lamp.replace(".", " ").split()) for lamp in drawn) == {1: 5, 2: 5, 3: 5, 4: 5}
    assert {lamp.count("#") for lamp in drawn} == {4}
    assert {sum(lamp[slot] == "#" for lamp in drawn) for slot in range(8)} == {10}
    assert {lamp[::-1] for lamp in drawn} == set(drawn)


def test_best_guess_from_one_random_still_on_held_out_clips() -> None:
    """A table of the most frequent answer to (all that a still shows, question) is the best single-frame model."""
    num_training, num_held_out = 16000, 4000
    votes: dict[tuple, Counter[str]] = defaultdict(Counter)  # the blind model's keys are the questions alone
    single_frame, blind = Counter(), Counter()
    for index in range(num_training + num_held_out):
        scene, random = clip_scene(0, index), Random(index)
        still = random.choice(scene.stills())
        for kind, question in QUESTIONS.items():
            answer = question.answer(scene)
            seen = (kind, still.border) if kind == "border" else (kind, still.colour, still.is_lit)
            if index < num_training:
                votes[seen][answer] += 1
                votes[kind,][answer] += 1
            else:
                single_frame[kind] += votes[seen].most_common(1)[0][0] == answer
                blind[kind] += votes[kind,].most_common(1)[0][0] == answer
    for kind, question in QUESTIONS.items():
        assert abs(blind[kind] / num_held_out - question.chance) < 0.03, kind
        expected = question.chance if question.is_temporal else 1.0
        assert abs(single_frame[kind] / num_held_out - expected) < 0.03, kind


@pytest.mark.parametrize("kind", QUESTIONS)
def test_answers_are_what_a_viewer_says(kind: str) -> None:
    for index in range(100):
        scene = clip_scene(1, index)
        answer = QUESTIONS[kind].answer(scene)
        assert answer == watched_answer(QUESTIONS[kind].text, scene.stills())
        assert answer in QUESTIONS[kind].choices


def test_clips_are_h264_and_sampled_at_the_start_of_each_slot(folder: Path) -> None:
    info = probe(folder / "clips" / "000000.mp4")
    assert (info.codec, info.num_frames, info.fps, info.duration_seconds) == ("h264", 32, 8.0, 4.0)
    assert (info.height, info.width) == (64, 64)
    timestamps = sample_timestamps(info, SamplingConfig(**tiny_data()["sampling"]))
    assert timestamps.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]


def test_decoded_frames_are_the_stills_and_equal_stills_decode_equally(folder: Path) -> None:
    """The second half is what keeps a single frame silent: compression leaves no trace of the frames before it."""
    decoded: dict[tuple[Still, int], torch.Tensor] = {}  # by still and by frame of its slot
    repeated = 0
    for index in SMALL.training_indices:
        clip = folder / "clips" / f"{index:06d}.mp4"
        stills = clip_scene(SMALL.seed, index).stills()
        frames = decode(clip, torch.arange(32, dtype=torch.float64) / 8, (64, 64))
        for i, pixels in enumerate(frames.pixels):
            still = stills[i // 4]
            assert (pixels.float() - draw_still(still).float()).abs().mean() < 3.0
            repeated += (still, i % 4) in decoded
            assert torch.equal(pixels, decoded.setdefault((still, i % 4), pixels))
    assert repeated > 20


def read_still(picture: torch.Tensor) -> Still:
    """The still that (3, 32, 32) pixels show, read at three fixed points: border, lamp and below the lamp."""
    rgb = {
        "red": (220, 40, 40),
        "green": (40, 180, 60),
        "blue": (50, 80, 230),
        "yellow": (240, 220, 50),
        "white": (255, 255, 255),
        "black": (0, 0, 0),
        "purple": (150, 40, 190),
        "cyan": (40, 210, 220),
    }

    def nearest(row: int, column: int, names: tuple[str, ...]) -> str:
        pixel = picture[:, row, column].float()
        return min(names, key=lambda name: float((pixel - torch.tensor(rgb[name])).abs().sum()))

    return Still(nearest(24, 15, COLOURS), nearest(8, 15, ("white", "black")) == "white", nearest(0, 15, BORDERS))


def test_a_picture_is_border_colour_and_lamp() -> None:
    """A border of four pixels, a lamp in rows 8-27 and columns 10-53, and nothing but the colour elsewhere."""
    picture = draw_still(Still("red", is_lit=False, border="white"))
    red = torch.tensor([220, 40, 40], dtype=torch.uint8).view(3, 1, 1)
    is_red, is_black, is_white = ((picture == colour).all(dim=0) for colour in (red, 0, 255))
    assert torch.equal(is_red | is_black | is_white, torch.ones(64, 64, dtype=torch.bool))
    assert torch.nonzero(is_black).aminmax(dim=0).min.tolist() == [8, 10]
    assert torch.nonzero(is_black).aminmax(dim=0).max.tolist() == [27, 53]
    assert (is_black.sum(), is_white.sum()) == (20 * 44, 64 * 64 - 56 * 56)
    assert not is_white[4:60, 4:60].any()


def test_a_frame_is_read_at_the_size_of_the_tiny_recipe(folder: Path) -> None:
    (size,) = target_sizes([(8, 64, 64)], [2], 8, BudgetConfig(**tiny_data()["budget"]))
    assert size == (32, 32)
    for index in SMALL.training_indices:
        frames = decode(folder / "clips" / f"{index:06d}.mp4", torch.arange(8, dtype=torch.float64) / 2, size)
        for still, pixels in zip(clip_scene(SMALL.seed, index).stills(), frames.pixels, strict=True):
            assert read_still(pixels) == still


def test_images_are_the_stills_at_the_size_they_are_shown_at(folder: Path) -> None:
    budget = BudgetConfig(**tiny_data()["budget"])
    assert target_sizes([(1, 32, 32)] * 4, [1] * 4, 8, budget) == [(32, 32)] * 4
    for index in range(SMALL.num_images):
        still = describe_image(SMALL.seed, index)
        picture = load_image(folder / "images" / f"{index:06d}.png", (32, 32)).pixels[0]
        assert read_still(picture) == still


def test_manifests_are_read_without_an_error(folder: Path) -> None:
    sources = tiny_data()["sources"]
    for name, source in sources.items():
        (path,) = source["manifests"]
        manifest = read_manifest(folder / Path(path).relative_to(source["root"]), name, folder)
        assert len(manifest) > 0
        assert list(check_manifest(manifest)) == []
    assert {f"{name}.jsonl" for name in sources} == {path.name for path in folder.glob("*.jsonl")} - {
        HELD_OUT_QUESTIONS
    }


def test_training_conversations_answer_what_their_clip_shows(folder: Path) -> None:
    for row in read_rows(folder / "video_qa.jsonl"):
        stills = clip_scene(SMALL.seed, int(Path(row["video"]).stem)).stills()
        asked = [turn["value"].removeprefix("<video>\n") for turn in row["conversations"][::2]]
        assert row["conversations"][0]["value"].startswith("<video>\n")
        assert [turn["value"] for turn in row["conversations"][1::2]] == [watched_answer(q, stills) for q in asked]
    for row in read_rows(folder / "streaming.jsonl"):
        stills = clip_scene(SMALL.seed, int(Path(row["video"][0]).stem)).stills()
        told = [(turn["time"], turn["content"]) for turn in row["conversation"] if turn["role"] == "assistant"]
        changes = [(i / 2, s.colour) for i, s in enumerate(stills) if i == 0 or s.colour != stills[i - 1].colour]
        assert told == changes


def test_multi_image_rows_name_the_only_image_of_a_colour(folder: Path) -> None:
    for row in read_rows(folder / "multi_image.jsonl"):
        colours = [describe_image(SMALL.seed, int(Path(path).stem)).colour for path in row["image"]]
        assert row["conversations"][0]["value"].count("<image>\n") == len(colours) == len(set(colours))
        for question, answer in zip(row["conversations"][::2], row["conversations"][1::2], strict=True):
            colour = question["value"].rstrip("?").split()[-1]
            assert answer["value"] == f"the {('first', 'second', 'third', 'fourth')[colours.index(colour)]}"


def test_held_out_questions_ask_everything_about_clips_that_are_not_trained_on(folder: Path) -> None:
    rows = read_rows(folder / HELD_OUT_QUESTIONS)
    assert len(rows) == SMALL.num_held_out * len(QUESTIONS)
    trained = {row["video"] for row in read_rows(folder / "video_qa.jsonl")}
    assert trained.isdisjoint(row["video"] for row in rows)
    for row in rows:
        stills = clip_scene(SMALL.seed, int(Path(row["video"]).stem)).stills()
        assert row["answer"] == watched_answer(row["question"], stills)
        assert row["temporal"] == (row["type"] in TEMPORAL)
        assert row["answer"] in row["choices"]


def test_more_training_clips_leave_the_held_out_ones_alone() -> None:
    more = replace(SMALL, num_clips=500)
    assert more.held_out_indices == SMALL.held_out_indices
    with pytest.raises(ValueError, match=r"only 36480\b"):
        replace(SMALL, num_clips=NUM_STORIES)
    with pytest.raises(ValueError, match=r"\b1 clip"):
        replace(SMALL, num_held_out=0)


def test_rendering_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    render_shapes(SMALL, tmp_path / "again")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == 8 + 8 + 8 + 1
    assert all((folder / path).read_bytes() == (tmp_path / "again" / path).read_bytes() for path in files)


def test_an_interrupted_render_is_redone(tmp_path: Path) -> None:
    config = ShapesConfig(num_clips=2, num_held_out=1, num_images=4)

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_shapes(config, tmp_path / "shapes", progress=interrupt)
    assert not (tmp_path / "shapes").exists()
    leftover = tmp_path / f"shapes.{'a1' * 16}.partial"  # of a process that was killed
    leftover.mkdir()
    (leftover / "000000.mp4").write_bytes(b"half of a clip")

    seen = []
    render_shapes(config, tmp_path / "shapes", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 7) for done in range(1, 8)]
    assert probe(tmp_path / "shapes" / "clips" / "000000.mp4").num_frames == 32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shapes", "shapes.lock"]


def test_a_finished_folder_is_used_as_it_is_and_another_configuration_refused(folder: Path, tmp_path: Path) -> None:
    assert render_shapes(SMALL, folder, progress=lambda done, total: pytest.fail("rendered again")) == render_shapes(
        SMALL, folder
    )
    with pytest.raises(ValueError, match=r"configuration.*data\.root"):
        render_shapes(replace(SMALL, seed=4), folder)
    with pytest.raises(ValueError, match=r"exists.*data\.root"):
        render_shapes(SMALL, tmp_path)


def test_of_two_renders_at_once_one_waits_for_the_other(tmp_path: Path) -> None:
    config = ShapesConfig(num_clips=1, num_held_out=1, num_images=4)
    reports: list[int] = []
    run = [
        threading.Thread(target=render_shapes, args=(config, tmp_path / "shapes", lambda done, _: reports.append(done)))
        for _ in range(2)
    ]
    for thread in run:
        thread.start()
    for thread in run:
        thread.join(timeout=60)
    assert reports == list(range(1, 7))
    assert len(read_rows(tmp_path / "shapes" / "video_qa.jsonl")) == len(QUESTIONS) + REPEATS["flashes"] - 1


def test_texts_hold_every_word_of_the_set(folder: Path) -> None:
    known = {word for sentence in texts() for word in sentence.split()}
    for path in folder.glob("*.jsonl"):
        for row in read_rows(path):
            turns = row.get("conversations") or row.get("conversation") or []
            said = [turn.get("value") or turn["content"] for turn in turns]
            said += [row[key] for key in ("question", "answer") if key in row]
            assert {word for sentence in said for word in sentence.split()} - {"<image>", "<video>"} <= known


def test_the_data_file_is_a_valid_configuration() -> None:
    data = tiny_data()
    schema = OmegaConf.structured(ShapesConfig)
    assert isinstance(OmegaConf.to_object(OmegaConf.merge(schema, data["shapes"])), ShapesConfig)
    assert {source["root"] for source in data["sources"].values()} == {data["root"]}
