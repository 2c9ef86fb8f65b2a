"""Visual features to the LLM's width.

M visual tokens · D width of the encoder · E width of the LLM · K clips · L tokens of a clip · T, rows, columns the encoder's grid
G key/value heads · R query heads to each of them · C channels of a head
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_apollo.models.config import ConnectorConfig


def build_connector(config: ConnectorConfig, vision_width: int, llm_width: int) -> nn.Module:
    """Return the connector with random weights; `calibrated` ones begin as He's (calibration.py)."""
    if config.kind == "mlp":
        return MLPConnector(config, vision_width, llm_width)
    if config.kind == "perceiver":
        return PerceiverConnector(config, vision_width, llm_width)
    return PoolConnector(config, vision_width, llm_width)


class MLPConnector(nn.Module):
    """Two layers with the exact GELU between them: `mlp2x_gelu` of VideoLLaMA 3 (its projector.py).

    He's random weights make visual tokens as large as the features they come from: with PyTorch's own they are a sixth of
    that, and a language model trained from scratch takes several times longer to look at them.
    """

    def __init__(self, config: ConnectorConfig, vision_width: int, llm_width: int) -> None:
        super().__init__()
        self.readout = nn.Sequential(nn.Linear(vision_width, llm_width), nn.GELU(), nn.Linear(llm_width, llm_width))
        _init_layers(self.readout, config)

    def forward(self, visual_tokens: Tensor) -> Tensor:
        """(M, D) to (M, E)."""
        return self.readout(visual_tokens)


class PoolConnector(nn.Module):
    """Two layers, over each place alone or as 3×3 convolutions over each frame, then adaptive average pooling to L tokens:
    the two connectors that Apollo compares its resampler with (Table 1)."""

    def __init__(self, config: ConnectorConfig, vision_width: int, llm_width: int) -> None:
        super().__init__()
        self.num_tokens = config.num_tokens
        self.is_convolution = config.kind == "conv_pool"
        if self.is_convolution:
            layers = (nn.Conv2d(width, llm_width, kernel_size=3, padding=1) for width in (vision_width, llm_width))
        else:
            layers = (nn.Linear(width, llm_width) for width in (vision_width, llm_width))
        self.readout = nn.Sequential(next(layers), nn.GELU(), next(layers))
        _init_layers(self.readout, config)

    def forward(self, features: Tensor) -> Tensor:
        """(K, T, rows, columns, D) to (K, L, E)."""
        if self.is_convolution:
            frames = features.flatten(0, 1).permute(0, 3, 1, 2)  # (K·T, D, rows, columns)
            mapped = self.readout(frames).permute(0, 2, 3, 1).unflatten(0, features.shape[:2])
        else:
            mapped = self.readout(features)  # (K, T, rows, columns, E)
        grid = pooled_grid(self.num_tokens, features.shape[1])
        pooled = F.adaptive_avg_pool3d(mapped.permute(0, 4, 1, 2, 3), grid)  # (K, E, *grid)
        return pooled.flatten(2).transpose(1, 2).contiguous()


