"""Pictures as data URLs inside rows of JSON, and media that lie beside their row in shards."""

from __future__ import annotations

import base64
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lightning_apollo.data.annotations.manifest import ManifestError, read_manifest
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.data.source import open_source
from lightning_apollo.data.storage import address as storage
from lightning_apollo.data.storage.embedded import MAX_PICTURE_BYTES
from lightning_apollo.structures import MediaError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _picture(level: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (level, 0, 0)).save(file, kind, lossless=True)
    return file.getvalue()


def _url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _row(text: str = "Q", **media: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "A"}], **media}


def _levels(path: Path) -> list[list[int]]:
    manifest = pickle.loads(pickle.dumps(read_manifest(path, "source", path.parent)))
    return [[_level(manifest.root.address(part.path)) for part in row.media] for row in manifest]


def _level(address: str) -> int:
    return int(decode(probe(address, "image"), torch.zeros(1), (8, 8)).pixels[0, 0, 0, 0])


def _refusal(folder: Path, row: dict[str, Any]) -> str:
    path = folder / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, "source", folder)[0]
    return str(caught.value).removeprefix(f"{path}, ")


ROWS: list[dict[str, Any]] = [
    _row(image=_url(_picture(1))),
    _row("<image><image>", images=[_url(_picture(2)), _url(_picture(3, "WEBP"), "image/webp")]),
    {  # as OpenAI's chat completions take pictures
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": _url(_picture(4)), "detail": "auto"}},
                                         {"type": "image", "image": _url(_picture(5), "image/jpeg;charset=utf-8")}]},
            {"role": "assistant", "content": "A"},
        ]
    },
]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_data_urls_are_pictures_wherever_a_path_may_stand(tmp_path: Path, name: str, encoding: str) -> None:
    text = json.dumps(ROWS, indent=1) if name == "a.json" else "\n".join(map(json.dumps, ROWS))
    (tmp_path / name).write_text(text.replace("image/png", "image\\/png"), encoding=encoding)
    assert _levels(tmp_path / name) == [[1], [2, 3], [4, 5]]


def test_the_address_names_the_row_and_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row) + "\n" for row in (_row(), ROWS[1])]
    path.write_text("".join(lines))
    media = read_manifest(path, "source", tmp_path)[1].media
    assert media[1].path == f"{path}::row 2//images/1@{len(lines[0])}+{len(lines[1])}"
    assert probe(media[1].path).codec == "webp", "its content says what it is"
    path.write_text("".join(reversed(lines)))
    with pytest.raises(MediaError, match=r"picture.*manifest"):
        storage.open_address(media[1].path)


def test_words_that_begin_like_a_data_url_are_words(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(_row("data:image/png;base64,what is that?")))
    message = read_manifest(tmp_path / "a.jsonl", "source", tmp_path)[0].messages[0]
    assert message.parts[0].text == "data:image/png;base64,what is that?"


def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path) -> None:
    bare = base64.b64encode(_picture(1)).decode()
    assert _refusal(tmp_path, _row(image=bare)) == (
        "line 1: 'image' is base64 without its type: write data:image/...;base64, in front of it"
    )
    assert "type video/mp4: only pictures are read from rows" in _refusal(tmp_path, _row(video=_url(b"x", "video/mp4")))
    assert "begins 'data:,hello': write data:image/" in _refusal(tmp_path, _row(image="data:,hello"))
    large = "data:image/png;base64," + "A" * (MAX_PICTURE_BYTES // 3 * 4 + 8)
    assert "line 1: a picture of more than 32 MiB in the row, the limit" in _refusal(tmp_path, _row(image=large))


def test_base64_that_is_none_is_broken_media(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(_row(image="data:image/png;base64,iVBO*Rw0")))
    address = read_manifest(tmp_path / "a.jsonl", "source", tmp_path)[0].media[0].path
    with pytest.raises(MediaError, match=r"data URL.*base64"):
        probe(address)


def _shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def test_media_of_a_key_are_those_of_its_row(tmp_path: Path) -> None:
    # rom1504/img2dataset, img2dataset/writer.py: WebDatasetSampleWriter
    meta = {"url": "https://example.org/0.jpg", "key": "000000000", "status": "success", "error_message": None,
            "width": 8, "height": 8, "original_width": 8, "original_height": 8, "exif": "{}", "sha256": "9f"}  # fmt: skip
    members = {
        "000000000.jpg": _picture(1),
        "000000000.txt": b"One.",
        "000000000.json": json.dumps({**meta, "caption": "One."}, indent=4).encode(),
        "000000001.json": json.dumps(_row("<image>", image="000000000.jpg")).encode(),
        "000000001.jpg": _picture(2),
        "000000002.json": json.dumps(_row("Which?")).encode(),
        "000000002.a.png": _picture(3),
        "000000002.b.png": _picture(4),
        "000000003.json": json.dumps(ROWS[0]).encode(),
        "000000004.json": json.dumps(_row("Text alone.")).encode(),
    }
    _shard(tmp_path / "00000.tar", members)
    source = open_source("shards", SourceConfig(["*.json"], str(tmp_path / "00000.tar")))
    levels = [[_level(source.root.address(part.path)) for part in source[row].media] for row in range(5)]
    assert levels == [[1], [1], [3, 4], [1], []]


def test_a_download_as_files_is_found_below_its_output_folder(tmp_path: Path) -> None:
    # rom1504/img2dataset, img2dataset/writer.py: FilesSampleWriter; ParquetSampleWriter keeps the picture in `jpg`
    (tmp_path / "00012").mkdir()
    (tmp_path / "00012/000120003.jpg").write_bytes(_picture(9))
    meta = {"key": ["000120003"], "status": ["success"], "caption": ["Nine."], "original_width": [8]}
    pq.write_table(pa.table(meta), tmp_path / "00012.parquet")
    assert _levels(tmp_path / "00012.parquet") == [[9]]
    pq.write_table(pa.table({**meta, "jpg": [_picture(8)]}), tmp_path / "inside.parquet")
    assert _levels(tmp_path / "inside.parquet") == [[8]]
