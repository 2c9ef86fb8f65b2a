"""Ops of packed video language models: Triton kernels on a GPU, and on a CPU their definitions in plain PyTorch."""

from apollo_kernels.layout import Layout
from apollo_kernels.merge_compact import merge_compact
from apollo_kernels.merge_similar import Runs, merge_runs, merge_similar, similar_runs
from apollo_kernels.pack_patches import pack_patches
from apollo_kernels.rope_2d import rope_2d, rope_2d_tables
from apollo_kernels.similarity_keep import similarity_keep

__all__ = [
    "Layout",
    "Runs",
    "merge_compact",
    "merge_runs",
    "merge_similar",
    "pack_patches",
    "rope_2d",
    "rope_2d_tables",
    "similar_runs",
    "similarity_keep",
]
