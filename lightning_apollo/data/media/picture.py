"""Still pictures through Pillow: header facts and upright RGB pixels. H, W pixels."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_apollo.data.media.rgb import correct_transparent_colour, to_rgb
from lightning_apollo.data.storage.address import Readable, open_media
from lightning_apollo.structures import MediaError, MediaInfo, Modality

MAX_PICTURE_PIXELS = 2**27  # 134 megapixels; decoded, 400 MB
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "TIFF", "JPEG2000", "PPM")
_MARKED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "JPEG2000")  # whose first bytes no text begins with
_ANIMATED_FORMATS = ("PNG", "WEBP", "GIF", "AVIF")  # the several pictures of a phone's JPEG are no animation
_SEAMS = {  # the end of a picture and the beginning of the next; a thumbnail's end has something else behind it
    "JPEG": b"\xff\xd9\xff\xd8\xff",
    "PNG": b"IEND\xaeB`\x82\x89PNG",
}
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF
_ORIENTATION_TAG = 0x0112  # of EXIF
_ROTATIONS = {
    3: 180,
    4: 180,
    5: 270,
    6: 270,
    7: 90,
    8: 90,
}  # orientation -> degrees counter-clockwise; mirrored ones too
_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, RuntimeError, struct.error)  # of Pillow


def probe_picture(path: str, modality: Modality | None, file: Readable) -> MediaInfo | None:
    """Facts of the header; None where the file is no picture, or an animated one that is to play as a video."""
    picture = _open(path, file)
    if picture is None:
        return None
    with picture:
        if modality != "image" and _plays(picture):
            return None
        width, height = picture.size
        if _orientation(picture) >= 5 and not _turns_itself(picture):  # lies on its side
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


def _plays(picture: ImageFile.ImageFile) -> bool:
    """True if the file is an animation, or a raw stream of pictures one behind the other, as Motion JPEG."""
    if picture.format in _ANIMATED_FORMATS and getattr(picture, "is_animated", False):
        return True
    seam, file, before = _SEAMS.get(str(picture.format)), picture.fp, b""
    if seam is None or file is None:
        return False
    file.seek(0)
    while chunk := file.read(2**20):
        if seam in before + chunk:
            return True
        before = chunk[-len(seam) :]
    return False


def load_picture(path: str, background: str = "white") -> Tensor:
    """(1, 3, H, W) uint8, upright, over the background where it is transparent; the first frame of an animated picture."""
    picture = _open(path, open_media(path))
    if picture is None:
        raise MediaError(path, "not a picture any more: the file changed after it was probed")
    with picture:
        orientation = 1 if _turns_itself(picture) else _orientation(picture)
        correct_transparent_colour(picture)
        try:
            with _without_warnings():
                picture.load()
        except _ERRORS as error:
            raise MediaError(path, f"truncated or corrupt picture: {error}") from error
        try:
            shown = to_rgb(picture, background)
        except ValueError as error:
            raise MediaError(path, f"a picture that cannot be shown: {error}") from error
        return pil_to_tensor(shown if orientation == 1 else _turned(shown, orientation)).unsqueeze(0)


def not_a_picture(path: str, file: Readable) -> MediaError:
    """The error for a file that `probe_picture` finds no picture in where there must be one."""
    if not isinstance(file, str):
        file.seek(0)
    with open(file, "rb") if isinstance(file, str) else file as content:
        prefix = content.read(16)
    for name in _MARKED_FORMATS:
        accept = Image.OPEN[name][1]
        if accept is not None and accept(prefix):
            return MediaError(path, f"a {name} picture of a kind that Pillow cannot read: save it as a PNG of 8 bits")
    return MediaError(path, f"not a picture ({', '.join(_FORMATS)}) where the annotation has an image")


def _open(path: str, file: Readable) -> ImageFile.ImageFile | None:
    """The picture with only its header read; None where the content is of none of the formats."""
    too_large = MediaError(path, f"a picture of more than {MAX_PICTURE_PIXELS} pixels, the limit: make it smaller")
    try:
        with _without_warnings():
            picture = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError:
        raise too_large from None
    except _ERRORS as error:
        raise MediaError(path, f"a picture with a broken header: {error}") from error
    if max(picture.width * picture.height, _tile_pixels(picture)) > MAX_PICTURE_PIXELS:
        picture.close()
        raise too_large
    if picture.mode == "I" and picture.format != "PPM":  # Pillow brings a PPM's values to 16 bits
        picture.close()
        raise MediaError(path, "a picture of 32-bit or signed integers, which have no white: save it with 8 or 16 bits")
    return picture


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # there is a limit of our own
        warnings.simplefilter("ignore", UserWarning)  # of an EXIF that ends too early
        yield


def _tile_pixels(picture: Image.Image) -> int:
    """Pixels of one tile of a TIFF, which is decoded whole whatever the picture shows of it; 0 for other pictures."""
    tags = getattr(picture, "tag_v2", {})
    return tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0)


def _turns_itself(picture: Image.Image) -> bool:
    """True if Pillow applies the orientation while it reads size and pixels."""
    return picture.format == "TIFF"


def _turned(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture upright. All else in its EXIF goes before, which exif_transpose would write anew, and fail where it cannot."""
    picture.info.clear()
    picture.getexif()[_ORIENTATION_TAG] = orientation
    return ImageOps.exif_transpose(picture)


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation from 1, upright, to 8. Upright also where it is none of these, the EXIF cannot be read, or a PNG
    has it only after its pixels."""
    if picture.format == "PNG" and "exif" not in picture.info:
        return 1
    try:
        with _without_warnings():
            orientation = picture.getexif().get(_ORIENTATION_TAG, 1)
    except _ERRORS:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
