"""Train video language models (VideoLLaMA 3, Apollo) on PyTorch Lightning."""

__version__ = "0.2.0"