def pooled_grid(num_tokens: int, num_frames: int) -> tuple[int, int, int]:
    """Time, rows and columns of L pooled tokens: as many times as divide both L and the frames, and as square as L allows.

    128 tokens of 4 frames are 4 × 4 × 8. The paper does not say how it pools.
    """
    times = math.gcd(num_tokens, num_frames)
    rows = max(n for n in range(1, math.isqrt(num_tokens // times) + 1) if num_tokens // times % n == 0)
    return times, rows, num_tokens // times // rows


class PerceiverConnector(nn.Module):
    """One linear layer to the LLM's width, then a Perceiver resampler: L latents look at all places of a clip (§6, C.1).

    The names below `resampler` are those of the released weights.
    """

    def __init__(self, config: ConnectorConfig, vision_width: int, llm_width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(vision_width, llm_width)
        self.resampler = PerceiverResampler(config, llm_width)
        _init_layers(self.proj, config)

    def forward(self, features: Tensor) -> Tensor:
        """(K, T, rows, columns, D) to (K, L, E)."""
        return self.resampler(self.proj(features.flatten(1, 3)))


class PerceiverResampler(nn.Module):
    def __init__(self, config: ConnectorConfig, width: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(config.num_tokens, width))
        self.layers = nn.ModuleList(PerceiverLayer(config, width) for _ in range(config.depth))
        self.norm = WeightedNorm(width)
        nn.init.trunc_normal_(self.latents, mean=0.5, std=0.1)

    def forward(self, context: Tensor) -> Tensor:
        """(K, P, E), no order among the P places, to (K, L, E)."""
        latents = self.latents.expand(len(context), -1, -1)
        for layer in self.layers:
            latents = layer(latents, context)  # (K, L, E)
        return self.norm(latents)


class PerceiverLayer(nn.Module):
    def __init__(self, config: ConnectorConfig, width: int) -> None:
        super().__init__()
        self.input_latents_norm = WeightedNorm(width)
        self.input_context_norm = WeightedNorm(width)
        self.self_attn = PerceiverAttention(config, width)
        self.post_attention_layernorm = WeightedNorm(width)
        self.mlp = PerceiverMLP(width, config.ff_multi * width)

    def forward(self, latents: Tensor, context: Tensor) -> Tensor:
        latents = latents + self.self_attn(self.input_latents_norm(latents), self.input_context_norm(context))
        return latents + self.mlp(self.post_attention_layernorm(latents))


class PerceiverAttention(nn.Module):
    """Latents ask; context and latents answer. No biases, no positions."""

    def __init__(self, config: ConnectorConfig, width: int) -> None:
        super().__init__()
        self.num_kv_heads, self.head_dim = config.num_kv_heads, config.head_dim
        self.q_proj = nn.Linear(width, config.num_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.num_kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.num_kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, width, bias=False)
        _init_layers(self, config)
        with torch.no_grad():
            self.q_proj.weight.mul_(config.first_sharpness)

    def forward(self, latents: Tensor, context: Tensor) -> Tensor:
        """latents (K, L, E), context (K, P, E) to (K, L, E).

        The R query heads of a key/value head are laid out as R·L queries of one head: every backend of SDPA takes that,
        no key is repeated, and no score matrix is kept.
        """
        num_latents = latents.shape[1]
        answering = torch.cat([context, latents], dim=1)  # (K, P+L, E)
        q = self.q_proj(latents).unflatten(-1, (self.num_kv_heads, -1, self.head_dim))  # (K, L, G, R, C)
        q = q.permute(0, 2, 3, 1, 4).flatten(2, 3)  # (K, G, R·L, C)
        k = self.k_proj(answering).unflatten(-1, (self.num_kv_heads, self.head_dim)).transpose(1, 2)  # (K, G, P+L, C)
        v = self.v_proj(answering).unflatten(-1, (self.num_kv_heads, self.head_dim)).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v).unflatten(2, (-1, num_latents))  # (K, G, R, L, C)
        return self.o_proj(out.permute(0, 3, 1, 2, 4).flatten(2))


class PerceiverMLP(nn.Module):
    """SiLU-gated, without biases. Random weights have a variance of 0.4 / fan-in, half of that on the way down."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden_width, bias=False)
        self.up_proj = nn.Linear(width, hidden_width, bias=False)
        self.down_proj = nn.Linear(hidden_width, width, bias=False)
        for layer, share in ((self.gate_proj, 0.4), (self.up_proj, 0.4), (self.down_proj, 0.2)):
            nn.init.normal_(layer.weight, std=math.sqrt(share / layer.in_features))

    def forward(self, latents: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(latents)) * self.up_proj(latents))


class WeightedNorm(nn.Module):
    """A layer norm and behind it a second learned scale, which the released weights call `wheight`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wheight = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.wheight, mean=1.0, std=0.02)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden) * self.wheight


def _init_layers(module: nn.Module, config: ConnectorConfig) -> None:
    """He's random weights, and no bias, in every linear layer and convolution; `default` leaves PyTorch's."""
    if config.init == "default":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
