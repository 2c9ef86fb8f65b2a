"""The whole model: pixels and text in, logits at the labelled positions out.

V items · F frames · N patches · M visual tokens before reduction · K kept ones · T text tokens (U of them after reduction)
L labelled tokens · D width of the encoder · E width of the LLM
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

from apollo_kernels import pack_patches
from lightning_apollo.models.apollo.fused_encoder import FusedEncoder
from lightning_apollo.models.config import ModelConfig, ReducerConfig
from lightning_apollo.models.connector import build_connector
from lightning_apollo.models.kv_cache import KeyValueCache
from lightning_apollo.models.llm import LanguageModel, build_llm, predict, run_decoder
from lightning_apollo.models.reduce import Reduction, layout_of, reduce, select
from lightning_apollo.models.vision_encoder import VisionEncoder
from lightning_apollo.structures import IGNORE_INDEX, PackedBatch, VisualBatch, cumulative_lengths


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
    """Vision encoder, connector and language model; what each stage trains is the stage's business.

    `FrameLMM` and `ClipLMM` below differ in `encode`: in how pixels become visual tokens.
    """

    def __init__(self, vision_encoder: nn.Module, connector: nn.Module, llm: LanguageModel) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder
        self.connector = connector
        self.llm = llm

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
        """Return the embedded sequence with kept visual tokens in their places and the dropped placeholders gone."""
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
        """Return the kept visual tokens (K, E) of all items, and which they are; an empty batch takes the same way."""
        raise NotImplementedError  # FrameLMM and ClipLMM each have their own way

    def decode(self, inputs_embeds: Tensor, lengths: list[int], cache: KeyValueCache | None = None) -> Tensor:
        """Return the LLM's last hidden states (U, E) of packed sequences (U, E) with these lengths; fill a cache."""
        cu_seqlens = cumulative_lengths(lengths, inputs_embeds.device)
        return run_decoder(self.llm, inputs_embeds, cu_seqlens, max(lengths), cache)

    def components(self) -> dict[str, nn.Module]:
        """The parts that a stage names."""
        return {"vision": self.vision_encoder, "connector": self.connector, "llm": self.llm}

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute the activations of every layer of encoder and LLM in the backward pass, or keep them."""
        if enabled:
            self.llm.activation_checkpointing_enable()
        else:
            self.llm.activation_checkpointing_disable()


class FrameLMM(VideoLMM):
    """VideoLLaMA 3: packed frames of any resolution, each patch square a token, unchanged tokens left out."""

    vision_encoder: VisionEncoder

    def __init__(
        self, vision_encoder: VisionEncoder, connector: nn.Module, llm: LanguageModel, reducer: ReducerConfig
    ) -> None:
        super().__init__(vision_encoder, connector, llm)
        self.reducer = reducer

    def encode(self, visual: VisualBatch) -> tuple[Tensor, Reduction]:
        layout = layout_of(visual)
        selection = select(visual, layout, self.reducer)
        dtype = self.vision_encoder.patch_dtype
        patches, positions, _ = pack_patches(visual.pixels, layout, dtype=dtype)  # (N, 3·p·p), (N, 2)
        cu_seqlens = cumulative_lengths(visual.frame_lengths, visual.pixels.device)  # one segment per frame
        features = self.vision_encoder(patches, positions, cu_seqlens, max(visual.frame_lengths, default=0))  # (N, D)
        tokens, reduction = reduce(features, layout, selection, self.reducer)  # (K, D)
        return self.connector(tokens), reduction

    def set_activation_checkpointing(self, enabled: bool) -> None:
        super().set_activation_checkpointing(enabled)
        self.vision_encoder.encoder.activation_checkpointing = enabled


class ClipLMM(VideoLMM):
    """Apollo: clips through two towers, each clip resampled to the same number of tokens (§6, C.1)."""

    vision_encoder: FusedEncoder

    def __init__(self, vision_encoder: FusedEncoder, connector: nn.Module, llm: LanguageModel) -> None:
        super().__init__(vision_encoder, connector, llm)
        self.activation_checkpointing = False
        # Ranks that run equally many chunks: those that each hold a slice of every layer, and so must run it together
        self.chunk_group: distributed.ProcessGroup | None = None

    def encode(self, visual: VisualBatch) -> tuple[Tensor, Reduction]:
        """A few clips at a time, so that a long video takes no more memory inside frozen towers than a short one."""
        tokens = [self._encode_clips(chunk) for chunk in self._chunks(visual)]  # (clips, tokens of a clip, E) each
        return torch.cat(tokens).flatten(0, 1), Reduction.of_all(visual)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        super().set_activation_checkpointing(enabled)
        self.vision_encoder.set_activation_checkpointing(enabled)
        self.activation_checkpointing = enabled

    def _encode_clips(self, clips: list[Tensor]) -> Tensor:
        features = self.vision_encoder(clips)  # (clips, times, rows, columns, D)
        if self.activation_checkpointing and self.training:
            return checkpoint(self.connector, features, use_reentrant=False)
        return self.connector(features)

    def _chunks(self, visual: VisualBatch) -> Iterator[list[Tensor]]:
        """Lists of clips (frames of a clip or 1, 3, height, width) uint8; without media one empty list, so that every
        component takes part in every step, and more of them where another rank of `chunk_group` has more clips."""
        sizes = visual.sizes.tolist()
        items = visual.pixels.split([3 * frames * height * width for frames, height, width in sizes])
        clips: list[Tensor] = []
        for item, (frames, height, width) in zip(items, sizes, strict=True):
            pixels = item.view(frames, 3, height, width)
            clips += pixels.split(frames if visual.clip is None else visual.clip.num_frames)
        size = self.vision_encoder.config.encode_batch_size
        num_chunks = self._agreed_maximum(max(1, math.ceil(len(clips) / size)), visual.pixels.device)
        yield from (clips[number * size : (number + 1) * size] for number in range(num_chunks))

    def _agreed_maximum(self, number: int, device: torch.device) -> int:
        """The largest `number` of all ranks of `chunk_group`: one collective and one read of it by the host."""
        if self.chunk_group is None or self.chunk_group.size() == 1:
            return number
        largest = torch.tensor(number, device=device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, self.chunk_group)
        return int(largest)


def build_model(config: ModelConfig, reducer: ReducerConfig) -> VideoLMM:
    """Return the model with random weights; under `torch.device("meta")` without memory."""
    llm_width = config.llm.hidden_size
    if config.fused is not None:
        if reducer.kind != "none":
            raise ValueError(f"reducer.kind {reducer.kind}: an encoder of clips has no tokens that a reducer drops")
        connector = build_connector(config.connector, config.fused.width, llm_width)
        return ClipLMM(FusedEncoder(config.fused), connector, build_llm(config.llm))
    assert config.vision is not None  # ModelConfig has one of them
    encoder = VisionEncoder(config.vision)  # in this order, which random weights depend on
    connector = build_connector(config.connector, config.vision.hidden_size, llm_width)
    return FrameLMM(encoder, connector, build_llm(config.llm), reducer)


def _reduced_lengths(batch: PackedBatch, reduction: Reduction) -> list[int]:
    """Tokens of each sample after reduction, from numbers that are on the host already."""
    lengths = list(batch.lengths)
    for sample, before, after in zip(batch.run_samples, batch.visual.run_tokens, reduction.run_tokens, strict=True):
        lengths[sample] -= before - after
    return lengths
