"""File to patches: ours against transformers' VideoLLaMA 3 video processor and against FFmpeg's bare decode, on one core.

    python benchmarks/bench_pipeline.py [--quick]      writes results/pipeline.csv and pipeline.png, prints the ratios as JSON

`ours` is probe, timestamps, size, decode with resize, pack_patches. `processor` is the port's whole way from a path, its keep mask
switched off because ours makes none here. `ffmpeg` is the command line's decode of the same file to raw RGB of the same rate and
size, process start included; it makes no patches. Before anything is timed the patches of `ours` and `processor` must be equal;
where they are not, nothing is written and the exit status is 1. On the hour the two choose other moments: no comparison.
`--opens` times opens of long films instead (open_cases.py) and writes results/opens.csv.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import clips
import harness
import open_cases
import plots
import torch
from harness import Measurement, PeakMemory, Spread, spread
from torch import Tensor
from transformers import VideoLlama3VideoProcessor

from apollo_kernels import Layout, pack_patches
from lightning_apollo.data.media import video as media
from lightning_apollo.data.sampling.budget import BudgetConfig, target_sizes
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import sample_timestamps
from lightning_apollo.structures import Frames, MediaInfo, VisualBatch, VisualItem

PATCH_SIZE, MERGE_SIZE = 14, 2
BUDGET = BudgetConfig()
MAX_FRAMES = 180
TOLERANCE = 1e-5  # of normalised pixels: 1e-3 grey levels


@dataclass(frozen=True)
class Case:
    mode: str  # as the CSV calls it
    clip: clips.Clip
    fps: int  # frames sampled a second
    providers: tuple[str, ...]
    rounds: int
    is_comparable: bool = True  # ours and the processor look at the same moments

    @property
    def description(self) -> str:
        clip = self.clip
        length = clip.seconds * clip.repeats
        return (
            f"{clip.width}×{clip.height}, {length} s, {clips.FPS} fps, keyframe every {clip.keyframe_interval} frames"
        )


SIXTY_SECONDS = ("ours", "processor", "ffmpeg")
CASES = (
    Case("60 s, short GOP", clips.SHORT_GOP, 1, SIXTY_SECONDS, rounds=5),
    Case("60 s, short GOP", clips.SHORT_GOP, 2, SIXTY_SECONDS, rounds=5),
    Case("60 s, long GOP", clips.LONG_GOP, 1, SIXTY_SECONDS, rounds=5),
    Case("60 s, long GOP", clips.LONG_GOP, 2, SIXTY_SECONDS, rounds=5),
    Case("an hour, 180 frames", clips.HOUR, 1, SIXTY_SECONDS[:2], rounds=3, is_comparable=False),
)
QUICK_CASES = (Case("tiny", clips.TINY, 1, SIXTY_SECONDS, rounds=2),)


def ours_frames(path: Path, fps: int) -> Frames:
    """uint8 frames at their target size, as a loader process holds them."""
    info = media.probe(path, "video")
    timestamps = sample_timestamps(info, SamplingConfig(fps=fps, max_frames=MAX_FRAMES))
    return media.decode(info, timestamps, _target_size(info, len(timestamps)), num_threads=1)


def ours(path: Path, fps: int) -> tuple[Tensor, Tensor]:
    """Patches (N, 588) and the grid of the clip (1, 3)."""
    item = VisualItem(ours_frames(path, fps), "video", MERGE_SIZE)
    batch = VisualBatch.from_items([item], PATCH_SIZE)
    patches, *_ = pack_patches(batch.pixels, Layout.of(batch.sizes, batch.merge_sizes, PATCH_SIZE))
    return patches, batch.grid_thw


def processor(path: Path, fps: int) -> tuple[Tensor, Tensor]:
    """The same from the port, under the same budget of pixels."""
    side = PATCH_SIZE * MERGE_SIZE
    port = VideoLlama3VideoProcessor(
        patch_size=PATCH_SIZE,
        merge_size=MERGE_SIZE,
        size={"shortest_edge": BUDGET.min_tokens * side**2, "longest_edge": BUDGET.token_budget * side**2},
        max_frames=MAX_FRAMES,
        use_token_compression=False,
    )
    output = port(videos=str(path), do_sample_frames=True, fps=fps, return_tensors="pt")
    return output["pixel_values_videos"], output["video_grid_thw"]


def ffmpeg(path: Path, fps: int) -> None:
    """The decode alone, in a process of its own that throws the pixels away."""
    height, width = _size_for_ffmpeg(path, fps)
    filters = f"fps={fps},scale={width}:{height}:flags=bicubic"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-i", str(path), "-filter_threads", "1"]
    output = ["-vf", filters, "-pix_fmt", "rgb24", "-f", "rawvideo", "-y", "/dev/null"]
    subprocess.run([*command, *output], check=True)


PROVIDERS: dict[str, Callable[[Path, int], object]] = {
    "ours": ours,
    "processor": processor,
    "ffmpeg": ffmpeg,
    "ours_frames": ours_frames,
}


@cache
def _size_for_ffmpeg(path: Path, fps: int) -> tuple[int, int]:
    """Known from the warm-up round on: reading the file for it is not part of FFmpeg's time."""
    info = media.probe(path, "video")
    return _target_size(info, min(MAX_FRAMES, round(info.duration_seconds * fps)))


