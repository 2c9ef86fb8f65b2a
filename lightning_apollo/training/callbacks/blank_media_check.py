"""Loss with the media against loss with grey media, to tell whether a model uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.video_lmm import FrameLMM, VideoLMM
from lightning_apollo.structures import IGNORE_INDEX, PackedBatch
from lightning_apollo.training.losses import token_loss_sum
from lightning_apollo.training.random_states import undisturbed

BLANK_GREY_LEVEL = 128  # of 255: what encoders that normalise by mean 0.5 see as 0
SMALLEST_GAP = 0.01  # nats a label: below it, the media do not make an answer's tokens 1 % likelier

INSPECT = "look at what the model is shown with `lightning-apollo inspect`"


@dataclass(frozen=True)
class BlankMediaReport:
    """Report of one optimizer step, over all ranks and all its micro-batches."""

    num_labels: int
    num_text_tokens: int
    num_samples: int
    num_unlabelled: int  # samples without any label
    num_media_labels: int  # labels of samples that show an image or video: what both losses are taken on
    loss_sum: float
    blank_loss_sum: float

    @property
    def label_share(self) -> float:
        """Of the tokens of text, those that are learned."""
        return self.num_labels / max(1, self.num_text_tokens)

    @property
    def gap(self) -> float | None:
        """Nats a label by which grey media are worse than the true ones; None without media."""
        if not self.num_media_labels:
            return None
        return (self.blank_loss_sum - self.loss_sum) / self.num_media_labels

    def metrics(self) -> dict[str, float]:
        gap = self.gap
        if gap is None:
            return {"blank_media/label_share": self.label_share}
        loss, blank_loss = (total / self.num_media_labels for total in (self.loss_sum, self.blank_loss_sum))
        return {
            "blank_media/label_share": self.label_share,
            "blank_media/loss": loss,
            "blank_media/blank_loss": blank_loss,
            "blank_media/loss_gap": gap,
        }


class BlankMediaCheck(Callback):
    """Measure the first and the last optimizer step of a stage on the very micro-batches that the step trains on.

    Each of them runs twice more, without gradients: as it is, and with pixels of one grey. Loss is taken on the samples that
    show something. Dropout is off and no visual token is dropped, in both runs: a reducer would leave almost nothing of a
    grey video, and the runs would differ in length, too. Training is not changed by it: modes, random states and the data's
    order are as without. Every rank runs equally many forwards, whatever it holds, as sharded models need.

    Give it to the Trainer before StepTime, which then books these forwards as `other`.
    """

    def __init__(self, starts_trained: bool, say: Callable[[str], None]) -> None:
        """starts_trained: whether the stage starts from weights of this very model; say: where lines go, on rank 0."""
        self.starts_trained = starts_trained
        self._say = say
        self._tallies: list[Tensor] = []  # of each micro-batch of the step, in the order of BlankMediaReport
        self._is_logged = False  # in the row of the step before

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: PackedBatch, batch_idx: int
    ) -> None:
        if not (_is_first(trainer) or _is_last(trainer)):
            if self._is_logged:
                forget_logged(trainer)
            self._is_logged = False
            return
        model = pl_module.get_submodule("model")
        assert isinstance(model, VideoLMM)  # what every stage trains
        with trainer.precision_plugin.train_step_context(), undisturbed(model), _without_reducer(model):
            losses = [_media_loss_sum(model, shown) for shown in (batch, _blanked(batch))]
        tally = torch.tensor((*_counts(batch), 0, 0), dtype=torch.float64).to(pl_module.device)
        tally[-2:] = torch.stack(losses)
        self._tallies.append(tally)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if not self._tallies:
            return
        total = trainer.strategy.reduce(torch.stack(self._tallies).sum(dim=0), reduce_op="sum")
        self._tallies.clear()
        *counts, loss_sum, blank_loss_sum = total.tolist()
        labels, text, samples, unlabelled, media_labels = (int(count) for count in counts)
        report = BlankMediaReport(labels, text, samples, unlabelled, media_labels, loss_sum, blank_loss_sum)
        pl_module.log_dict(report.metrics())
        self._is_logged = True
        if trainer.is_global_zero:
            for line in blank_media_lines(report, _is_first(trainer), self.starts_trained):
                self._say(line)


def forget_logged(trainer: Trainer) -> None:
    """Keep what `on_before_optimizer_step` logged once out of later rows, in which Lightning repeats it without a public
    way to stop it."""
    if trainer._results is not None:
        trainer._results.reset(fx="on_before_optimizer_step")


def blank_media_lines(report: BlankMediaReport, is_first: bool, starts_trained: bool) -> list[str]:
    """The report in a line, and a line for each thing that is wrong."""
    metrics, gap, when = report.metrics(), report.gap, "first" if is_first else "last"
    line = f"{when} step: {report.label_share:.0%} of the text is learned"
    if gap is None:
        line += "; nothing in it shows an image or video"
    else:
        line += (
            f"; loss {metrics['blank_media/loss']:.3f} with the media and {metrics['blank_media/blank_loss']:.3f} with grey ones, "
            f"gap {gap:+.3f}"
        )
        if is_first and not starts_trained:
            line += " (new weights begin near 0: the last step counts)"
    lines = [line]
    if report.num_labels == 0:
        lines.append(f"warning: no token of the {when} step carries a label, so nothing is learned: {INSPECT}")
    elif report.num_unlabelled:
        lines.append(
            f"warning: {report.num_unlabelled} of {report.num_samples} samples of the {when} step carry no label and teach "
            f"nothing: {INSPECT}"
        )
    blindness = None if gap is None else _blindness(gap, is_first, starts_trained)
    return lines if blindness is None else [*lines, f"warning: {blindness}; {INSPECT}"]


def _blindness(gap: float, is_first: bool, starts_trained: bool) -> str | None:
    """Warning about a gap; None where it is as it should be."""
    if is_first and not starts_trained:
        if gap == 0.0:  # random weights turn other pixels into another loss, if pixels reach them at all
            return "grey media give exactly the same loss: pixels do not reach the answers, not even by chance"
        return None
    if is_first and abs(gap) < SMALLEST_GAP:
        return (
            f"the start weights cannot see: grey media change the loss by less than {SMALLEST_GAP} nats a token. That "
            "is right where the stage before taught no media; else it trained on the wrong ones, or is not what `init` "
            "was to name"
        )
    if not is_first and gap < SMALLEST_GAP:
        return (
            f"the trained model cannot see: the media make its loss less than {SMALLEST_GAP} nats a token better than "
            "grey ones do. It answers from the text alone. That is right after a few steps of a trial; else rates may "
            "be too low, the connector frozen, or the answers nothing that the media show"
        )
    return None


def _is_first(trainer: Trainer) -> bool:
    return trainer.global_step == 0


def _is_last(trainer: Trainer) -> bool:
    return trainer.global_step + 1 == trainer.estimated_stepping_batches


@contextmanager
def _without_reducer(model: VideoLMM) -> Iterator[None]:
    reducer = model.reducer if isinstance(model, FrameLMM) else None
    if isinstance(model, FrameLMM):
        model.reducer = ReducerConfig(kind="none")
    try:
        yield
    finally:
        if isinstance(model, FrameLMM) and reducer is not None:
            model.reducer = reducer


def _blanked(batch: PackedBatch) -> PackedBatch:
    """The batch with every pixel of one grey, everything else the same."""
    pixels = torch.full_like(batch.visual.pixels, BLANK_GREY_LEVEL)
    return replace(batch, visual=replace(batch.visual, pixels=pixels))


def _media_loss_sum(model: VideoLMM, batch: PackedBatch) -> Tensor:
    """Nats over the labels of samples that show something, () on the device."""
    output = model(batch)
    is_shown = _has_media(batch).to(output.targets.device)  # (L,)
    return token_loss_sum(output.logits, output.targets.masked_fill(~is_shown, IGNORE_INDEX)).double()


def _has_media(batch: PackedBatch) -> Tensor:
    """(L,) bool on the CPU: for every label whether its sample shows an image or video."""
    samples = torch.zeros(len(batch), dtype=torch.bool)
    samples[list(set(batch.run_samples))] = True
    tokens = samples.repeat_interleave(torch.tensor(batch.lengths))  # (T,)
    return tokens[batch.labels.cpu() != IGNORE_INDEX]


def _counts(batch: PackedBatch) -> tuple[int, int, int, int, int]:
    """The whole numbers of a BlankMediaReport, of one micro-batch."""
    labels = [int((own != IGNORE_INDEX).sum()) for own in batch.labels.cpu().split(batch.lengths)]  # of each sample
    num_text_tokens = batch.input_ids.numel() - batch.visual.num_visual_tokens
    shown = set(batch.run_samples)
    num_media_labels = sum(labels[sample] for sample in shown)
    return sum(labels), num_text_tokens, len(batch), labels.count(0), num_media_labels
