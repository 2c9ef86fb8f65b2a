"""Pictures that are turned by their EXIF, whatever else stands in it."""

import struct
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lightning_apollo.data.media.video import load_image, probe

# Orientation -> stored pixels (C, H, W) as they are to be seen, as Exif 2.32 (table 6, tag 274) says where row 0 and column 0 are
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored.flip(2),
    3: lambda stored: stored.flip(1, 2),
    4: lambda stored: stored.flip(1),
    5: lambda stored: stored.transpose(1, 2),
    6: lambda stored: stored.transpose(1, 2).flip(2),
    7: lambda stored: stored.flip(1, 2).transpose(1, 2),
    8: lambda stored: stored.transpose(1, 2).flip(1),
}
UNWRITABLE = {  # entries that Pillow reads and cannot write: a maker of type float, an EXIF folder before the file
    "nothing else": (),
    "float": ((0x010F, 11, b"\0\0\0\6"),),
    "folder": ((0x8769, 9, b"\xff\xfe\xfd\xfc"),),
    "xmp": ((0x02BC, 3, b"\xff\xfe"),),
}


def exif(orientation: int, entries: tuple[tuple[int, int, bytes], ...]) -> bytes:
    listed = [(0x0112, 3, orientation.to_bytes(2, "big")), *entries]
    packed = b"".join(struct.pack(">HHI", tag, kind, 1) + value.ljust(4, b"\0") for tag, kind, value in listed)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(listed)) + packed + bytes(4)


def stored_pixels() -> Tensor:
    return torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("others", UNWRITABLE)
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_every_orientation_is_made_upright(form: str, mode: str, orientation: int, others: str, tmp_path: Path) -> None:
    path, stored = tmp_path / "picture", stored_pixels()
    picture = Image.fromarray(stored.permute(1, 2, 0).numpy()).convert(mode)
    picture.save(path, form, exif=exif(orientation, UNWRITABLE[others]), lossless=True)
    expected = UPRIGHT[orientation](stored)
    info = probe(path, "image")
    assert (info.height, info.width) == expected.shape[1:]
    assert torch.equal(load_image(path, (info.height, info.width)).pixels[0], expected)


@pytest.mark.parametrize("others", [name for name, entries in UNWRITABLE.items() if entries])
def test_those_entries_cannot_be_written(others: str, tmp_path: Path) -> None:
    Image.fromarray(stored_pixels().permute(1, 2, 0).numpy()).save(
        tmp_path / "picture.png", exif=exif(6, UNWRITABLE[others])
    )
    with Image.open(tmp_path / "picture.png") as picture, pytest.raises((AttributeError, ValueError, TypeError)):
        ImageOps.exif_transpose(picture)
