"""Samples packed one after the other into one sequence, without padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_apollo.structures import IGNORE_INDEX, PackedBatch, Sample, VisualBatch


def collate(samples: Sequence[Sample], patch_size: int) -> PackedBatch:
    """The samples as one packed batch, in their order; media follow the order of their placeholder runs.

    The first label of each sample becomes IGNORE_INDEX: after the model's shift by one it would be predicted from the
    last token of the sample before.
    """
    if not samples:
        raise ValueError("no sample to pack: a batch needs at least one")
    for sample in samples:
        if sample.patch_size != patch_size:
            raise ValueError(
                f"{sample.sample_id}: rendered for patches of {sample.patch_size}, not {patch_size} pixels"
            )
    lengths = tuple(sample.input_ids.numel() for sample in samples)
    labels = torch.cat([sample.labels for sample in samples])  # (T,)
    starts = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)  # (S,)
    labels[starts] = IGNORE_INDEX
    owners_and_items = [(owner, item) for owner, sample in enumerate(samples) for item in sample.visuals]
    return PackedBatch(
        input_ids=torch.cat([sample.input_ids for sample in samples]),
        labels=labels,
        visual_positions=torch.cat([sample.is_placeholder for sample in samples]).nonzero().flatten(),  # (M,)
        lengths=lengths,
        num_labels=int((labels != IGNORE_INDEX).sum()),
        run_samples=tuple(owner for owner, item in owners_and_items for _ in range(item.num_runs)),
        visual=VisualBatch.from_items([item for _, item in owners_and_items], patch_size),
        sample_ids=tuple(sample.sample_id for sample in samples),
        sources=tuple(sample.source for sample in samples),
        modalities=tuple(sample.modality for sample in samples),
    )
