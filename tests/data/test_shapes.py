"""The built-in video QA set: what single frames give away, what the files hold, what an interrupted render leaves."""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from dataclasses import replace
from fractions import Fraction
from itertools import permutations, product
from pathlib import Path
from random import Random

import pytest
import torch
from omegaconf import OmegaConf

from lightning_apollo.data.manifest import check_manifest, read_manifest
from lightning_apollo.data.media import decode, load_image, probe
from lightning_apollo.data.resize import BudgetConfig, target_sizes
from lightning_apollo.data.sample import SamplingConfig, sample_timestamps
from lightning_apollo.data.shapes import HELD_OUT_QUESTIONS, ShapesConfig, render, texts
from lightning_apollo.data.shapes_render import draw
from lightning_apollo.data.shapes_scene import (
    BORDERS,
    COLOURS,
    LAMPS,
    NUM_STORIES,
    NUMBERS,
    PLACES,
    QUESTION_TYPES,
    Question,
    Scene,
    Still,
    ask,
    ask_each_aspect,
    describe,
    describe_image,
)

SMALL = ShapesConfig(num_clips=6, num_held_out=2, num_images=8, seed=3)
SHAPES_YAML = Path(__file__).parents[2] / "conf" / "data" / "shapes.yaml"
TEMPORAL = [kind for kind, question_type in QUESTION_TYPES.items() if question_type.is_temporal]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    render(SMALL, folder)
    return folder


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tiny_data() -> dict:
    tree = OmegaConf.to_container(OmegaConf.load(SHAPES_YAML), resolve=True)
    assert isinstance(tree, dict)
    return tree["data"]


def watched_answer(question: str, stills: tuple[Still, ...]) -> str:
    """The answer of someone who watches the eight stills one after another and knows nothing of how they were made."""
    words = question.rstrip("?").split()
    seen = list(dict.fromkeys((still.colour, still.place) for still in stills))
    colours = [colour for colour, _ in seen]
    if question.startswith("Which colour came right after"):
        return colours[colours.index(words[-1]) + 1]
    if question.startswith("Was "):
        return "yes" if colours.index(words[1]) < colours.index(words[3]) else "no"
    lamp = "".join("1" if still.is_lit else "0" for still in stills)
    return {
        "Which colour came first?": colours[0],
        "Which colour came last?": colours[-1],
        "Where was the first square?": seen[0][1],
        "Where was the last square?": seen[-1][1],
        "How many times did the lamp flash?": NUMBERS[len(lamp.replace("0", " ").split()) - 1],
        "What colour is the border?": stills[0].border,
        "How many dots are there?": NUMBERS[len(stills[0].dots) - 1],
    }[question]


@pytest.fixture(scope="module")
def stories() -> list[tuple[Scene, Counter[tuple[str, str]]]]:
    """Every order, route and split of eight slots into four lengths, with how often its stills show each square."""
    lengths = [split for split in product(range(1, 6), repeat=4) if sum(split) == 8]
    told = product(permutations(COLOURS), permutations(PLACES), lengths)
    scenes = [Scene(*story, LAMPS[1][0], "white", PLACES) for story in told]
    return [(scene, Counter((still.colour, still.place) for still in scene.stills())) for scene in scenes]


def all_wordings(kind: str, scene: Scene) -> set[Question]:
    """Every question of a kind that can be asked about a scene; each is drawn equally often."""
    return {ask(kind, scene, Random(seed)) for seed in range(60)}


def test_every_story_is_told_once(stories: list[tuple[Scene, Counter[tuple[str, str]]]]) -> None:
    scenes = [describe(7, index) for index in range(NUM_STORIES)]
    every = {(story.order, story.route, story.lengths, border) for story, _ in stories for border in BORDERS}
    assert {(scene.order, scene.route, scene.lengths, scene.border) for scene in scenes} == every
    assert len(scenes) == len(every)
    assert scenes[:20] == [describe(7, index) for index in range(20)]
    assert scenes[:20] != [describe(8, index) for index in range(20)]
    with pytest.raises(ValueError, match="clip 80640 does not exist: a set has 80640 different clips"):
        describe(7, NUM_STORIES)


@pytest.mark.parametrize("kind", ["first_colour", "last_colour", "colour_after", "before", "first_place", "last_place"])
def test_one_still_and_the_wording_leave_every_answer_equally_likely(
    kind: str, stories: list[tuple[Scene, Counter[tuple[str, str]]]]
) -> None:
    """Exact, over all stories, slots and wordings: P(answer | square in the still, wording) is uniform."""
    wordings: dict[tuple, set[Question]] = {}
    answers: dict[tuple, Counter[str]] = defaultdict(Counter)
    for scene, squares in stories:
        told = (scene.order, scene.route)
        if told not in wordings:
            wordings[told] = all_wordings(kind, scene)
        for (square, num_slots), question in product(squares.items(), wordings[told]):
            answers[square, question.text][question.answer] += num_slots
    for counts in answers.values():
        assert len(counts) == QUESTION_TYPES[kind].num_choices
        assert len(set(counts.values())) == 1


