"""The whole model: pixels and text in, logits at the labelled positions out.

V items · F frames · N patches · M visual tokens before reduction · K kept ones · T text tokens (U of them after reduction)
L labelled tokens · D width of the encoder · E width of the LLM
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apollo_kernels import Layout, pack_patches
from lightning_apollo.models.connector import MLPConnector
from lightning_apollo.models.llm import LanguageModel, LLMConfig, build_llm, predict, run_decoder
from lightning_apollo.models.reduce import ReducerConfig, Reduction, reduce, select
from lightning_apollo.models.vision_encoder import VisionEncoder, VisionEncoderConfig
from lightning_apollo.structures import IGNORE_INDEX, PackedBatch, VisualBatch, cumulative_lengths

COMPONENTS = ("vision", "connector", "llm")


@dataclass(frozen=True)
class ModelConfig:
    vision: VisionEncoderConfig
    llm: LLMConfig


@dataclass(frozen=True)
class Spliced:
    """Text and kept visual tokens as one packed sequence."""

    inputs_embeds: Tensor  # (U, E)
    labels: Tensor  # (U,)
    lengths: list[int]  # tokens of each sample
    num_visual_tokens: int  # before reduction
    num_kept_tokens: int


@dataclass(frozen=True)
class LMMOutput:
    logits: Tensor  # (L, vocabulary) of the positions that predict a labelled token
    targets: Tensor  # (L,) int64
    num_text_tokens: int
    num_visual_tokens: int  # before reduction
    num_kept_tokens: int


class VideoLMM(nn.Module):
    """Vision encoder, connector and language model; what each stage trains is the stage's business."""

    def __init__(
        self, vision_encoder: VisionEncoder, connector: nn.Module, llm: LanguageModel, reducer: ReducerConfig
    ) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder
        self.connector = connector
        self.llm = llm
        self.reducer = reducer

    def forward(self, batch: PackedBatch) -> LMMOutput:
        spliced = self.splice(batch)
        hidden = self.decode(spliced.inputs_embeds, spliced.lengths)  # (U, E)
        # The hidden state at position i predicts token i + 1; the first label of every sample is ignored, so none crosses.
        labelled = spliced.labels[1:] != IGNORE_INDEX
        positions = torch.nonzero_static(labelled, size=batch.num_labels).squeeze(1)  # (L,)
        logits = predict(self.llm, hidden[positions])  # (L, vocabulary)
        return LMMOutput(
            logits=logits,
            targets=spliced.labels[1:][positions],
            num_text_tokens=batch.input_ids.numel() - spliced.num_visual_tokens,
            num_visual_tokens=spliced.num_visual_tokens,
            num_kept_tokens=spliced.num_kept_tokens,
        )

    def splice(self, batch: PackedBatch) -> Spliced:
        """Returns the embedded sequence with kept visual tokens in their places and the dropped placeholders gone."""
        visual_tokens, reduction = self.encode(batch.visual)  # (K, E)
        in_text = torch.ones_like(batch.input_ids, dtype=torch.bool)
        is_visual = torch.zeros_like(in_text).index_fill_(0, batch.visual_positions, True)  # (T,)
        if reduction.keep_mask is not None:
            in_text[batch.visual_positions] = reduction.keep_mask
        num_tokens = batch.input_ids.numel() - batch.visual_positions.numel() + reduction.num_kept
        kept = torch.nonzero_static(in_text, size=num_tokens).squeeze(1)  # (U,) positions in the text
        visual_positions = torch.nonzero_static(is_visual[kept], size=reduction.num_kept).squeeze(1)  # (K,)
        embeds = self.llm.get_input_embeddings()(batch.input_ids[kept])  # (U, E)
        return Spliced(
            inputs_embeds=embeds.index_copy(0, visual_positions, visual_tokens.to(embeds.dtype)),
            labels=batch.labels[kept],
            lengths=_reduced_lengths(batch, reduction),
            num_visual_tokens=batch.visual.num_visual_tokens,
            num_kept_tokens=reduction.num_kept,
        )

    def encode(self, visual: VisualBatch) -> tuple[Tensor, Reduction]:
        """Returns the kept visual tokens (K, E) of all items, and which they are; an empty batch takes the same way."""
        layout = Layout.of(visual.sizes, visual.merge_sizes, visual.patch_size)
        selection = select(visual, layout, self.reducer)
        dtype = self.vision_encoder.patch_dtype
        patches, positions, _ = pack_patches(visual.pixels, layout, dtype=dtype)  # (N, 3·p·p), (N, 2)
        cu_seqlens = cumulative_lengths(visual.frame_lengths, visual.pixels.device)  # one segment per frame
        features = self.vision_encoder(patches, positions, cu_seqlens, max(visual.frame_lengths, default=0))  # (N, D)
        tokens, reduction = reduce(features, layout, selection, self.reducer)  # (K, D)
        return self.connector(tokens), reduction

    def decode(self, inputs_embeds: Tensor, lengths: list[int]) -> Tensor:
        """Returns the LLM's last hidden states (U, E) of packed sequences (U, E) with these lengths."""
        cu_seqlens = cumulative_lengths(lengths, inputs_embeds.device)
        return run_decoder(self.llm, inputs_embeds, cu_seqlens, max(lengths))

    def components(self) -> dict[str, nn.Module]:
        """The parts that a stage names."""
        return {"vision": self.vision_encoder, "connector": self.connector, "llm": self.llm}

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute the activations of every layer of encoder and LLM in the backward pass, or keep them."""
        self.vision_encoder.encoder.activation_checkpointing = enabled
        if enabled:
            self.llm.activation_checkpointing_enable()
        else:
            self.llm.activation_checkpointing_disable()


def build_model(config: ModelConfig, reducer: ReducerConfig) -> VideoLMM:
    """Returns the model with random weights; under `torch.device("meta")` without memory."""
    return VideoLMM(
        vision_encoder=VisionEncoder(config.vision),
        connector=MLPConnector(config.vision.hidden_size, config.llm.hidden_size),
        llm=build_llm(config.llm),
        reducer=reducer,
    )


def _reduced_lengths(batch: PackedBatch, reduction: Reduction) -> list[int]:
    """Tokens of each sample after reduction, from numbers that are on the host already."""
    lengths = list(batch.lengths)
    for sample, before, after in zip(
        batch.frame_samples, batch.visual.frame_tokens, reduction.frame_tokens, strict=True
    ):
        lengths[sample] -= before - after
    return lengths
