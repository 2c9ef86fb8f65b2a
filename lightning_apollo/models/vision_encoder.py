"""Any-resolution vision encoder of VideoLLaMA 3: SigLIP's layers over packed frames, with 2D-RoPE instead of position embeddings.

N patches of all frames · S frames (attention segments) · D hidden width · H heads · p patch side
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from apollo_kernels import rope_2d, rope_2d_tables
from lightning_apollo.models.attention import packed_attention
from lightning_apollo.models.config import VisionEncoderConfig


class VisionEncoder(nn.Module):
    """Patches to features. Parameter names are those of every published VideoLLaMA 3 checkpoint (without the prefix)."""

    def __init__(self, config: VisionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = PatchEmbedding(config.hidden_size, config.patch_size)
        self.encoder = EncoderLayers(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @property
    def patch_dtype(self) -> torch.dtype:
        """Best dtype for patches: the weights' dtype, but for float64, which bytes do not need."""
        dtype = self.embeddings.patch_embedding.weight.dtype
        return torch.float32 if dtype == torch.float64 else dtype

    def forward(self, patches: Tensor, positions: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        """Return features (N, D), before merging.

        patches: (N, 3·p·p) normalised, in block order; positions: (N, 2) row and column of each; cu_seqlens: (S+1,) int32, one
        segment per frame: no frame sees another (VideoLLaMA 3 §2.1; there is no temporal position, time is text).
        """
        hidden = self.embeddings(patches.to(self.embeddings.patch_embedding.weight.dtype))  # (N, D)
        head_dim = self.config.hidden_size // self.config.num_heads
        cos, sin = rope_2d_tables(positions, head_dim, self.config.rope_theta)  # (N, head_dim/2) float32 each
        return self.post_layernorm(self.encoder(hidden, cos, sin, cu_seqlens, max_seqlen))


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its kernel, applied to patches that are already cut: one matrix product."""

    def __init__(self, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        """(N, 3·p·p) in (channel, y, x) order to (N, D)."""
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)


class EncoderLayers(nn.Module):
    def __init__(self, config: VisionEncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.activation_checkpointing = False

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        for layer in self.layers:
            if self.activation_checkpointing and self.training:
                hidden = checkpoint(layer, hidden, cos, sin, cu_seqlens, max_seqlen, use_reentrant=False)
            else:
                hidden = layer(hidden, cos, sin, cu_seqlens, max_seqlen)  # (N, D)
        return hidden


class EncoderLayer(nn.Module):
    def __init__(self, config: VisionEncoderConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = EncoderAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = EncoderMLP(config)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden), cos, sin, cu_seqlens, max_seqlen)  # (N, D)
        return hidden + self.mlp(self.layer_norm2(hidden))


class EncoderAttention(nn.Module):
    def __init__(self, config: VisionEncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        heads = (self.num_heads, hidden.shape[1] // self.num_heads)
        q = self.q_proj(hidden).unflatten(1, heads)  # (N, H, D/H)
        k = self.k_proj(hidden).unflatten(1, heads)
        v = self.v_proj(hidden).unflatten(1, heads)
        q, k = rope_2d(q, k, cos, sin)
        out = packed_attention(q, k, v, cu_seqlens, max_seqlen, causal=False)  # (N, H, D/H)
        return self.out_proj(out.flatten(1))


class EncoderMLP(nn.Module):
    def __init__(self, config: VisionEncoderConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(hidden), approximate="tanh"))
