"""Row softmax as a Triton kernel: an example of a project that verifies its kernels with these tools."""

from row_softmax.softmax import softmax

__all__ = ["softmax"]
