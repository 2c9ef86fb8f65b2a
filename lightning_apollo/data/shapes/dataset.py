"""The built-in video QA set: rendered on first use to real files, with a manifest for every kind of training data.

    clips/000000.mp4 ...        4 seconds, 64×64 pixels, 8 frames a second
    images/000000.png ...       32×32 pixels
    image_captions.jsonl        one caption an image
    image_qa.jsonl              one question about one image
    multi_image.jsonl           which of several images shows a colour
    text.jsonl                  questions without media
    video_captions.jsonl        what comes after what, and how many flashes
    video_qa.jsonl              one question about one clip
    streaming.jsonl             every new colour is named when it appears
    held_out_questions.jsonl    every kind of question about every held-out clip, with its answer
    shapes.json                 what the folder holds; written last

Rows are in the format of VideoLLaMA 3 (LLaVA's `conversations`, and `conversation` with times for streams).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from lightning_apollo.data.shapes.scene import (
    BORDERS,
    COLOURS,
    NUM_SLOTS,
    NUM_STORIES,
    NUMBERS,
    ORDINALS,
    QUESTIONS,
    SLOT_SECONDS,
    Still,
    clip_scene,
    describe_image,
)
from lightning_apollo.errors import UserError, suggestion
from lightning_apollo.files import lock, remove_partials, write_folder_atomically
from lightning_apollo.progress import Progress

FORMAT_VERSION = 5  # raised when the same configuration renders other files
HELD_OUT_QUESTIONS = "held_out_questions.jsonl"
REPEATS = {"flashes": 3}  # training rows of a question about one clip: counting is learnt last
STREAM_QUESTION = "Name every new colour."
_FACTS = "shapes.json"

ShapesRow = dict[str, Any]


class ShapesError(UserError, ValueError):
    """A folder that is not that of the built-in set, or a file that the set does not have."""


@dataclass(frozen=True)
class ShapesConfig:
    """Size of the built-in set that is rendered."""

    num_clips: int = 4000  # training clips
    num_held_out: int = 150  # clips that only the evaluation sees
    num_images: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_clips, self.num_held_out) < 1 or self.num_images < len(COLOURS):
            raise ValueError(f"shapes needs at least 1 clip, 1 held-out clip and {len(COLOURS)} images")
        if self.num_clips + self.num_held_out > NUM_STORIES:
            raise ValueError(
                f"shapes.num_clips + shapes.num_held_out is {self.num_clips + self.num_held_out}, "
                f"but there are only {NUM_STORIES} different clips"
            )

    @property
    def training_indices(self) -> range:
        return range(self.num_clips)

    @property
    def held_out_indices(self) -> range:
        """Counted from the last story, so that more training clips never change what is held out."""
        return range(NUM_STORIES - self.num_held_out, NUM_STORIES)


def render_shapes(config: ShapesConfig, folder: Path, progress: Progress | None = None) -> ShapesRow:
    """Contents of the folder (configuration, format version, files), after writing it unless it is there already.

    The files are written beside the folder and moved into place when all are there: a render that was cut short leaves
    nothing that a later one could take for finished. Processes that render the same folder wait for the first of them.
    """
    facts = _facts(config)
    folder = folder.absolute()  # "." has no name to put a lock beside
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_name(f"{folder.name}.lock")):
        if folder.exists():
            check_holds(config, folder)
            return facts
        remove_partials(folder.parent, folder.name)
        with write_folder_atomically(folder) as partial:
            _write_media(config, partial, progress)
            for name, rows in _manifests(config).items():
                (partial / name).write_text(_jsonl(rows))
            (partial / _FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def check_holds(config: ShapesConfig, folder: Path) -> None:
    """ShapesError where the folder is there and holds anything but this set."""
    if not folder.exists():
        return
    path = folder / _FACTS
    if not path.is_file():
        raise ShapesError(f"{folder} exists and is no rendered shapes set: name another folder in data.root")
    if json.loads(path.read_text()) != _facts(config):
        raise ShapesError(
            f"{folder} holds shapes of another configuration: remove it or name another folder in data.root"
        )


def manifest_text(config: ShapesConfig, name: str) -> str:
    """The content of an annotation file, without rendering anything; ShapesError where the set has none of this name."""
    manifests = _manifests(config)
    if name not in manifests:
        raise ShapesError(f"{name}: no annotation file of the built-in set{suggestion(name, manifests)}")
    return _jsonl(manifests[name])


def _facts(config: ShapesConfig) -> ShapesRow:
    return {"format_version": FORMAT_VERSION, "config": asdict(config), "manifests": sorted(_manifests(config))}


def _write_media(config: ShapesConfig, folder: Path, progress: Progress | None) -> None:
    from lightning_apollo.data.shapes.render import write_clip, write_image  # needs FFmpeg; reading a recipe does not

    (folder / "clips").mkdir(parents=True)
    (folder / "images").mkdir()
    clips = [*config.training_indices, *config.held_out_indices]
    total = len(clips) + config.num_images
    for done, index in enumerate(clips, start=1):
        write_clip(clip_scene(config.seed, index), folder / _clip_path(index))
        if progress:
            progress(done, total)
    for index in range(config.num_images):
        write_image(describe_image(config.seed, index), folder / _image_path(index))
        if progress:
            progress(len(clips) + index + 1, total)


def _jsonl(rows: Iterable[ShapesRow]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _clip_path(index: int) -> str:
    return f"clips/{index:06d}.mp4"


def _image_path(index: int) -> str:
    return f"images/{index:06d}.png"


def _manifests(config: ShapesConfig) -> dict[str, Iterator[ShapesRow]]:
    """The rows of each annotation file, made when they are asked for."""
    return {
        "image_captions.jsonl": _image_captions(config),
        "image_qa.jsonl": _image_qa(config),
        "multi_image.jsonl": _multi_image(config),
        "text.jsonl": _text(config),
        "video_captions.jsonl": _video_captions(config),
        "video_qa.jsonl": _video_qa(config),
        "streaming.jsonl": _streaming(config),
        HELD_OUT_QUESTIONS: _held_out_questions(config),
    }


def _turns(questions: Iterable[tuple[str, str]], marker: str = "") -> list[ShapesRow]:
    """Turns of a LLaVA row; the media marker stands before the first question."""
    turns = []
    for text, answer in questions:
        turns += [{"from": "human", "value": marker + text}, {"from": "gpt", "value": answer}]
        marker = ""
    return turns


def _image_captions(config: ShapesConfig) -> Iterator[ShapesRow]:
    for i in range(config.num_images):
        turns = _turns([("Describe the image.", describe_image(config.seed, i).caption())], "<image>\n")
        yield {"id": f"image_captions/{i}", "image": _image_path(i), "conversations": turns}


def _questions_about(still: Still) -> list[tuple[str, str]]:
    return [
        ("Which colour is it?", still.colour),
        ("Is the lamp on?", "yes" if still.is_lit else "no"),
        ("What colour is the border?", still.border),
    ]


def _image_qa(config: ShapesConfig) -> Iterator[ShapesRow]:
    for i in range(config.num_images):
        for number, question in enumerate(_questions_about(describe_image(config.seed, i))):
            turns = _turns([question], "<image>\n")
            yield {"id": f"image_qa/{i}/{number}", "image": _image_path(i), "conversations": turns}


def _multi_image(config: ShapesConfig) -> Iterator[ShapesRow]:
    """Rows of two to four images. Neighbouring images differ in colour, so that one answer is right."""
    for i in range(config.num_images // len(COLOURS)):
        random = Random(f"multi_image {config.seed} {i}")
        images = [len(COLOURS) * i + offset for offset in range(len(COLOURS))]
        images = random.sample(images, random.randint(2, len(images)))
        colours = [describe_image(config.seed, image).colour for image in images]
        questions = [(f"Which image shows {c}?", f"the {nth}") for c, nth in zip(colours, ORDINALS, strict=False)]
        random.shuffle(questions)
        turns = _turns(questions, "<image>\n" * len(images))
        yield {"id": f"multi_image/{i}", "image": [_image_path(image) for image in images], "conversations": turns}


def _text_questions() -> list[tuple[str, str]]:
    """Every question without media and its answer."""
    counting = [(f"What comes after {a}?", b) for a, b in pairwise(NUMBERS)]
    counting += [(f"What comes before {b}?", a) for a, b in pairwise(NUMBERS)]
    colours = [(f"Is {word} a colour?", "yes") for word in dict.fromkeys(COLOURS + BORDERS)]
    return counting + colours + [(f"Is {word} a colour?", "no") for word in (*NUMBERS, *ORDINALS)]


def _text(config: ShapesConfig) -> Iterator[ShapesRow]:
    for i in range(config.num_images // 4):
        questions = Random(f"text {config.seed} {i}").sample(_text_questions(), 4)
        yield {"id": f"text/{i}", "conversations": _turns(questions)}


def _video_captions(config: ShapesConfig) -> Iterator[ShapesRow]:
    for i in config.training_indices:
        turns = _turns([("Describe the video.", clip_scene(config.seed, i).caption())], "<video>\n")
        yield {"id": f"video_captions/{i}", "video": _clip_path(i), "conversations": turns}


def _video_qa(config: ShapesConfig) -> Iterator[ShapesRow]:
    """One question a row: beside earlier answers, which hold colours too, a small model looks at the frames too late."""
    for i in config.training_indices:
        scene = clip_scene(config.seed, i)
        for kind, question in QUESTIONS.items():
            turns = _turns([(question.text, question.answer(scene))], "<video>\n")
            for number in range(REPEATS.get(kind, 1)):
                yield {"id": f"video_qa/{i}/{kind}/{number}", "video": _clip_path(i), "conversations": turns}


def _streaming(config: ShapesConfig) -> Iterator[ShapesRow]:
    for i in config.training_indices:
        scene = clip_scene(config.seed, i)
        turns = [{"role": "user", "content": STREAM_QUESTION, "time": 0.0}]
        turns += [
            {"role": "assistant", "content": colour, "time": start * SLOT_SECONDS}
            for colour, start in zip(scene.order, scene.starts, strict=True)
        ]
        times = {"start_time": 0.0, "end_time": NUM_SLOTS * SLOT_SECONDS}
        yield {"id": f"streaming/{i}", "stream": True, "video": [_clip_path(i)], **times, "conversation": turns}


def _held_out_questions(config: ShapesConfig) -> Iterator[ShapesRow]:
    for i in config.held_out_indices:
        scene = clip_scene(config.seed, i)
        for kind, question in QUESTIONS.items():
            yield {
                "id": f"held_out/{i}/{kind}",
                "video": _clip_path(i),
                "question": question.text,
                "answer": question.answer(scene),
                "type": kind,
                "temporal": question.is_temporal,
                "choices": list(question.choices),
            }


def texts() -> list[str]:
    """Sentences with every word of the set, questions and answers, for training a tokenizer."""
    config = ShapesConfig(num_clips=200, num_held_out=1, num_images=200)
    manifests = _manifests(config)
    del manifests[HELD_OUT_QUESTIONS]  # the same wordings
    turns = [turn for rows in manifests.values() for row in rows for turn in row.get("conversations", [])]
    sentences = [turn["value"].split(">\n")[-1] for turn in turns]  # without the media markers
    return list(dict.fromkeys([*sentences, STREAM_QUESTION]))
