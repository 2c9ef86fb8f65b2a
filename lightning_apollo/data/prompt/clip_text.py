"""The text between clips: Apollo's ways to tell a language model where a clip begins and when it plays.

arXiv 2412.10360, Table 2 and C.1; RUN stands for the placeholders of one clip, S and E for <|vid_start|> and
<|vid_end|>. `template.py` puts the special tokens around the runs.

between      times     text of two clips
none         both      RUNRUN
start_end    both      SRUNESRUNE
timestamps   paper     clip from 00:00-00:02:RUN\\nclip from 00:02-00:04:RUN
timestamps   released  You are provided the following series of two, 2 second clips from a 0:00:04 [H:MM:SS] video.\\n
                       0.0-2.0 seconds: RUN,\\n2.0-4.0 seconds: RUN
both         either    the same with SRUNE in the place of RUN

The paper does not say what stands between one clip and the next stamp: a newline, here.
"""

from __future__ import annotations

import math
from datetime import timedelta

from num2words import num2words

from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.structures import VisualItem

PAPER_TEXT = ClipTextConfig()


def run_texts(item: VisualItem, config: ClipTextConfig) -> list[str]:
    """The text before each of the item's `num_runs` runs; empty before an image, which has no time."""
    if item.modality == "image" or not config.has_stamps:
        return [""] * item.num_runs
    assert item.spans_seconds is not None  # every video in clips has them
    spans = item.spans_seconds.tolist()  # K pairs
    if config.times == "paper":
        opening, joint = "", "\n"
        stamps = [f"clip from {clock(begin)}-{clock(end)}:" for begin, end in spans]
    else:
        opening = series(item.num_runs, item.duration_seconds, max(end - begin for begin, end in spans))
        joint = ",\n"
        stamps = [f"{begin:z.1f}-{end:z.1f} seconds: " for begin, end in spans]
    return [(joint if position else opening) + stamp for position, stamp in enumerate(stamps)]


def clock(seconds: float) -> str:
    """MM:SS, rounded half up so that every clip of 1.5 s begins where the one before it ended; minutes go past 59."""
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    return f"{minutes:02d}:{rest:02d}"


def series(num_clips: int, duration_seconds: float, clip_seconds: float) -> str:
    """The sentence that opens a video in the released format."""
    duration = timedelta(seconds=round(duration_seconds))
    return (
        f"You are provided the following series of {num2words(num_clips)}, "
        f"{round(clip_seconds, 2):g} second clips from a {duration} [H:MM:SS] video.\n"
    )
