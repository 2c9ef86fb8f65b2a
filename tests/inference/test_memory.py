"""What an answer about a long video takes in memory, in a process of its own, against one about a short video."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_apollo.config import save_recipe
from lightning_apollo.models.checkpoints import save_weights
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.stage_state import stage_folder
from lightning_apollo.training.callbacks.export import WEIGHTS
from tests.media_files import ffmpeg, h264
from tests.small_recipe import recipe as small_recipe

MAX_GROWTH_MIB = 160  # of 180 frames over 8, with all that the decoder and the model hold of them
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
    recipe = small_recipe(tmp_path)
    folder = stage_folder(recipe, "videos")
    folder.mkdir(parents=True)
    save_weights(build_model(recipe.model, recipe.stages["videos"].reducer), folder / WEIGHTS)
    save_recipe(recipe, folder / "recipe.yaml")
    films = [tmp_path / name for name in ("short.mp4", "minute.mp4", "hour.mp4")]
    for path, seconds in zip(films, (2, 60, 60), strict=False):
        picture = f"testsrc2=size=640x360:rate=30:duration={seconds}"
        ffmpeg("-f", "lavfi", "-i", picture, *h264(48), "-preset", "veryfast", "-b:v", "300k", path)
    ffmpeg("-stream_loop", 59, "-i", films[1], "-c", "copy", films[2])
    command = [sys.executable, "-c", PROGRAM, str(folder), *map(str, films)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    short, minute, hour = map(int, done.stdout.split())
    assert 0 < minute - short < MAX_GROWTH_MIB
    assert hour - minute < MAX_LENGTH_MIB
