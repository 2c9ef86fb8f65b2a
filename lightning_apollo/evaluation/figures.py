"""Published scores of the papers' models, for comparison."""

from __future__ import annotations

from dataclasses import dataclass

ALL = "all"  # the row of all questions

VIDEOLLAMA3 = "VideoLLaMA 3, arXiv 2501.13106v4"
APOLLO = "Apollo, arXiv 2412.10360v1, Table 4"


@dataclass(frozen=True)
class Figure:
    """Published score of one of a paper's models, in the unit of the benchmark's headline."""

    model: str
    value: float
    source: str
    note: str = ""  # in what it differs from what is measured here
    row: str = ALL  # of the table of scores: "format: multi-choice"


def _videollama3(small: float, large: float, note: str = "") -> tuple[Figure, ...]:
    return (
        Figure("VideoLLaMA3-2B", small, VIDEOLLAMA3, note),
        Figure("VideoLLaMA3-7B", large, VIDEOLLAMA3, note),
    )


def _apollo(small: float, medium: float, large: float, row: str = ALL) -> tuple[Figure, ...]:
    return (
        Figure("Apollo-1.5B", small, APOLLO, row=row),
        Figure("Apollo-3B", medium, APOLLO, row=row),
        Figure("Apollo-7B", large, APOLLO, row=row),
    )


FIGURES: dict[str, tuple[Figure, ...]] = {  # by benchmark
    "video_mme": _videollama3(59.6, 66.2) + _apollo(53.0, 58.4, 61.3),
    "video_mme_subtitles": _videollama3(63.4, 70.3) + _apollo(54.6, 60.6, 63.3),
    "mlvu": _videollama3(65.4, 73.0) + _apollo(63.3, 68.7, 70.9),
    "long_video_bench": _videollama3(57.1, 59.8) + _apollo(54.1, 55.1, 58.5),
    "lvbench": _videollama3(41.6, 45.3),
    "mvbench": _videollama3(65.5, 69.7),
    "tempcompass": (
        *_videollama3(63.4, 68.1, "with the captions, which GPT-3.5 judges"),
        *_apollo(60.8, 62.5, 64.9, row="format: multi-choice"),
    ),
    "perception_test": _videollama3(68.0, 72.8, "test set") + _apollo(61.0, 65.0, 67.3),
    "egoschema": _videollama3(58.5, 63.3, "whole test set"),
    "next_qa": _videollama3(81.1, 84.5),
    "activitynet_qa": _videollama3(58.2, 61.3, "free answers, which GPT judges; --rule paper"),
    "charades_sta": _videollama3(55.5, 60.7, "all spans of an answer together; --rule paper"),
    "mme": _videollama3(1901, 2102, "yes anywhere in an answer; --rule paper"),
    "ai2d": _videollama3(78.2, 84.7),
    "chartqa": _videollama3(79.8, 86.3, "numbers off by 100 count and GPT judges texts; --rule paper"),
    "docvqa": _videollama3(91.9, 94.9, "test set"),
    "infovqa": _videollama3(69.4, 78.9, "test set"),
    "gqa": _videollama3(62.7, 64.9),
    "ocrbench": _videollama3(779, 828),
    "realworldqa": _videollama3(67.3, 72.7, "GPT judges texts that differ; --rule paper"),
    "mathvista": _videollama3(59.2, 67.1, "with free answers, from which GPT extracts a number"),
    "mmmu": _videollama3(45.3, 48.8, "a choice is drawn where an answer names none"),
    "blink": _videollama3(44.2, 56.7, "test set, GPT reads what is no label; --rule paper"),
}
