"""Lists of pictures as videos: numbered pictures against the numbers that must play, from every kind of storage."""

from __future__ import annotations

import pickle
import re
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_apollo.data.annotations.rows import parse_row
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.conversation import Conversation, MediaPart, Message, RowError, TextPart
from lightning_apollo.data.index.build import build_index, is_current
from lightning_apollo.data.index.scan import broken_rows
from lightning_apollo.data.media.config import FrameCacheConfig
from lightning_apollo.data.media.frame_cache import CachedReader
from lightning_apollo.data.media.reader import DirectReader
from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.prompt.encode import prompt_text
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import sample_timestamps
from lightning_apollo.data.source import open_sources
from lightning_apollo.data.storage.address import FrameList, file_state, frame_list, frames_address
from lightning_apollo.data.storage.roots import FolderRoot, open_root, part_address
from lightning_apollo.structures import MediaError
from tests.media_files import HEIGHT, WIDTH, cut, numbered_frames, read_number
from tests.small_data import tiny_tokenizer, turns, write_rows

NATIVE = (HEIGHT, WIDTH)
NAMES = tuple(f"frames/{number}.png" for number in (3, 1, 4, 15, 9, 2, 6))
NUMBERS = [3, 1, 4, 15, 9, 2, 6]  # what they show, in the order of the list


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven pictures, each of which shows the number in its name."""
    (tmp_path / "media/frames").mkdir(parents=True)
    frames = numbered_frames(16)
    for number in NUMBERS:
        picture = frames[number].permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(picture).save(tmp_path / f"media/frames/{number}.png")
    return tmp_path / "media"


def video(names: tuple[str, ...] = NAMES, fps: float = 2.0) -> MediaPart:
    return MediaPart("video", names[0], frame_paths=names, frames_fps=fps)


def address_in(folder: Path, names: tuple[str, ...] = NAMES, fps: float = 2.0) -> str:
    return part_address(FolderRoot(str(folder)), video(names, fps))


def numbers_at(address: str, moments: list[float]) -> list[int]:
    frames = decode(probe(address, "video"), torch.tensor(moments, dtype=torch.float64), NATIVE)
    return [read_number(picture) for picture in frames.pixels]


def test_what_a_list_says_of_itself(folder: Path) -> None:
    info = probe(address_in(folder), "video")
    assert (info.modality, info.height, info.width, info.codec) == ("video", HEIGHT, WIDTH, "frames")
    assert (info.num_frames, info.fps, info.begin_seconds, info.duration_seconds) == (7, 2.0, 0.0, 3.5)


def test_each_picture_plays_for_its_share_of_a_second(folder: Path) -> None:
    address = address_in(folder)
    assert numbers_at(address, [0.0, 0.49, 0.5, 1.2, 1.2, 1.99, 3.0, 3.49]) == [3, 3, 1, 4, 4, 15, 6, 6]
    frames = decode(probe(address), torch.tensor([0.7, 3.4]), (28, 84))
    assert frames.pixels.shape == (2, 3, 28, 84)
    assert frames.pts_seconds.tolist() == [0.5, 3.0]


@pytest.mark.parametrize("fps", [0.1, 0.3, 29.97, 30.0, 1000.0])
def test_every_picture_is_shown_at_its_own_time(folder: Path, fps: float) -> None:
    """k/fps times fps may be less than k in floating point."""
    assert numbers_at(address_in(folder, fps=fps), [k / fps for k in range(7)]) == NUMBERS


def test_sampling_a_list_is_sampling_a_video(folder: Path) -> None:
    info = probe(address_in(folder, fps=4.0))
    seen = decode(info, sample_timestamps(info, SamplingConfig(fps=2.0)), NATIVE)
    assert [read_number(picture) for picture in seen.pixels] == [3, 4, 9, 6]
    assert seen.pts_seconds.tolist() == [0.0, 0.5, 1.0, 1.5]


def test_the_prompt_counts_the_seconds_of_the_list(folder: Path) -> None:
    part = video(NAMES[:3])
    turns = (Message("user", (part, TextPart("What is shown?"))), Message("assistant", (TextPart("Numbers."),)))
    sampling, budget = SamplingConfig(fps=2.0), BudgetConfig(token_budget=256, min_tokens=4, max_length=512)
    preparer = Preparer(Preprocessing(tiny_tokenizer(), 8, 1, 2, sampling, budget))
    conversation = Conversation("row.jsonl:1", "test", turns)
    sample = preparer.sample(conversation, folder)
    assert [len(item.frames) for item in sample.visuals] == [3]
    text = prompt_text(conversation, sample.visuals, 8)
    assert re.findall(r"Time ([\d.]+)s", text) == ["0.0", "0.5", "1.0"]


def test_a_list_is_read_from_shards(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for name in NAMES:
            shard.add(folder / name, name)
    address = part_address(open_root(str(tmp_path / "shard.tar")), video())
    assert numbers_at(address, [0.0, 1.5]) == [3, 15]


def test_every_picture_of_a_list_must_be_there_and_of_one_size(folder: Path) -> None:
    with pytest.raises(MediaError, match=r"3\.png \(first.*8 frames\).*/77\.png\b"):
        probe(address_in(folder, (*NAMES, "frames/77.png")))
    (folder / "text.png").write_text("no picture")
    with pytest.raises(MediaError, match=r"text\.png.*picture"):
        probe(address_in(folder, ("text.png",)))
    Image.new("RGB", (32, 16)).save(folder / "small.png")
    with pytest.raises(MediaError, match=rf"small\.png: 32×16.*/3\.png.*{WIDTH}×{HEIGHT}"):
        probe(address_in(folder, (*NAMES, "small.png")))


def test_a_broken_picture_costs_only_who_looks_at_it(folder: Path) -> None:
    cut(folder / NAMES[1], folder / "half.png", 0.5).rename(folder / NAMES[1])
    address = address_in(folder)
    assert numbers_at(address, [0.0, 1.0]) == [3, 4]
    with pytest.raises(MediaError, match=r"/1\.png: .*corrupt"):
        numbers_at(address, [0.0, 0.5])


def test_messages_name_a_list_by_its_first_picture(folder: Path) -> None:
    error = MediaError(address_in(folder), "took too long")
    assert str(error) == f"{folder}/frames/3.png (first of a list of 7 frames): took too long"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_state_of_a_list_is_that_of_all_pictures_in_their_order(folder: Path) -> None:
    address, states = address_in(folder), set()
    assert frame_list(address) == FrameList(2.0, tuple(str(folder / name) for name in NAMES))
    states.add(file_state(address))
    first, second = folder / NAMES[0], folder / NAMES[1]
    first.rename(folder / "aside.png")
    second.rename(first)
    (folder / "aside.png").rename(second)
    states.add(file_state(address))  # as many bytes, and the newest is as new
    assert len(states) == 2
    first.unlink()
    assert file_state(address) == (-1, -1)


def test_the_frame_cache_finds_a_list_by_its_pictures(folder: Path, tmp_path: Path) -> None:
    reader = CachedReader(DirectReader(), FrameCacheConfig(str(tmp_path / "cache"), 0.1))

    def shown(address: str) -> list[int]:
        frames = reader.decode(reader.probe(address, "video"), torch.tensor([0.0, 0.5]), NATIVE)
        return [read_number(picture) for picture in frames.pixels]

    assert shown(address_in(folder)) == shown(address_in(folder)) == [3, 1]
    assert (reader.num_decodes, reader.num_hits) == (1, 1)
    assert shown(address_in(folder, fps=4.0)) == [3, 4]
    (folder / NAMES[1]).write_bytes((folder / NAMES[3]).read_bytes())
    assert shown(address_in(folder)) == [3, 15]
    (folder / NAMES[1]).unlink()
    with pytest.raises(MediaError, match="no such file"):
        reader.probe(address_in(folder), "video")


def test_an_index_knows_lists_and_names_what_is_broken_in_them(folder: Path, tmp_path: Path) -> None:
    lists = (NAMES, [*NAMES, "frames/77.png"], [NAMES[0], "../../etc/passwd"])
    rows = [{"videos": [names], "fps": 2.0, "conversations": turns("<video>?", "!")} for names in map(list, lists)]
    write_rows(tmp_path / "rows.jsonl", rows)
    sources = open_sources({"lists": SourceConfig([str(tmp_path / "rows.jsonl")], str(folder))}, ())
    index = build_index(sources, tmp_path / "index", jobs=0)
    assert [(row.row, row.reason.split(":")[0]) for row in broken_rows(index)] == [
        (2, f"its frame {folder}/frames/77.png"),
        (3, f"media path '../../etc/passwd' leaves the data root {folder}"),
    ]
    assert next(broken_rows(index)).path == f"{folder}/frames/3.png (first of a list of 8 frames)"
    assert is_current(index, sources, None)
    (folder / NAMES[2]).write_bytes(b"gone")
    assert not is_current(index, sources, None)


def test_no_path_of_a_row_is_taken_for_a_list() -> None:
    address = frames_address(FrameList(2.0, ("a.png",)))
    assert frame_list("a.png (first of a list of 1 frames) 2.0 a.png") is None
    with pytest.raises(RowError, match=r"media path.*string"):
        parse_row({"video": address, "conversations": turns("?", "!")})
