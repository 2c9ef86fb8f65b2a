"""Ops of packed video language models. Each has its definition in plain PyTorch, which is what runs on a CPU."""

from apollo_kernels.merge_compact import merge_compact
from apollo_kernels.pack_patches import pack_patches
from apollo_kernels.rope_2d import rope_2d, rope_2d_tables
from apollo_kernels.similarity_keep import similarity_keep

__all__ = ["merge_compact", "pack_patches", "rope_2d", "rope_2d_tables", "similarity_keep"]
