"""The outcome of `data scan` on a file against that of training, over every kind of file that the tests know."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.index.scan import broken_rows
from lightning_apollo.data.media.media_check import probe_and_decode
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.source import Source, open_sources
from lightning_apollo.structures import MediaError
from tests.broken_files import write_broken_files
from tests.odd_files import write_odd_files
from tests.places import ROOT
from tests.small_data import tiny_tokenizer, turns, write_rows

CLIPS = ROOT / ".cache" / "real_clips"
WRITERS = {"broken": write_broken_files, "odd": write_odd_files}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def source_of(folder: Path, rows: Path, modality: str) -> Source:
    """One row for each file of the folder, which it shows as an image or as a video."""
    asked = turns(f"<{modality}>\nWhat is it?", "That.")
    manifest = write_rows(
        rows / f"{modality}.jsonl", [{modality: name, "conversations": asked} for name in files(folder)]
    )
    (source,) = open_sources({modality: SourceConfig([str(manifest)], str(folder))}, ())
    return source


def refused_by_scan(source: Source, folder: Path) -> dict[str, str]:
    index = build_index([source], folder, jobs=0, probe=probe_and_decode)
    return {Path(row.path).name: row.reason for row in broken_rows(index)}


def refused_by_training(source: Source) -> dict[str, str]:
    preparer = Preparer(Preprocessing(tiny_tokenizer(), patch_size=14, image_merge_size=1, video_merge_size=2))
    refused = {}
    for number in range(len(source)):
        conversation = source[number]
        try:
            preparer.sample(conversation, source.root)
        except MediaError as error:
            refused[Path(conversation.media[0].path).name] = error.reason
    return refused


@pytest.fixture(scope="module", params=[*WRITERS, "real"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "real":
        return CLIPS
    folder = tmp_path_factory.mktemp(request.param)
    WRITERS[request.param](folder)
    return folder


@pytest.mark.parametrize("modality", ["image", "video"])
def test_scan_refuses_what_training_refuses_and_for_its_reason(corpus: Path, modality: str, tmp_path: Path) -> None:
    source = source_of(corpus, tmp_path, modality)
    refused = refused_by_training(source)
    assert refused_by_scan(source, tmp_path / "index") == refused
    if corpus != CLIPS:
        assert 0 < len(refused) < len(files(corpus))  # else nothing was compared
