"""The same bytes from a folder, tar shards or a store of any protocol. Unreadable addresses."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.media import video as media
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.source import Source, open_source
from lightning_apollo.data.storage import address as storage
from lightning_apollo.structures import MediaError, Sample
from tests.media_files import h264, write_clip
from tests.s3 import BUCKET, put, s3_server, upload
from tests.small_data import tiny_tokenizer, turns, write_rows
from tests.web_server import web_server

FILES = ["clips/first.mp4", "still.png", "moving.gif", "clips/last.mp4"]


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, s3_server():
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films, a picture and an animation, and a manifest of a row for each."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "clips").mkdir()
    write_clip(folder / FILES[0], 40, 10, *h264())
    Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 40).convert("RGB").save(folder / FILES[1])
    write_clip(folder / FILES[2], 12, 5)
    write_clip(folder / FILES[3], 25, 5, *h264(keyframe_interval=5))
    write_rows(folder / "train.jsonl", rows())
    return folder


def rows() -> list[dict[str, object]]:
    kinds = ["image" if name.endswith("png") else "video" for name in FILES]
    return [
        {kind: name, "conversations": turns(f"<{kind}>\nWhat is this?", name)}
        for kind, name in zip(kinds, FILES, strict=True)
    ]


def write_shards(folder: Path, output: Path, rows_as_members: bool = False) -> str:
    """Two shards with two media files each, or WebDataset's layout: a row beside each of them."""
    for number, names in enumerate((FILES[:2], FILES[2:])):
        with tarfile.open(output / f"{number:03d}.tar", "w") as shard:
            if not rows_as_members and number == 0:
                shard.add(folder / "train.jsonl", "train.jsonl")
            for name in names:
                shard.add(folder / name, name)
                if rows_as_members:
                    row = json.dumps(rows()[FILES.index(name)]).encode()
                    header = tarfile.TarInfo(f"{Path(name).with_suffix('')}.json")
                    header.size = len(row)
                    shard.addfile(header, io.BytesIO(row))
    return str(output / "{000..001}.tar")


def source_in(place: str, folder: Path, output: Path) -> Source:
    """The rows of the folder as a source that lies in another place."""
    manifest = "train.jsonl"
    if place == "folder":
        root = str(folder)
    elif place == "objects":
        root = upload(folder, output.name)
    elif place == "objects, manifest by its address":
        root = upload(folder, output.name)
        manifest = f"{root}/train.jsonl"
    else:
        root = write_shards(folder, output, rows_as_members="rows" in place)
        manifest = "*.json" if "rows" in place else "train.jsonl"
        if "objects" in place:
            root = f"{upload(output, output.name)}/*.tar"
    return open_source("source", SourceConfig([manifest], root))


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """Servers that a test has started, until its end."""
    with ExitStack() as stack:
        yield stack


def open_elsewhere(place: str, folder: Path, output: Path, servers: ExitStack) -> Source:
    """The rows of the folder in a place that source_in knows, or in a store of another protocol."""
    store, _, what = place.partition(": ")
    if not what:
        return source_in(place, folder, output)
    files, below, manifest = folder, "", "train.jsonl"
    if what != "files":
        below = f"/{Path(write_shards(folder, output, rows_as_members='rows' in what)).name}"
        files, manifest = output, "*.json" if "rows" in what else "train.jsonl"
    if store == "memory":
        root = f"memory://{output.name}"
        fsspec.filesystem("memory").put(str(files), f"/{output.name}", recursive=True)
    elif store == "file":
        root = files.as_uri()
    else:
        root = servers.enter_context(web_server(files, has_ranges=store == "web")).url
    return open_source("source", SourceConfig([manifest], root + below), protocols=["memory"])


PLACES = [
    "file: files",
    "file: shards",
    "memory: files",
    "memory: shards",
    "web: files",
    "web: shards",
    "web: shards with rows",
    "web without parts: files",
    "web without parts: shards with rows",
    "objects",
    "objects, manifest by its address",
    "shards",
    "shards with rows",
    "shards as objects",
    "shards with rows as objects",
]