def _target_size(info: MediaInfo, num_frames: int) -> tuple[int, int]:
    return target_sizes([(num_frames, info.height, info.width)], [MERGE_SIZE], PATCH_SIZE, BUDGET)[0]


def check(case: Case) -> None:
    """Raise SystemExit where ours and the processor give other patches."""
    (patches, grid), (expected, expected_grid) = ours(case.clip.path(), case.fps), processor(case.clip.path(), case.fps)
    if not torch.equal(grid, expected_grid):
        sys.exit(
            f"{case.mode}: grid {grid.tolist()} is not the processor's {expected_grid.tolist()}; nothing is written"
        )
    difference = float((patches - expected).abs().max())
    if difference > TOLERANCE:
        sys.exit(f"{case.mode}: patches differ from the processor's by {difference:.2e}; nothing is written")


def measure(case: Case) -> Iterator[Measurement]:
    def measurement(provider: str, metric: str, unit: str, values: Spread) -> Measurement:
        fps = str(case.fps)
        return Measurement("file_to_patches", provider, case.mode, metric, unit, "fps", fps, values, case.description)

    path = case.clip.path()
    runs = {name: lambda run=PROVIDERS[name]: run(path, case.fps) for name in case.providers}
    seconds = harness.interleaved_seconds(runs, case.rounds)
    for provider, values in seconds.items():
        yield measurement(provider, "seconds", "s", spread(values))
    for slow, fast in (("processor", "ours"), ("ours", "ffmpeg")):
        if slow in seconds and fast in seconds:
            yield measurement(f"{slow}/{fast}", "time_ratio", "x", spread(harness.ratios(seconds[slow], seconds[fast])))
    for provider in ("ours", "ours_frames", "processor"):
        mib = harness.run_for_number(__file__, "--memory", provider, str(path), str(case.fps))
        yield measurement(provider, "peak_memory_over_base", "MiB", spread([mib]))


def peak_memory(provider: str, path: Path, fps: int) -> float:
    """MiB over base of one run, where everything is loaded and has run on the tiny clip."""
    run = PROVIDERS[provider]
    run(clips.TINY.path(), 1)
    peak = PeakMemory()
    run(path, fps)
    return peak.mib_over_base()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one tiny clip, two rounds, into benchmarks/.cache")
    parser.add_argument("--opens", action="store_true", help="opens of long films, with a frame table and without")
    parser.add_argument("--output", type=Path, help="folder of the CSV and the picture")
    parser.add_argument(
        "--memory", nargs=3, metavar=("PROVIDER", "FILE", "FPS"), help="print one run's peak memory over base, in MiB"
    )
    arguments = parser.parse_args()
    harness.use_one_core()
    if arguments.memory:
        provider, path, fps = arguments.memory
        print(peak_memory(provider, Path(path), int(fps)))
        return
    output = arguments.output or (harness.CACHE / "quick" if arguments.quick else harness.RESULTS)
    if arguments.opens:
        rows = harness.record(open_cases.measure_opens(ours, processor), output / "opens.csv")
        print(harness.markdown(rows, harness.TABLES["opens"]))
        print(json.dumps(harness.ratio_summary(rows), ensure_ascii=False))
        return
    measurements: list[Measurement] = []
    for case in QUICK_CASES if arguments.quick else CASES:
        if case.is_comparable:
            check(case)
        measurements += measure(case)
    rows = harness.record(measurements, output / "pipeline.csv")
    plots.plot(output / "pipeline.csv")
    print(harness.markdown(rows, harness.TABLES["pipeline"]))
    print(json.dumps(harness.ratio_summary(rows), ensure_ascii=False))


if __name__ == "__main__":
    main()
