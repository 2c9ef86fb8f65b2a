"""Benchmark registry: reader and metric by name. What papers report for them is in figures.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath

import torch
from torchmetrics import MeanMetric

from lightning_apollo.errors import suggestion
from lightning_apollo.evaluation import bootstrap
from lightning_apollo.evaluation.metrics import MeanOfCategories, MmeScore
from lightning_apollo.evaluation.question import BenchmarkError, Question
from lightning_apollo.evaluation.readers import documents, long_video, pictures, short_video
from lightning_apollo.evaluation.readers.shapes import shapes

HEADLINES = {  # what a benchmark reports -> how its interval is drawn
    "questions": bootstrap.over_questions,
    "categories": bootstrap.over_categories,
    "mme": bootstrap.of_mme,
    "thousand": bootstrap.out_of_thousand,
}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. Its readers' docstrings say which files it takes."""

    name: str
    title: str
    reader: Callable[[Path], Iterator[Question]]
    max_new_tokens: int = 16
    headline: str = "questions"  # one of HEADLINES

    @property
    def files(self) -> str:
        """Contents and origin of its folder: the first paragraph of the reader's docstring."""
        paragraph = (self.reader.__doc__ or "").split("\n\n")[0]
        return " ".join(paragraph.split())

    def questions(self, folder: Path, limit: int | None = None) -> list[Question]:
        """The questions of the published files in `folder`, the first `limit` of them; BenchmarkError for what is amiss."""
        if not folder.is_dir():
            raise BenchmarkError(f"{folder} is no folder: name the one with the published files of {self.title}")
        try:
            questions = list(islice(self.reader(folder), limit))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise BenchmarkError(f"{folder}: not in the published form of {self.title}: {reason}") from error
        if not questions:
            raise BenchmarkError(f"{folder} has no question of {self.title}: fetch its files again")
        seen: set[str] = set()
        for question in questions:
            if question.question_id in seen:
                raise BenchmarkError(
                    f"{folder}: two questions are called {question.question_id}: fetch the files again"
                )
            seen.add(question.question_id)
            for part in question.media:
                for path in part.frame_paths or (part.path,):
                    if path.startswith("/") or ".." in PurePosixPath(path).parts:
                        raise BenchmarkError(
                            f"{folder}: {question.question_id} shows {path}, which leads out of the folder"
                        )
        return questions

    def score(self, scores: Sequence[float], questions: Sequence[Question]) -> float:
        """The headline of the scores, one for each of the questions: per cent, or the benchmark's own points."""
        categories = sorted({question.category for question in questions})
        if self.headline in ("questions", "thousand"):
            mean = MeanMetric().set_dtype(torch.float64)
            mean.update(torch.tensor(scores, dtype=torch.float64))
            return float(mean.compute()) * (100 if self.headline == "questions" else 1000)
        metric = MmeScore(categories) if self.headline == "mme" else MeanOfCategories(categories)
        for score, question in zip(scores, questions, strict=True):
            metric.update(score, question)
        return float(metric.compute()) * (1 if self.headline == "mme" else 100)

    @property
    def of_a_part(self) -> Benchmark:
        """Scoring of some of the questions: MME's in its points, any others by their mean in per cent."""
        return self if self.headline == "mme" else replace(self, headline="questions")

    def interval(self, scores: Sequence[float], questions: Sequence[Question]) -> tuple[float, float]:
        """The bounds of the headline's 95 % interval."""
        return bootstrap.bounds(self.draws(scores, questions))

    def draws(self, scores: Sequence[float], questions: Sequence[Question]) -> bootstrap.Array:
        """The headline of each draw of the scenes, (R,); of other scores of the same questions, the same draws."""
        categories, scenes = [q.category for q in questions], [q.scene for q in questions]
        return bootstrap.draws(scores, categories, scenes, HEADLINES[self.headline])


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name; BenchmarkError names the nearest one."""
    if name not in BENCHMARKS:
        raise BenchmarkError(f"there is no benchmark {name}{suggestion(name, BENCHMARKS)}")
    return BENCHMARKS[name]


_TABLE = (
    Benchmark("video_mme", "Video-MME without subtitles", long_video.video_mme),
    Benchmark("video_mme_subtitles", "Video-MME with subtitles", long_video.video_mme_subtitles),
    Benchmark("mlvu", "MLVU dev, multiple choice", long_video.mlvu, headline="categories"),
    Benchmark("long_video_bench", "LongVideoBench val", long_video.long_video_bench),
    Benchmark("lvbench", "LVBench", long_video.lvbench),
    Benchmark("mvbench", "MVBench", short_video.mvbench, headline="categories"),
    Benchmark("tempcompass", "TempCompass without captioning", short_video.tempcompass),
    Benchmark("perception_test", "Perception Test val", short_video.perception_test),
    Benchmark("egoschema", "EgoSchema, subset with answers", short_video.egoschema),
    Benchmark("next_qa", "NExT-QA, multiple choice", short_video.next_qa),
    Benchmark("activitynet_qa", "ActivityNet-QA, exact match", short_video.activitynet_qa),
    Benchmark("charades_sta", "Charades-STA, mIoU", short_video.charades_sta, max_new_tokens=64),
    Benchmark("mme", "MME", pictures.mme, headline="mme"),
    Benchmark("ai2d", "AI2D", documents.ai2d),
    Benchmark("chartqa", "ChartQA, relaxed accuracy", documents.chartqa, max_new_tokens=32),
    Benchmark("docvqa", "DocVQA val, ANLS", documents.docvqa, max_new_tokens=64),
    Benchmark("infovqa", "InfoVQA val, ANLS", documents.infovqa, max_new_tokens=64),
    Benchmark("gqa", "GQA test-dev balanced", pictures.gqa),
    Benchmark("ocrbench", "OCRBench, out of 1000", documents.ocrbench, max_new_tokens=128, headline="thousand"),
    Benchmark("realworldqa", "RealWorldQA", pictures.realworldqa),
    Benchmark("mathvista", "MathVista testmini, multiple choice", pictures.mathvista, max_new_tokens=512),
    Benchmark("mmmu", "MMMU val", pictures.mmmu, max_new_tokens=32),
    Benchmark("blink", "BLINK val", pictures.blink, headline="categories"),
    Benchmark("shapes", "Built-in video QA set, held-out clips", shapes),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _TABLE}
