"""Build of the index: broken rows, resumption after a kill and the fingerprint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.index.token_counts import TextCounter
from lightning_apollo.data.source import open_sources
from tests.media_files import cut, ffmpeg, h264, write_clip, zero_middle
from tests.probes import logged, names_in
from tests.small_data import tiny_tokenizer, turns, write_pictures, write_rows


def index_of(folder: Path, output: Path, names: tuple[str, ...] = ("pictures",), **options: Any) -> Index:
    sources = open_sources({name: SourceConfig([str(folder / f"{name}.jsonl")], str(folder)) for name in names}, ())
    return build_index(sources, output, **{"jobs": 0, **options})


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of clips and pictures, most of them broken, and of rows that are broken themselves."""
    folder = tmp_path_factory.mktemp("broken")
    whole = write_clip(folder / "whole.mp4", 40, 10, *h264(keyframe_interval=10), "-movflags", "+faststart")
    cut(whole, folder / "truncated.mp4", 0.6)
    zero_middle(whole, folder / "corrupt.mp4", 0.5, 0.6)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video\n")
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", folder / "audio.mp4")
    write_pictures(folder, 1)
    shown = ("whole", "truncated", "corrupt", "empty", "text", "audio", "missing")
    rows: list[dict[str, Any]] = [{"video": f"{name}.mp4", "conversations": turns("<video>?", "a")} for name in shown]
    rows += [
        {"image": "whole.mp4", "conversations": turns("<image>?", "a")},
        {"video": "whole.mp4", "start_time": 1.0, "end_time": 2.5, "conversations": turns("<video>?", "a")},
        {"video": "whole.mp4", "start_time": 9.0, "conversations": turns("<video>?", "a")},
        {"image": ["000.png", "000.png"], "conversations": turns("<image><image>?", "ä")},
        {"image": ["000.png"], "conversations": turns("<image><image>?", "a")},
        {"conversations": turns("Tell me.", "No.")},
    ]
    write_rows(folder / "rows.jsonl", rows)
    return folder


def test_every_fault_has_its_reason(broken: Path, tmp_path: Path) -> None:
    index = index_of(broken, tmp_path, ("rows",))
    errors = [index[number].error for number in range(len(index))]
    assert errors[0] is None
    assert errors[1] is not None
    assert errors[1].startswith("truncated: 2.")
    assert errors[2:] == [
        None,  # a header does not know of it
        "empty file",
        "not a media file that FFmpeg can open",
        "no video stream",
        "no such file",
        "not a picture (PNG, JPEG, WEBP, GIF, BMP, AVIF, TIFF, JPEG2000, PPM) where the annotation has an image",
        None,
        "segment from 9.0 to None s is outside the video, which plays from 0.00 to 4.00 s",
        None,
        "the text shows 2 <image> but the row lists 1: list one file for each, in order",
        None,
    ]
    assert index.is_broken().tolist() == [error is not None for error in errors]
    rows = [index[number] for number in (8, 10, 11, 12)]
    assert [row.kind for row in rows] == ["video", "multi_image", "text", "text"]
    assert [row.text_bytes for row in rows] == [2, 3, 0, 11]
    assert [(use.begin_seconds, use.end_seconds) for use in rows[0].media] == [(1.0, 2.5)]
    assert len({use.media for use in rows[1].media}) == 1
    assert index.media.num_rows == 9  # seven clips, one of them again as an image, and a picture