def preparer() -> Preparer:
    budget = BudgetConfig(token_budget=64, min_tokens=4, max_length=512)
    return Preparer(
        Preprocessing(tiny_tokenizer(), patch_size=8, image_merge_size=1, video_merge_size=2, budget=budget)
    )


def content(sample: Sample) -> tuple[object, ...]:
    """All that training sees, as bytes."""
    tensors = [sample.input_ids, sample.labels, sample.is_placeholder]
    for item in sample.visuals:
        tensors += [item.frames.pixels, item.frames.pts_seconds]
    return (sample.modality, *((tuple(one.shape), one.numpy().tobytes()) for one in tensors))


@pytest.mark.parametrize("place", PLACES)
def test_samples_are_byte_equal_wherever_they_lie(place: str, folder: Path, tmp_path: Path, servers: ExitStack) -> None:
    here, there = (open_elsewhere(where, folder, tmp_path, servers) for where in ("folder", place))
    assert len(there) == len(here) == len(FILES)
    for row in range(len(FILES)):
        assert there[row].messages == here[row].messages
        expected = preparer().sample(here[row], folder)
        assert expected.visuals[0].frames.pixels.float().std() > 1  # something to see
        assert content(preparer().sample(there[row], there.root)) == content(expected)
    if "rows" not in place:
        assert [there[row].sample_id for row in range(4)] == [here[row].sample_id for row in range(4)]


@pytest.mark.parametrize("place", PLACES)
def test_the_index_is_the_same_wherever_the_data_lie(
    place: str, folder: Path, tmp_path: Path, servers: ExitStack
) -> None:
    here, there = (open_elsewhere(where, folder, tmp_path, servers) for where in ("folder", place))
    expected, index = build_index([here], tmp_path / "a", jobs=0), build_index([there], tmp_path / "b", jobs=0)
    facts = [str(one.media.drop(["path", "mtime_ns"]).to_pylist()) for one in (index, expected)]  # in words, NaN is NaN
    assert facts[0] == facts[1]
    assert index.media.column("error").null_count == 4
    assert not index.is_broken().any()
    if "rows" not in place:
        assert index.fingerprint == expected.fingerprint


def test_a_process_of_its_own_probes_members(folder: Path, tmp_path: Path) -> None:
    source = source_in("shards", folder, tmp_path)
    index = build_index([source], tmp_path / "index", jobs=1)
    assert index.media.column("num_frames").to_pylist() == [40, 1, 12, 25]


def test_an_object_that_changed_has_another_state() -> None:
    address = put("changing.bin", b"first")
    first = storage.file_state(address)
    assert first[0] == 5
    assert storage.file_state(address) == first
    put("changing.bin", b"other")
    assert storage.file_state(address)[0] == 5
    assert storage.file_state(address) != first


def test_a_manifest_that_changed_in_the_store_is_read_anew() -> None:
    address = put("changing.jsonl", b'{"conversations": []}\n')
    assert len(open_source("source", SourceConfig([address]))) == 1
    put("changing.jsonl", b'{"conversations": []}\n' * 3)
    assert len(open_source("source", SourceConfig([address]))) == 3


def test_names_of_addresses() -> None:
    member = storage.member_address("s3://films/000.tar", "clips/a.mp4", 1536, 20480)
    assert member == "s3://films/000.tar::clips/a.mp4@1536+20480"
    addresses = ["videos/a.mp4", "s3://films/videos/a.mp4", member, storage.missing_member("x/*.tar", "b/a.mp4")]
    assert [storage.name_of(address) for address in addresses] == ["a.mp4"] * 4
    assert [storage.is_file(address) for address in addresses] == [True, False, False, False]
    assert storage.name_of("odd::name@1.mp4") == "odd::name@1.mp4"


@given(
    st.binary(max_size=200),
    st.integers(0, 50),
    st.integers(0, 150),
    st.lists(st.tuples(st.sampled_from(["read", "start", "here", "end"]), st.integers(0, 60))),
)
@settings(derandomize=True, deadline=None)
def test_a_member_reads_like_a_file_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, begin: int, size: int, steps: list[tuple[str, int]]
) -> None:
    shard = tmp_path_factory.mktemp("slices") / "a.tar"
    shard.write_bytes(content)
    expected = io.BytesIO(content[begin : begin + size])
    num_bytes = len(expected.getvalue())
    with storage.open_address(storage.member_address(str(shard), "a", begin, num_bytes)) as file:
        for step, number in steps:
            if step == "read":
                assert file.read(number) == expected.read(number)
            elif step == "end":
                back = -min(number, num_bytes)
                assert file.seek(back, io.SEEK_END) == expected.seek(back, io.SEEK_END)
            else:
                whence = io.SEEK_SET if step == "start" else io.SEEK_CUR
                assert file.seek(number, whence) == expected.seek(number, whence)
        assert file.read() == expected.read()