def test_one_still_of_the_lamp_says_nothing_about_its_flashes() -> None:
    lit = {n: Fraction(sum(map(sum, lamps)), 8 * len(lamps)) for n, lamps in LAMPS.items()}
    assert lit == dict.fromkeys((1, 2, 3, 4), Fraction(1, 2))
    drawn = Counter(describe(0, index).num_flashes for index in range(8000))
    assert all(abs(drawn[n] / 8000 - 0.25) < 0.02 for n in LAMPS)


def test_best_guess_from_one_random_still_on_held_out_clips() -> None:
    """A table of the most frequent answer to (all that a still shows, wording) is the best single-frame model."""
    num_training, num_held_out = 8000, 2000
    votes: dict[tuple, Counter[str]] = defaultdict(Counter)  # the blind model's keys are the wordings alone
    single_frame, blind = Counter(), Counter()
    for index in range(num_training + num_held_out):
        scene, random = describe(0, index), Random(index)
        still = random.choice(scene.stills())
        square, static = (still.colour, still.place, still.is_lit), (still.border, still.dots)
        for kind, question_type in QUESTION_TYPES.items():
            question = ask(kind, scene, random)
            seen = (question.text, *(square if question_type.is_temporal else static))
            if index < num_training:
                votes[seen][question.answer] += 1
                votes[question.text,][question.answer] += 1
            else:
                single_frame[kind] += votes[seen].most_common(1)[0][0] == question.answer
                blind[kind] += votes[question.text,].most_common(1)[0][0] == question.answer
    for kind, question_type in QUESTION_TYPES.items():
        assert abs(blind[kind] / num_held_out - question_type.chance) < 0.04, kind
        expected = question_type.chance if question_type.is_temporal else 1.0
        assert abs(single_frame[kind] / num_held_out - expected) < 0.04, kind


def test_no_answer_of_a_conversation_repeats_an_aspect() -> None:
    aspects = {question_type.aspect for question_type in QUESTION_TYPES.values()}
    kinds = Counter()
    for index in range(300):
        questions = ask_each_aspect(describe(0, index), Random(index))
        assert sorted(QUESTION_TYPES[question.kind].aspect for question in questions) == sorted(aspects)
        kinds.update(question.kind for question in questions)
    assert set(kinds) == set(QUESTION_TYPES)