def test_a_kill_costs_the_file_in_hand_alone(tmp_path: Path) -> None:
    manifest = write_pictures(tmp_path, 8)
    (tmp_path / "005.png").rename(tmp_path / "gate.png")
    manifest.write_text(manifest.read_text().replace("005.png", "gate.png"))
    log, gate, output = tmp_path / "log", tmp_path / "open", tmp_path / "index"
    program = (
        "import sys; from pathlib import Path; from tests.data.index.test_build import index_of; "
        "from tests.probes import logged; folder = Path(sys.argv[1]); "
        "index_of(folder, folder / 'index', jobs=1, deadline=60.0, probe=logged(folder / 'log', folder / 'open'))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    until = time.monotonic() + 100
    while "gate.png" not in names_in(log) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (output / "media.parquet").exists()
    gate.touch()
    with (output / "probes.jsonl").open("a") as journal:
        journal.write('["cut short')  # as a kill in the middle of a line leaves it
    index = index_of(tmp_path, output, probe=logged(log))
    assert not index.is_broken().any()
    once = [f"{number:03d}.png" for number in range(8) if number != 5]
    assert sorted(names_in(log)) == sorted([*once, "gate.png", "gate.png"])
    index_of(tmp_path, output, probe=logged(log))
    assert len(names_in(log)) == 9  # nothing is left to do


def test_only_files_that_changed_are_probed_again(tmp_path: Path) -> None:
    write_pictures(tmp_path, 4, broken=[1])
    log, output = tmp_path / "log", tmp_path / "index"
    first = index_of(tmp_path, output, probe=logged(log))
    assert first.is_broken().tolist() == [False, True, False, False]
    log.unlink()
    (tmp_path / "001.png").write_bytes((tmp_path / "000.png").read_bytes())  # mended
    (tmp_path / "003.png").unlink()
    os.utime(tmp_path / "002.png", ns=(1, 1))  # touched
    second = index_of(tmp_path, output, probe=logged(log))
    assert sorted(names_in(log)) == ["001.png", "002.png", "003.png"]
    assert second.is_broken().tolist() == [False, False, False, True]
    assert second.media_column("mtime_ns")[2] == 1


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    write_pictures(tmp_path, 5)
    first = index_of(tmp_path, tmp_path / "a").fingerprint
    assert index_of(tmp_path, tmp_path / "b", jobs=2).fingerprint == first
    keep = (tmp_path / "pictures.jsonl").read_text()
    os.utime(tmp_path / "002.png")
    assert index_of(tmp_path, tmp_path / "a").fingerprint == first  # not of when it was written
    (tmp_path / "elsewhere").mkdir()
    for path in [*tmp_path.glob("*.png"), tmp_path / "pictures.jsonl"]:
        (tmp_path / "elsewhere" / path.name).write_bytes(path.read_bytes())
    assert index_of(tmp_path / "elsewhere", tmp_path / "c").fingerprint == first  # nor of where it lies
    (tmp_path / "pictures.jsonl").write_text(keep.replace("number 3", "number 7"))
    changed_row = index_of(tmp_path, tmp_path / "a").fingerprint
    (tmp_path / "pictures.jsonl").write_text(keep)
    (tmp_path / "004.png").write_bytes((tmp_path / "004.png").read_bytes() + b"\0")
    changed_file = index_of(tmp_path, tmp_path / "a").fingerprint
    assert len({first, changed_row, changed_file}) == 3


def test_the_order_of_probing_is_not_in_the_tables(tmp_path: Path) -> None:
    write_pictures(tmp_path, 6)
    whole = index_of(tmp_path, tmp_path / "a")
    (tmp_path / "b").mkdir()
    paths = [str(tmp_path / f"{number:03d}.png") for number in (4, 2, 5)]  # an earlier call came so far
    known = {path: number for number, path in enumerate(whole.media["path"].to_pylist())}
    with (tmp_path / "b" / "probes.jsonl").open("w") as journal:
        for path in paths:
            info, number = whole.media_info(known[path]).__dict__, known[path]
            state = [int(whole.media_column(name)[number]) for name in ("file_bytes", "mtime_ns")]
            journal.write(f"{json.dumps([path, 'image', *state, None, info])}\n")
    log = tmp_path / "log"
    index_of(tmp_path, tmp_path / "b", probe=logged(log))
    assert names_in(log) == ["000.png", "001.png", "003.png"]
    for name in ("media.arrow", "samples.arrow"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_tokens_are_counted_with_a_tokenizer_only(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    plain = index_of(tmp_path, tmp_path / "a")
    assert (plain[1].num_text_tokens, plain.text_identity) == (None, "")
    counted = index_of(tmp_path, tmp_path / "b", text=TextCounter(tiny_tokenizer(), "tiny"))
    # <|im_start|> user \n RUN \n What colour ? <|im_end|> \n <|im_start|> assistant \n number 1 <|im_end|> \n
    words = ("user\n", "\nWhat colour?", "\n", "assistant\n", "number 1", "\n")
    encode = tiny_tokenizer().encode
    ids = [encode(word, add_special_tokens=False, split_special_tokens=True) for word in words]
    assert counted[1].num_text_tokens == sum(map(len, ids)) + 4
    assert counted.text_identity
    assert counted.fingerprint == plain.fingerprint


def test_progress_counts_rows_files_and_errors(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3, broken=[0])
    calls: list[tuple[str, int, int, int]] = []
    index_of(tmp_path, tmp_path / "a", progress=lambda *call: calls.append(call))
    assert calls == [
        ("rows", 3, 3, 0),
        ("files", 0, 3, 0),
        ("files", 1, 3, 1),
        ("files", 2, 3, 1),
        ("files", 3, 3, 1),
    ]