def test_a_shard_that_was_cut_short_is_no_short_film(folder: Path, tmp_path: Path) -> None:
    source = source_in("shards", folder, tmp_path)
    address = source.root.address("clips/last.mp4")
    shard = tmp_path / "001.tar"
    shard.write_bytes(shard.read_bytes()[:-12_000])
    with pytest.raises(MediaError, match=r"shard ends"):
        storage.open_address(address).read()
    with pytest.raises(MediaError, match=r"shard|media file"):
        media.probe(address, "video")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("{folder}/none.mp4", r".*file"),
        ("{folder}", r".*folder.*file"),
        (f"s3://{BUCKET}/none.mp4", r".*object"),
        ("s3://no-such-bucket/none.mp4", r".*object"),
        ("{folder}/*.tar::none.mp4@?", r".*/\*\.tar .*"),
        ("{folder}/gone.tar::a.mp4@512+9", r".*shard.*: .*file"),
        (f"s3://{BUCKET}/gone.tar::a.mp4@512+9", r".*shard.*: .*object"),
    ],
)
def test_what_is_not_there_is_a_media_error(address: str, reason: str, folder: Path) -> None:
    address = address.format(folder=folder)
    with pytest.raises(MediaError, match=f": {reason}$") as caught:
        media.probe(address, "video")
    assert caught.value.path == address
    if address != str(folder):
        assert storage.file_state(address) == (-1, -1)


def test_an_empty_file_is_a_media_error_everywhere(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        shard.add(tmp_path / "empty.mp4", "empty.mp4")
    member = storage.member_address(str(tmp_path / "a.tar"), "empty.mp4", 512, 0)
    for address in (str(tmp_path / "empty.mp4"), member, put("empty.mp4", b"")):
        with pytest.raises(MediaError, match=r": empty file$"):
            media.probe(address, "video")


@pytest.mark.parametrize("place", ["folder", "shards", "objects"])
def test_no_file_stays_open(place: str, folder: Path, tmp_path: Path) -> None:
    source = source_in(place, folder, tmp_path)
    preparer().sample(source[0], source.root)
    before = len(os.listdir("/proc/self/fd"))
    for row in range(4):
        preparer().sample(source[row], source.root)
    assert len(os.listdir("/proc/self/fd")) == before


def test_decoding_from_a_store_takes_every_way_through_the_decoder(folder: Path, tmp_path: Path) -> None:
    """Timestamps that a seek passes are read in order; MPEG-TS with B-frames needs it."""
    write_clip(tmp_path / "a.ts", 60, 10, *h264(keyframe_interval=30))
    info = media.probe(put("a.ts", (tmp_path / "a.ts").read_bytes()), "video")
    timestamps = info.begin_seconds + torch.arange(0, 59, dtype=torch.float64) / 10
    expected = media.decode(tmp_path / "a.ts", timestamps, (24, 80))
    frames = media.decode(info, timestamps, (24, 80))
    assert torch.equal(frames.pixels, expected.pixels)
    assert torch.equal(frames.pts_seconds, expected.pts_seconds)


def test_a_copy_on_this_machine_has_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    source = source_in("shards as objects", folder, tmp_path)
    copy = storage.local_copy(source.root.address("clips/first.mp4"))
    digests = [hashlib.sha256(Path(path).read_bytes()).digest() for path in (copy, folder / "clips/first.mp4")]
    assert digests[0] == digests[1]
    assert storage.local_copy("videos/a.mp4") == "videos/a.mp4"


def test_a_home_that_cannot_be_written_leaves_the_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    folder = storage.cache_folder()
    assert folder.parent == tmp_path / "temporary"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert storage.cache_folder() == folder
