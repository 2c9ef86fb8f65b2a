"""Small file of own rows of every form, with its media and a stand-in that answers as expected."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_apollo.evaluation.own.rows import OwnRows, OwnRowsConfig, read_own_rows
from lightning_apollo.evaluation.own.teacher_forcing import AnswerLoss
from lightning_apollo.structures import Sample
from tests.media_files import write_clip
from tests.small_data import turns, write_pictures, write_rows

ROWS = [
    {"video": "clip.mp4", "category": "colour", "conversations": turns("<video>\nWhich?\nA. red\nB. blue", "B")},
    {"video": "clip.mp4", "category": "when", "conversations": turns("<video>\nWhen?", "From 1.0 to 2.5 seconds.")},
    {"image": "000.png", "category": "count", "conversations": turns("<image>\nHow many?", "3")},
    {"image": "001.png", "category": "colour", "conversations": turns("<image>\nIs it red?", "Yes")},
    {"category": "text", "conversations": turns("Name a colour.", "dark blue")},
    {
        "video": "clip.mp4",
        "category": "story",
        "conversations": [
            *turns("<video>\nWhat happens?", "The numbers on the frames go up."),
            *turns("And then?", "They end at the last frame of all."),
        ],
    },
]
EXPECTED = {
    "val.jsonl:1": "B",
    "val.jsonl:2": "From 1.0 to 2.5 seconds.",
    "val.jsonl:3": "3",
    "val.jsonl:4": "Yes",
    "val.jsonl:5": "dark blue",
    "val.jsonl:6/1": "The numbers on the frames go up.",
    "val.jsonl:6/2": "They end at the last frame of all.",
}


def write_own_rows(folder: Path, *more: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_clip(folder / "clip.mp4", num_frames=40, fps=10)
    write_pictures(folder, 2)
    return write_rows(folder / "val.jsonl", [*ROWS, *more])


def read(manifest: Path, metric: str | None = None) -> OwnRows:
    return read_own_rows(OwnRowsConfig((str(manifest),), str(manifest.parent), metric))


class Oracle:
    """Answer what is expected, or what it is told to say instead, and keep the ids of what it was asked."""

    def __init__(self, wrong: Callable[[str], bool] = lambda name: False) -> None:
        self.asked: list[str] = []
        self._wrong = wrong

    def __call__(self, prompts: Sequence[Sample]) -> list[str]:
        names = [prompt.sample_id for prompt in prompts]
        self.asked += names
        return ["no idea" if self._wrong(name) else EXPECTED[name] for name in names]


def measure(samples: Sequence[Sample]) -> list[AnswerLoss]:
    """A loss that tells samples apart: half a nat for each token of the answer, one more for a longer prompt."""
    return [AnswerLoss(0.5 * s.num_labels + s.input_ids.numel() / 1000, s.num_labels) for s in samples]
