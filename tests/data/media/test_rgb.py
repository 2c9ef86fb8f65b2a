"""Pictures of every mode against Pillow's alpha_composite, NumPy and colours written out by hand."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_apollo.data.config import DataConfig
from lightning_apollo.data.conversation import Conversation, MediaPart, Message, TextPart
from lightning_apollo.data.datamodule import build_reader
from lightning_apollo.data.media.config import FrameCacheConfig, PictureConfig
from lightning_apollo.data.media.picture import load_picture
from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.recipe.schema import RecipeError, load_recipe
from lightning_apollo.structures import MediaError
from tests.media_files import ffmpeg
from tests.small_data import tiny_tokenizer

GREY, COLOUR = 0, 2  # colour types of a PNG


def pixels_of(path: Path, background: str = "white") -> np.ndarray:
    """(H, W, 3)"""
    return load_picture(str(path), background)[0].permute(1, 2, 0).numpy()


def png(path: Path, width: int, bits: int, kind: int, rows: list[bytes], transparent: bytes = b"") -> Path:
    """A PNG written by hand, with a transparent colour where one is given."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(b"".join(b"\0" + row for row in rows)), b"IEND"]
    if transparent:
        chunks.insert(1, b"tRNS" + transparent)
    framed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))
    return path


def tiff(path: Path, width: int, pixels: bytes, **tags: int) -> Path:
    """A little-endian TIFF of one row of grey, written by hand."""
    numbers = {"bits": 258, "photometric": 262, "sample_format": 339, "tile_width": 322, "tile_length": 323}
    entries = {256: width, 257: 1, 259: 1, 277: 1, 278: 1, 279: len(pixels)} | {numbers[n]: v for n, v in tags.items()}
    entries[273] = 8 + 2 + 12 * (len(entries) + 1) + 4
    table = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in sorted(entries.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + pixels)
    return path


