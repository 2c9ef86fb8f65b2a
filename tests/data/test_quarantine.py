"""Faults of the places that keep media, counted apart from those of the media."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_apollo.data.dataset import BadSample, PreparationCost, PreparedBatch
from lightning_apollo.data.media import video as media
from lightning_apollo.data.quarantine import Quarantine, TooManyBadSamples
from lightning_apollo.data.storage import faults
from lightning_apollo.errors import MediaError
from tests.small_data import write_pictures
from tests.web_server import web_server


def test_faults_of_a_store_are_counted_by_their_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are missing, forbidden and late, one whose content is broken, and one that is missing on this machine."""
    monkeypatch.setattr(faults, "FIRST_WAIT_SECONDS", 0.01)
    write_pictures(tmp_path, 3, broken=[2])
    errors: list[MediaError] = []
    with web_server(tmp_path) as server:
        for name, answer in (("none.png", None), ("000.png", 403), ("001.png", 504), ("002.png", None)):
            server.every_answer = answer
            with pytest.raises(MediaError) as caught:
                media.probe(f"{server.url}/{name}", "image")
            errors.append(caught.value)
    with pytest.raises(MediaError) as caught:
        media.probe(str(tmp_path / "none.png"), "image")
    errors.append(caught.value)
    bad = tuple(BadSample("web", f"row {row}", 0, row, error) for row, error in enumerate(errors * 2))
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", max_share=0.5)
    with pytest.raises(
        TooManyBadSamples,
        match=r"^source web: 10 of 10 samples are bad \(storage: missing 4, forbidden 2, slow 2\), more than data\.max_error_share",
    ):
        _admit_all(quarantine, bad)
    listed = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [line.get("storage") for line in listed] == ["missing", "forbidden", "slow", None, "missing"] * 2
    assert listed[0]["path"].endswith("/none.png")


def test_broken_media_alone_are_no_faults_of_a_store(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", max_share=0.5)
    bad = tuple(BadSample("own", "row", 0, row, MediaError("a.mp4", "corrupt")) for row in range(10))
    with pytest.raises(TooManyBadSamples, match="10 of 10 samples are bad, more than"):
        _admit_all(quarantine, bad)


def _admit_all(quarantine: Quarantine, bad: tuple[BadSample, ...]) -> None:
    batch: Any = SimpleNamespace(sources=())
    quarantine.admit(PreparedBatch(batch, bad, PreparationCost(0.0, 0.0, 0)))
