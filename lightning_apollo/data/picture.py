"""Still pictures through Pillow: what a header says, and upright RGB pixels. H, W pixels."""

from __future__ import annotations

import struct
import warnings

from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_apollo.data.storage import Readable, open_media
from lightning_apollo.structures import MediaError, MediaInfo, Modality

MAX_PICTURE_PIXELS = 2**27  # 134 megapixels; decoded, 400 MB
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_ANIMATED_FORMATS = ("PNG", "WEBP", "GIF")  # the several pictures of a phone's JPEG are no animation
_ORIENTATION_TAG = 0x0112  # of EXIF
_TO_UPRIGHT = {  # orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ROTATIONS = {
    3: 180,
    4: 180,
    5: 270,
    6: 270,
    7: 90,
    8: 90,
}  # orientation -> degrees counter-clockwise; mirrored ones too
_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)  # what Pillow's readers raise


def probe_picture(path: str, modality: Modality | None, file: Readable) -> MediaInfo | None:
    """What the header says; None where the file is no picture, or an animated one that is to play as a video."""
    picture = _open(path, file)
    if picture is None:
        return None
    with picture:
        if modality != "image" and picture.format in _ANIMATED_FORMATS and getattr(picture, "is_animated", False):
            return None
        width, height = picture.size
        if _orientation(picture) >= 5:  # lies on its side
            width, height = height, width
        return MediaInfo(
            path=path,
            modality=modality or "image",
            height=height,
            width=width,
            begin_seconds=0.0,
            duration_seconds=0.0,
            num_frames=1,
            fps=None,
            codec=str(picture.format).lower(),
            rotation_degrees=_ROTATIONS.get(_orientation(picture), 0),
        )


def load_picture(path: str) -> Tensor:
    """(1, 3, H, W) uint8, upright, alpha dropped; the first frame of an animated picture."""
    picture = _open(path, open_media(path))
    if picture is None:
        raise MediaError(path, "not a picture any more: the file changed after it was probed")
    with picture:
        if picture.mode.startswith("I"):
            raise MediaError(path, "a picture of 16 bits a channel: convert it to 8 bits")
        try:
            orientation = _orientation(picture)
            upright = picture if orientation == 1 else picture.transpose(_TO_UPRIGHT[orientation])
            if upright.mode == "P":
                upright = upright.convert("RGBA")  # Pillow warns on the direct way where the palette has transparency
            return pil_to_tensor(upright.convert("RGB")).unsqueeze(0)
        except _ERRORS as error:
            raise MediaError(path, f"truncated or corrupt picture: {error}") from error


def _open(path: str, file: Readable) -> Image.Image | None:
    """The picture with only its header read; None where the content is of none of the formats."""
    too_large = MediaError(path, f"a picture of more than {MAX_PICTURE_PIXELS} pixels, the limit: make it smaller")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            warnings.simplefilter("ignore", UserWarning)  # of an EXIF that ends too early
            picture = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError:
        raise too_large from None
    except _ERRORS as error:
        raise MediaError(path, f"a picture with a broken header: {error}") from error
    if picture.width * picture.height > MAX_PICTURE_PIXELS:
        picture.close()
        raise too_large
    return picture


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation from 1, upright, to 8. Upright also where it is none of these, the EXIF cannot be read, or a PNG
    has it only after its pixels."""
    if picture.format == "PNG" and "exif" not in picture.info:
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an EXIF that ends too early
            orientation = picture.getexif().get(_ORIENTATION_TAG, 1)
    except _ERRORS:
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TO_UPRIGHT else 1
