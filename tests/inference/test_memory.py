"""Memory of an answer about a long video against one about a short video, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_apollo.data.media.video import probe
from lightning_apollo.runs.stage_folder import stage_folder
from tests.media_files import ffmpeg, h264
from tests.weights import stages

MAX_GROWTH_MIB = 160  # of 180 frames over 6, with all that the decoder and the model hold of them
MAX_LENGTH_MIB = 24  # of an hour over a minute, at as many frames: the table of the hour's 108,000 packets
PROGRAM = """
import re, sys
from pathlib import Path
from lightning_apollo.inference.answer import answer
from lightning_apollo.inference.trained import load_checkpoint

folder, *films = sys.argv[1:]
words = ["data.sampling.max_frames=180", "data.sampling.fps=3", "data.budget={token_budget: 2880, min_tokens: 4, max_length: 8192}"]
trained = load_checkpoint(folder, words)
for film in films:
    answer(trained, "What happens?", videos=[film], max_new_tokens=8)
    status = Path("/proc/self/status").read_text()  # getrusage has the peak of the process that started this one, too
    print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024)
"""


@pytest.mark.slow
def test_an_hour_takes_no_more_than_its_frames(tmp_path: Path) -> None:
    folder = stage_folder(stages.videollama3(tmp_path), "videos")
    short_film, minute_film, hour_film = (tmp_path / f"{name}.mp4" for name in ("short", "minute", "hour"))
    for path, seconds in ((short_film, 2), (minute_film, 60)):
        picture = f"testsrc2=size=640x360:rate=30:duration={seconds}"
        ffmpeg("-f", "lavfi", "-i", picture, *h264(48), "-preset", "veryfast", "-b:v", "300k", path)
    ffmpeg("-stream_loop", 59, "-i", minute_film, "-c", "copy", hour_film)
    assert probe(hour_film).duration_seconds > 3590
    command = [sys.executable, "-c", PROGRAM, *map(str, (folder, short_film, minute_film, hour_film))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    short, minute, hour = map(int, done.stdout.split())
    assert 0 < minute - short < MAX_GROWTH_MIB
    assert hour - minute < MAX_LENGTH_MIB
