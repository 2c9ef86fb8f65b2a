"""FFmpeg's libraries as the loader of this system finds them.

Stands on the standard library alone, so that `python ffmpeg.py`, with code 2 and a line where none loads, can be asked before
anything is installed.
"""

import ctypes
import sys
from pathlib import Path

# FFmpeg's version -> numbers of its libraries, of all that torchcodec's own library for that version is linked with
LIBRARIES = {
    9: {"avutil": 61, "avcodec": 63, "avformat": 63, "avdevice": 63, "avfilter": 12, "swscale": 10, "swresample": 7},
    8: {"avutil": 60, "avcodec": 62, "avformat": 62, "avdevice": 62, "avfilter": 11, "swscale": 9, "swresample": 6},
    7: {"avutil": 59, "avcodec": 61, "avformat": 61, "avdevice": 61, "avfilter": 10, "swscale": 8, "swresample": 5},
    6: {"avutil": 58, "avcodec": 60, "avformat": 60, "avdevice": 60, "avfilter": 9, "swscale": 7, "swresample": 4},
    5: {"avutil": 57, "avcodec": 59, "avformat": 59, "avdevice": 59, "avfilter": 8, "swscale": 6, "swresample": 4},
    4: {"avutil": 56, "avcodec": 58, "avformat": 58, "avdevice": 58, "avfilter": 7, "swscale": 5, "swresample": 3},
}
KNOWN_VERSIONS = f"{min(LIBRARIES)} to {max(LIBRARIES)}"

_OTHER_NUMBERS = (*range(50, 56), *range(62, 100))  # of libavutil in older versions, and in versions to come
_FILE_NAMES = {"darwin": "lib{}.{}.dylib", "win32": "{}-{}.dll"}
_FIXES = {
    "linux": "sudo apt-get install ffmpeg (Debian, Ubuntu), or: conda install -c conda-forge ffmpeg",
    "darwin": "brew install ffmpeg, or: conda install -c conda-forge ffmpeg",
}


def loadable_version() -> int | None:
    """The newest version of FFmpeg of which every library loads that torchcodec needs."""
    for version, numbers in LIBRARIES.items():
        if not any(load_error(file_name(name, number)) for name, number in numbers.items()):
            return version
    return None


def looks_whole() -> bool:
    """True if libavutil loads and the other libraries of its version lie beside it: on Linux, in 5 ms, where loading all of
    them takes 100.
    """
    for numbers in LIBRARIES.values():
        name = file_name("avutil", numbers["avutil"])
        if load_error(name) is None:
            paths = {
                Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines() if name in line
            }
            return all((path.parent / file_name(*one)).is_file() for path in paths for one in numbers.items())
    return False


def why_none_loads() -> str:
    """Diagnosis of an incomplete FFmpeg: a part of one, another version, or nothing."""
    for version, numbers in LIBRARIES.items():
        errors = [load_error(file_name(name, number)) for name, number in numbers.items()]
        if errors[0] is None:  # libavutil, on which the others stand
            return f"FFmpeg {version} is there in part only ({next(filter(None, errors))})"
    others = [file for file in (file_name("avutil", number) for number in _OTHER_NUMBERS) if _is_there(file)]
    if others:
        return f"FFmpeg has a version that torchcodec does not take ({', '.join(others)}; it takes {KNOWN_VERSIONS})"
    return "FFmpeg's libraries are missing"


def fix() -> str:
    """The commands that install FFmpeg on this system."""
    return _FIXES.get(sys.platform, "conda install -c conda-forge ffmpeg")


def file_name(name: str, number: int) -> str:
    return _FILE_NAMES.get(sys.platform, "lib{}.so.{}").format(name, number)


def load_error(file: str) -> str | None:
    """The loader's words, or None for a library that loads. The process keeps what was loaded."""
    try:
        ctypes.CDLL(file)
    except OSError as error:
        return str(error)
    return None


def main() -> int:
    if sys.platform != "linux" or loadable_version() is not None:  # elsewhere only torchcodec knows where it looks
        return 0
    sys.stderr.write(f"{why_none_loads()}: {fix()}\n")
    return 2


def _is_there(file: str) -> bool:
    """True if the loader finds the file, be it one that does not load."""
    error = load_error(file)
    return error is None or "No such file" not in error


if __name__ == "__main__":
    sys.exit(main())
