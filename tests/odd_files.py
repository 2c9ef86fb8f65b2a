"""Media files that are whole and unusual, and some that only look like media: one of each kind that has been misread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.media_files import ffmpeg, h264, with_matrix, write_clip

PALETTE = ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse", "-pix_fmt", "pal8", "-c:v", "rawvideo")
OPEN_GROUPS = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-x264-params", "keyint=20:bframes=3:open-gop=1:scenecut=0")
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4.0,\nhttp://127.0.0.1:9/a.mp4\n#EXT-X-ENDLIST\n"


def write_odd_files(folder: Path) -> Path:
    """Fill the folder with clips of numbered frames, pictures, and a playlist."""
    _write_films(folder)
    _write_pictures(folder)
    (folder / "playlist.mp4").write_text(PLAYLIST)
    return folder


def _write_films(folder: Path) -> None:
    plain = write_clip(folder / "2024-05-01T12:30:00.mp4", 20, 10, *h264(keyframe_interval=10))
    with_matrix(plain, folder / "mirrored.mp4", (-1, 0, 0, 1))
    with_matrix(plain, folder / "on_its_side.mp4", (0, 1, -1, 0))
    with_matrix(plain, folder / "askew.mp4", (0.7, 0.7, -0.7, 0.7))
    write_clip(folder / "wide_pixels.mpg", 20, 25, "-vf", "setsar=64/45", "-c:v", "mpeg2video")
    write_clip(folder / "palette.avi", 20, 10, *PALETTE)
    write_clip(folder / "camera.h264", 20, 25, *h264(keyframe_interval=10))
    write_clip(folder / "hours.ts", 20, 10, *h264(keyframe_interval=10), "-output_ts_offset", 36000)
    write_clip(folder / "camera.mjpeg", 20, 25, "-c:v", "mjpeg")
    film = write_clip(folder / "film.ts", 60, 10, *OPEN_GROUPS).read_bytes()
    (folder / "tuned_in.ts").write_bytes(film[len(film) // 188 // 3 * 188 :])
    (folder / "joined.ts").write_bytes(film + (folder / "hours.ts").read_bytes())
    ffmpeg("-f", "lavfi", "-i", "color=s=64x64:r=10:d=2", "-c:v", "libtheora", folder / "still.ogv")
    sparse = ("-vf", "settb=1/1000,setpts='N*20/TB'", "-fps_mode", "passthrough", "-video_track_timescale", 1000)
    write_clip(folder / "sparse.mp4", 4, 10, *sparse, *h264())


def _write_pictures(folder: Path) -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (48, 1))
    Image.fromarray((ramp * 65535).astype(np.uint16)).save(folder / "deep.png")
    Image.fromarray(ramp).save(folder / "float.tiff")
    Image.fromarray(np.where(ramp > 0.5, np.float32("nan"), ramp)).save(folder / "not_a_number.tiff")
    Image.fromarray((ramp * 2**20).astype(np.int32)).save(folder / "integers.tiff")
    Image.new("RGBA", (64, 48), (0, 0, 0, 60)).save(folder / "transparent.webp")
    Image.new("RGB", (64, 48), "teal").save(folder / "picture.avif")
    (folder / "claims_too_much.ppm").write_bytes(b"P6\n100000 100000\n255\n" + bytes(100))