@pytest.mark.parametrize("kind", QUESTION_TYPES)
def test_answers_are_what_a_viewer_says(kind: str) -> None:
    for index in range(100):
        scene = describe(1, index)
        question = ask(kind, scene, Random(index))
        assert question.answer == watched_answer(question.text, scene.stills())
        assert question.answer in question.choices
        assert len(question.choices) == QUESTION_TYPES[kind].num_choices
        assert set(question.choices) <= set(QUESTION_TYPES[kind].choices)


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
        stills = describe(SMALL.seed, index).stills()
        frames = decode(clip, torch.arange(32, dtype=torch.float64) / 8, (64, 64))
        for i, pixels in enumerate(frames.pixels):
            still = stills[i // 4]
            assert (pixels.float() - draw(still).float()).abs().mean() < 3.0
            repeated += (still, i % 4) in decoded
            assert torch.equal(pixels, decoded.setdefault((still, i % 4), pixels))
    assert repeated > 20


def read_still(picture: torch.Tensor) -> tuple[str, bool, str, int]:
    """Colour and quadrant of the square, lamp, border, number of dots, read from (3, 32, 32) pixels at fixed points."""
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

    quadrants = [picture[:, r : r + 16, c : c + 16] for r in (0, 16) for c in (0, 16)]
    centres = [(r, c) for r in (8, 23) for c in (8, 23)]
    spread = [int(picture[:, r, c].int().max() - picture[:, r, c].int().min()) for r, c in centres]
    place = max(range(len(quadrants)), key=spread.__getitem__)
    corners = [int(picture[:, r, c].sum()) for r in (4, 27) for c in (4, 27)]
    return (
        f"{nearest(*centres[place], COLOURS)} {PLACES[place]}",
        nearest(15, 15, ("white", "black")) == "white",
        nearest(0, 15, BORDERS),
        sum(corner < 100 for corner in corners),
    )


def test_a_frame_is_read_at_the_size_of_the_tiny_recipe(folder: Path) -> None:
    (size,) = target_sizes([(8, 64, 64)], [2], 8, BudgetConfig(**tiny_data()["budget"]))
    assert size == (32, 32)
    for index in SMALL.training_indices:
        frames = decode(folder / "clips" / f"{index:06d}.mp4", torch.arange(8, dtype=torch.float64) / 2, size)
        for still, pixels in zip(describe(SMALL.seed, index).stills(), frames.pixels, strict=True):
            shown = (f"{still.colour} {still.place}", still.is_lit, still.border, len(still.dots))
            assert read_still(pixels) == shown


def test_images_are_the_stills_at_the_size_they_are_shown_at(folder: Path) -> None:
    budget = BudgetConfig(**tiny_data()["budget"])
    assert target_sizes([(1, 32, 32)] * 4, [1] * 4, 8, budget) == [(32, 32)] * 4
    for index in range(SMALL.num_images):
        still = describe_image(SMALL.seed, index)
        picture = load_image(folder / "images" / f"{index:06d}.png", (32, 32)).pixels[0]
        assert read_still(picture) == (f"{still.colour} {still.place}", still.is_lit, still.border, len(still.dots))


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
        stills = describe(SMALL.seed, int(Path(row["video"]).stem)).stills()
        asked = [turn["value"].removeprefix("<video>\n") for turn in row["conversations"][::2]]
        assert row["conversations"][0]["value"].startswith("<video>\n")
        assert [turn["value"] for turn in row["conversations"][1::2]] == [watched_answer(q, stills) for q in asked]
    for row in read_rows(folder / "streaming.jsonl"):
        stills = describe(SMALL.seed, int(Path(row["video"][0]).stem)).stills()
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
    assert len(rows) == SMALL.num_held_out * len(QUESTION_TYPES)
    trained = {row["video"] for row in read_rows(folder / "video_qa.jsonl")}
    assert trained.isdisjoint(row["video"] for row in rows)
    for row in rows:
        stills = describe(SMALL.seed, int(Path(row["video"]).stem)).stills()
        assert row["answer"] == watched_answer(row["question"], stills)
        assert row["temporal"] == (row["type"] in TEMPORAL)
        assert row["answer"] in row["choices"]


def test_more_training_clips_leave_the_held_out_ones_alone() -> None:
    more = replace(SMALL, num_clips=500)
    assert more.held_out_indices == SMALL.held_out_indices
    with pytest.raises(ValueError, match="but there are only 80640 different clips"):
        replace(SMALL, num_clips=NUM_STORIES)
    with pytest.raises(ValueError, match="at least 1 clip"):
        replace(SMALL, num_held_out=0)


def test_rendering_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    render(SMALL, tmp_path / "again")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == 8 + 8 + 8 + 1
    assert all((folder / path).read_bytes() == (tmp_path / "again" / path).read_bytes() for path in files)


def test_an_interrupted_render_is_redone(tmp_path: Path) -> None:
    config = ShapesConfig(num_clips=2, num_held_out=1, num_images=4)

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(config, tmp_path / "shapes", progress=interrupt)
    assert not (tmp_path / "shapes").exists()
    (tmp_path / "shapes.partial" / "clips" / "000000.mp4").write_bytes(b"half of a clip")

    seen = []
    render(config, tmp_path / "shapes", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 7) for done in range(1, 8)]
    assert probe(tmp_path / "shapes" / "clips" / "000000.mp4").num_frames == 32
    assert not (tmp_path / "shapes.partial").exists()


def test_a_finished_folder_is_used_as_it_is_and_another_configuration_refused(folder: Path, tmp_path: Path) -> None:
    assert render(SMALL, folder, progress=lambda done, total: pytest.fail("rendered again")) == render(SMALL, folder)
    with pytest.raises(ValueError, match="holds shapes of another configuration: remove it or name another folder"):
        render(replace(SMALL, seed=4), folder)
    with pytest.raises(ValueError, match="is no rendered shapes set: name another folder"):
        render(SMALL, tmp_path)


def test_of_two_renders_at_once_one_waits_for_the_other(tmp_path: Path) -> None:
    config = ShapesConfig(num_clips=1, num_held_out=1, num_images=4)
    reports: list[int] = []
    run = [
        threading.Thread(target=render, args=(config, tmp_path / "shapes", lambda done, _: reports.append(done)))
        for _ in range(2)
    ]
    for thread in run:
        thread.start()
    for thread in run:
        thread.join(timeout=60)
    assert reports == list(range(1, 7))
    assert len(read_rows(tmp_path / "shapes" / "video_qa.jsonl")) == 1


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