@pytest.mark.parametrize("background", ["white", "#126fb3"])
def test_every_value_at_every_alpha_is_composited_as_by_pillow(tmp_path, background):
    value, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for mode, bands in (("RGBA", [value, 255 - value, value // 2, alpha]), ("LA", [value, alpha])):
        layer = Image.merge(mode, [Image.fromarray(band) for band in bands])
        layer.save(tmp_path / "layer.png")
        expected = Image.alpha_composite(Image.new("RGBA", layer.size, background), layer.convert("RGBA"))
        assert np.array_equal(pixels_of(tmp_path / "layer.png", background), np.asarray(expected)[..., :3])


@pytest.mark.parametrize("suffix", ["png", "webp", "gif", "tif", "avif", "jp2"])
def test_a_black_drawing_on_transparency_can_be_seen(tmp_path, suffix):
    drawing = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (8, 8, 24, 24))
    moving = {"save_all": True, "append_images": [drawing.rotate(45)]} if suffix in ("webp", "gif") else {}
    drawing.save(tmp_path / f"drawing.{suffix}", **moving)
    shown = pixels_of(tmp_path / f"drawing.{suffix}", "red")
    assert np.abs(shown[12:20, 12:20].astype(int)).max() <= 4  # of lossy formats
    assert np.abs(shown[:4].astype(int) - (255, 0, 0)).max() <= 4


def test_transparent_palettes(tmp_path):
    palette = Image.new("P", (4, 1))
    palette.putpalette([0, 0, 0, 10, 20, 30, 200, 200, 200])
    palette.putdata([0, 1, 2, 1])
    palette.save(tmp_path / "one.png", transparency=0)
    palette.save(tmp_path / "each.png", transparency=bytes([0, 255, 51]))
    assert pixels_of(tmp_path / "one.png").tolist() == [[[255] * 3, [10, 20, 30], [200] * 3, [10, 20, 30]]]
    assert pixels_of(tmp_path / "each.png").tolist() == [[[255] * 3, [10, 20, 30], [244] * 3, [10, 20, 30]]]
    Image.new("RGBA", (2, 1), (0, 0, 100, 51)).convert("PA").save(tmp_path / "pa.tif")
    assert pixels_of(tmp_path / "pa.tif").tolist() == [[[204, 204, 224]] * 2]


@pytest.mark.parametrize(
    ("bits", "kind", "row", "transparent", "expected"),
    [  # the first pixel is black, in the transparent colour or not; the second is white
        (1, GREY, b"\x40", (0,), ["background", "white"]),
        (1, GREY, b"\x40", (1,), ["black", "background"]),
        (2, GREY, b"\x30", (3,), ["black", "background"]),
        (4, GREY, b"\x0f", (15,), ["black", "background"]),
        (8, GREY, b"\x00\xff", (0,), ["background", "white"]),
        (16, GREY, b"\x00\x00\xff\xff", (65535,), ["black", "background"]),
        (8, COLOUR, b"\x00" * 3 + b"\xff" * 3, (0, 0, 0), ["background", "white"]),
        (16, COLOUR, b"\x00" * 6 + b"\xff" * 6, (65535,) * 3, ["black", "background"]),
    ],
)
def test_the_transparent_colour_of_a_png(tmp_path, bits, kind, row, transparent, expected):
    path = png(tmp_path / "a.png", 2, bits, kind, [row], struct.pack(f">{len(transparent)}H", *transparent))
    colours = {"black": [0, 0, 0], "white": [255, 255, 255], "background": [18, 111, 179]}
    assert pixels_of(path, "#126fb3").tolist() == [[colours[name] for name in expected]]


@pytest.mark.parametrize("name", ["little.tif", "big.tif", "packed.tif", "grey.png", "grey.pgm"])
def test_sixteen_bits_become_the_nearest_of_eight(tmp_path, name):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    mode = {"big.tif": "I;16B"}.get(name, "I;16")
    picture = Image.frombytes(mode, (256, 256), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    picture.save(tmp_path / name, compression="tiff_lzw" if name == "packed.tif" else None)
    shown = pixels_of(tmp_path / name)
    assert np.array_equal(shown, np.repeat(np.rint(values * (255 / 65535))[..., None], 3, axis=2))
    ffmpeg("-i", tmp_path / name, "-f", "rawvideo", "-pix_fmt", "gray", tmp_path / "grey.raw")
    theirs = np.frombuffer((tmp_path / "grey.raw").read_bytes(), np.uint8).reshape(256, 256)
    assert np.abs(shown[..., 0].astype(int) - theirs).max() <= 1


def test_other_depths(tmp_path):
    colours = np.linspace(0, 65535, 300).astype(">u2").reshape(100, 3)
    wide = pixels_of(png(tmp_path / "rgb48.png", 100, 16, COLOUR, [colours.tobytes()]))
    assert np.abs(wide[0] - colours / 257).max() <= 1  # Pillow keeps the high byte
    twelve = tiff(tmp_path / "twelve.tif", 2, b"\x00\x0f\xff", bits=12, photometric=1)
    assert pixels_of(twelve)[0, :, 0].tolist() == [0, 255]
    inverted = tiff(tmp_path / "inverted.tif", 2, b"\x00\x00\xff\xff", bits=16, photometric=0)
    assert pixels_of(inverted)[0, :, 0].tolist() == [255, 0]
    (tmp_path / "ten_bits.pgm").write_bytes(b"P5 3 1 1023\n" + struct.pack(">3H", 0, 512, 1023))
    assert pixels_of(tmp_path / "ten_bits.pgm")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.25, 0.5, 0.75], [64, 128, 191]),  # 0 to 1 is black to white, whatever of it is there
        ([0.0, 1.0, 0.5], [0, 255, 128]),
        ([0.0, 127.5, 255.0], [0, 128, 255]),
        ([-2.0, 0.0, 8.0], [0, 51, 255]),
        ([3.0, 3.0, 3.0], [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("suffix", ["tif", "pfm"])
def test_floats(tmp_path, values, expected, suffix):
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / f"a.{suffix}")
    assert pixels_of(tmp_path / f"a.{suffix}")[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_no_numbers_are_refused(tmp_path, value):
    Image.fromarray(np.array([[0.0, value]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(MediaError, match="NaN"):
        load_picture(str(tmp_path / "a.tif"))


def test_what_a_header_shows_is_refused_by_the_probe_too(tmp_path):
    Image.fromarray(np.array([[1, 70000]], np.int32)).save(tmp_path / "int32.tif")
    tiff(tmp_path / "signed.tif", 1, b"\x00\x80", bits=16, photometric=1, sample_format=2)
    tiff(tmp_path / "float64.tif", 1, bytes(8), bits=64, photometric=1, sample_format=3)
    tiff(tmp_path / "tiles.tif", 16, bytes(16), bits=8, photometric=1, tile_width=30_000, tile_length=30_000)
    (tmp_path / "huge.ppm").write_bytes(b"P6 100000 100000 255\n\0\0\0")
    reasons = {
        "int32.tif": "32-bit or signed integers",
        "signed.tif": "32-bit or signed integers",
        "float64.tif": "a TIFF picture of a kind that Pillow cannot read",
        "tiles.tif": "more than 134217728 pixels",
        "huge.ppm": "more than 134217728 pixels",
    }
    for name, reason in reasons.items():
        for read in (lambda path: probe(path, "image"), lambda path: load_picture(str(path))):
            with pytest.raises(MediaError) as caught:
                read(tmp_path / name)
            assert reason in caught.value.reason or "changed after it was probed" in caught.value.reason
    (tmp_path / "short.ppm").write_bytes(b"P6 100 100 255\n\0\0\0")
    assert probe(tmp_path / "short.ppm", "image").width == 100  # only reading finds out
    with pytest.raises(MediaError, match="picture: "):
        load_picture(str(tmp_path / "short.ppm"))


def test_an_animated_avif_is_a_video_unless_it_is_called_an_image(tmp_path):
    shades = [Image.new("RGB", (64, 48), (50 * k,) * 3) for k in range(5)]
    shades[0].save(tmp_path / "a.avif", save_all=True, append_images=shades[1:], duration=100)
    info = probe(tmp_path / "a.avif")
    assert (info.modality, info.num_frames, info.duration_seconds) == ("video", 5, 0.5)
    seen = decode(info, torch.arange(5).double() / 10, (48, 64)).pixels.float().mean((1, 2, 3))
    assert (seen - torch.arange(5) * 50.0).abs().max() < 4
    assert probe(tmp_path / "a.avif", "image").num_frames == 1


def test_the_background_reaches_the_pixels_past_the_cache(tmp_path):
    Image.new("LA", (4, 4), (0, 0)).save(tmp_path / "clear.png")
    cache = FrameCacheConfig(str(tmp_path / "cache"), 0.1)
    reader = build_reader(DataConfig(frame_cache=cache, supervision=None))
    turns = (Message("user", (MediaPart("image", "clear.png"), TextPart("?"))), Message("assistant", (TextPart("!"),)))
    for background, expected in (("white", [255] * 3), ("rgb(1, 2, 3)", [1, 2, 3]), ("white", [255] * 3)):
        preparer = Preparer(Preprocessing(tiny_tokenizer(), 8, 1, 2, picture=PictureConfig(background)), reader=reader)
        (item,) = preparer.sample(Conversation("row.jsonl:1", "test", turns), tmp_path).visuals
        assert item.frames.pixels[0, :, 0, 0].tolist() == expected


@pytest.mark.parametrize("background", ["no colour", "#11223344"])
def test_a_background_that_is_no_colour_is_refused_at_load(background):
    with pytest.raises(RecipeError, match=r"data\.picture: background"):
        load_recipe("videollama3-tiny", [f"data.picture.background='{background}'"])
