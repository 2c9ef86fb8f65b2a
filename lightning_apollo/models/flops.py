"""FLOPs of a micro-batch by arithmetic on sizes: nothing is built or run. Two for each multiply-add, matrix products alone.

There are two ways to count, which differ in attention and in what is computed twice:

              a causal segment of T tokens    backward of attention    activation checkpointing, clips of nothing
    model     T·(T+1)/2 pairs                 4 matrix products        not counted
    hardware  T² pairs                        5, scores once more      counted

`model` is what the mathematics needs; utilisation (MFU) is told by it. `hardware` is what `torch.utils.flop_counter` sees.

The backward pass is autograd's: a linear layer costs its forward once for the gradient of its weights, where they are
trained, and once for that of its input, where anything before it is. So a frozen encoder has no backward pass, and a
frozen language model behind a trained connector has half of one. A component with adapters is a frozen one whose layers
all have a gradient of their input, with adapters that are trained; that the first layer of an encoder has no use for that
gradient is left out (less than 1 % of 27 layers), as is that its last adapter is not computed again to its end.

N patches · K visual tokens that reach the connector · T tokens of a sample · L labelled tokens · D width of the encoder
E width of the LLM · P places of a clip
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lightning_apollo.models.apollo.config import FusedEncoderConfig, TowerConfig
from lightning_apollo.models.config import ConnectorConfig, LLMConfig, ModelConfig, VisionEncoderConfig
from lightning_apollo.models.lora import AdapterSizes
from lightning_apollo.structures import PackedBatch


@dataclass(frozen=True)
class BatchSizes:
    """All that the FLOPs of a micro-batch depend on; every number is on the host."""

    frame_lengths: Sequence[int]  # patches of every frame; none where the encoder takes clips
    num_clips: int  # 0 where the encoder takes frames
    num_kept_tokens: int  # visual tokens after reduction
    lengths: Sequence[int]  # tokens of every sample after reduction
    num_labels: int

    @classmethod
    def of(cls, batch: PackedBatch) -> BatchSizes:
        """The sizes of a batch of which nothing is reduced."""
        visual = batch.visual
        return cls(
            frame_lengths=visual.frame_lengths if visual.clip is None else (),
            num_clips=0 if visual.clip is None else sum(visual.num_clips),
            num_kept_tokens=visual.num_visual_tokens,
            lengths=batch.lengths,
            num_labels=batch.num_labels,
        )

    def reduced(self, lengths: Sequence[int]) -> BatchSizes:
        """The same batch where the reducer leaves these numbers of tokens to its samples."""
        num_dropped = sum(self.lengths) - sum(lengths)
        return replace(self, num_kept_tokens=self.num_kept_tokens - num_dropped, lengths=lengths)


@dataclass(frozen=True)
class Flops:
    """Of one micro-batch, by component: vision, connector, llm (its layers), head."""

    forward: dict[str, float]
    backward: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.forward.values()) + sum(self.backward.values())


def count_flops(
    config: ModelConfig,
    sizes: BatchSizes,
    trains: Collection[str],
    *,
    adapters: Mapping[str, AdapterSizes] | None = None,
    activation_checkpointing: bool = False,
    hardware: bool = False,
) -> Flops:
    """FLOPs of forward and backward where the components in `trains` (vision, connector, llm) are trained.

    Of those in `adapters` their adapters alone are. `hardware` chooses the way of counting, see above; only there does
    `activation_checkpointing` make a difference.
    """
    if config.fused is None:
        assert config.vision is not None  # ModelConfig has one of them
        vision = _frame_encoder(config.vision, sizes.frame_lengths)
        connector = _mlp(sizes.num_kept_tokens, config.vision.hidden_size, config.llm.hidden_size)
    else:
        # without a clip, each tower runs on one that nobody sees
        vision = _fused_encoder(config.fused, max(1, sizes.num_clips) if hardware else sizes.num_clips)
        connector = _clip_connector(config.connector, config.fused, config.llm.hidden_size, sizes.num_clips)
    llm, head = _llm(config.llm, sizes.lengths, hardware), _head(config.llm, sizes.num_labels)
    is_trained = {name: name in trains for name in ("vision", "connector", "llm")}
    before_connector = is_trained["vision"]
    before_llm = any(is_trained.values())  # the LLM's own embeddings come before its layers
    products = {"vision": vision, "connector": connector, "llm": llm, "head": head}
    shares = {name: sizes.num_parameters / sizes.num_linear for name, sizes in (adapters or {}).items()}
    is_whole = {name: is_trained[name] and name not in shares for name in is_trained}
    options = (hardware, activation_checkpointing)
    backward = {
        "vision": vision.backward(is_whole["vision"], False, *options),
        "connector": connector.backward(is_trained["connector"], before_connector, *options),
        "llm": llm.backward(is_whole["llm"], before_llm, *options),
        "head": head.backward(is_whole["llm"], before_llm, *options),
    }
    for name, share in shares.items():
        products[name], backward[name] = _adapted(products[name], share, *options)
    return Flops({name: one.forward for name, one in products.items()}, backward)


class _Products(NamedTuple):
    """Forward FLOPs of a component, by what their backward pass costs."""

    first: float = 0.0  # linear layers over the component's input
    linear: float = 0.0  # linear layers over what comes out of others
    constant: float = 0.0  # linear layers over learned constants
    attention: float = 0.0
    checkpointed: float = 0.0  # what of all this the backward pass runs again where activations are not kept

    @property
    def forward(self) -> float:
        return self.first + self.linear + self.constant + self.attention

    def backward(
        self, is_trained: bool, has_input_gradient: bool, hardware: bool, activation_checkpointing: bool
    ) -> float:
        if not is_trained and not has_input_gradient:
            return 0.0
        return (
            (is_trained + has_input_gradient) * self.first
            + (is_trained + 1) * self.linear
            + 2 * is_trained * self.constant
            + (2.5 if hardware else 2.0) * self.attention
            + (self.checkpointed if hardware and activation_checkpointing else 0.0)
        )


def _adapted(
    products: _Products, share: float, hardware: bool, activation_checkpointing: bool
) -> tuple[_Products, float]:
    """A component whose adapters have `share` times the weights of the linear layers inside its layers, and so cost that
    share of what those do: its forward with them, and the FLOPs of its backward."""
    # the layers: what comes before them has no backward; the last adapter of a layer wants all of it computed again
    behind = products._replace(first=0.0, checkpointed=products.linear + products.attention)
    added = _Products(linear=share * products.linear, checkpointed=share * products.linear)
    options = (True, hardware, activation_checkpointing)
    return products._replace(linear=products.linear + added.linear), sum(
        part.backward(is_trained, *options) for part, is_trained in ((behind, False), (added, True))
    )


def _sum(parts: Iterable[_Products]) -> _Products:
    return _Products(*map(sum, zip(*parts, strict=True)))


def _linear(num_rows: float, num_inputs: int, num_outputs: int) -> float:
    return 2.0 * num_rows * num_inputs * num_outputs


def _attention(num_pairs: float, width: int) -> float:
    """Scores and their product with the values; `width` is that of all query heads together."""
    return 4.0 * num_pairs * width


def _transformer(
    config: VisionEncoderConfig | TowerConfig,
    num_layers: int,
    num_rows: int,
    num_pairs: int,
    patches: float,
    is_all_recomputed: bool = False,
) -> _Products:
    """Layers of an encoder behind its patch embedding. A layer that is computed again stops at its last product, whose
    output nothing in the backward pass asks for, but where a learned scale follows it (`is_all_recomputed`)."""
    last = _linear(num_rows, config.intermediate_size, config.hidden_size)
    layer = 4 * _linear(num_rows, config.hidden_size, config.hidden_size) + 2 * last
    attention = _attention(num_pairs, config.hidden_size)
    again = layer + attention - (0.0 if is_all_recomputed else last)
    return _Products(patches, num_layers * layer, 0.0, num_layers * attention, num_layers * again)


def _frame_encoder(config: VisionEncoderConfig, frame_lengths: Sequence[int]) -> _Products:
    num_patches = sum(frame_lengths)
    patches = _linear(num_patches, 3 * config.patch_size**2, config.hidden_size)
    return _transformer(config, config.num_layers, num_patches, sum(n * n for n in frame_lengths), patches)


def _fused_encoder(config: FusedEncoderConfig, num_clips: int) -> _Products:
    return _sum(_tower(tower, config.num_frames, num_clips) for tower in config.towers.values())


def _tower(config: TowerConfig, num_frames: int, num_clips: int) -> _Products:
    times, rows, columns = _grid(config, num_frames)
    num_patches = num_clips * times * rows * columns
    if config.kind == "siglip":  # every frame by itself
        num_rows, num_pairs = num_patches, num_patches * rows * columns
    else:  # the whole clip; InternVideo2 has a class token
        length = times * rows * columns + (config.kind == "internvideo2")
        num_rows, num_pairs = num_clips * length, num_clips * length**2
    patches = _linear(num_patches, 3 * config.tubelet_size * config.patch_size**2, config.hidden_size)
    is_scaled = config.kind == "internvideo2"
    return _transformer(config, config.num_built_layers, num_rows, num_pairs, patches, is_scaled)


def _grid(config: TowerConfig, num_frames: int) -> tuple[int, int, int]:
    side = config.image_size // config.patch_size
    return num_frames // config.tubelet_size, side, side


def _mlp(num_rows: int, vision_width: int, llm_width: int) -> _Products:
    return _Products(_linear(num_rows, vision_width, llm_width), _linear(num_rows, llm_width, llm_width))


def _clip_connector(config: ConnectorConfig, encoder: FusedEncoderConfig, llm_width: int, num_clips: int) -> _Products:
    grids = [_grid(tower, encoder.num_frames) for tower in encoder.towers.values()]
    num_places = math.prod(map(max, zip(*grids, strict=True)))  # P: the finest grid of all towers
    if config.kind == "perceiver":
        products = _perceiver(config, encoder.width, llm_width, num_clips, num_places)
    else:
        num_taps = 9 if config.kind == "conv_pool" else 1  # a 3×3 convolution sees nine places
        products = _mlp(num_clips * num_places * num_taps, encoder.width, llm_width)
    return products._replace(checkpointed=products.forward)


def _perceiver(
    config: ConnectorConfig, vision_width: int, llm_width: int, num_clips: int, num_places: int
) -> _Products:
    num_latents, num_answering = num_clips * config.num_tokens, num_clips * (num_places + config.num_tokens)
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    query = _linear(num_latents, llm_width, width)
    rest = 2 * _linear(num_answering, llm_width, kv_width) + _linear(num_latents, width, llm_width)
    mlp = 3 * _linear(num_latents, llm_width, config.ff_multi * llm_width)
    attention = _attention(num_answering * config.num_tokens, width)
    return _Products(
        first=_linear(num_clips * num_places, vision_width, llm_width),
        linear=config.depth * (rest + mlp) + (config.depth - 1) * query,
        constant=query,  # the first layer asks with the latents as they were learned
        attention=config.depth * attention,
    )


def _llm(config: LLMConfig, lengths: Sequence[int], hardware: bool) -> _Products:
    num_tokens, width = sum(lengths), config.hidden_size
    kv_width = width // config.num_heads * config.num_kv_heads
    last = _linear(num_tokens, config.intermediate_size, width)
    layer = 2 * _linear(num_tokens, width, width) + 2 * _linear(num_tokens, width, kv_width) + 3 * last
    num_pairs = sum(n * n for n in lengths) if hardware else sum(n * (n + 1) // 2 for n in lengths)
    attention = _attention(num_pairs, width)
    layers = config.num_layers
    again = layers * (layer + attention - last)
    return _Products(linear=layers * layer, attention=layers * attention, checkpointed=again)


def _head(config: LLMConfig, num_labels: int) -> _Products:
    return _Products(linear=_linear(num_labels, config.hidden_size, config.vocab_size))
