"""Which visual tokens of a video changed since an earlier frame (DiffFP), measured on uint8 pixels.

V items · F frames of an item · s side in pixels of the square behind one visual token · M visual tokens of all items
"""

import torch
from torch import Tensor

REFERENCES = ("previous", "last_kept")


def similarity_keep(
    pixels: Tensor,
    sizes: Tensor,
    merge_sizes: Tensor,
    patch_size: int,
    *,
    threshold_grey_levels: float,
    reference: str = "previous",
    min_tokens: int = 1,
) -> tuple[Tensor, Tensor]:
    """Returns the keep mask (M,) bool over all items and the number of kept tokens of every frame, int64.

    pixels: (B,) uint8, the items one after the other, each (F, 3, H, W); sizes: (V, 3) frames, height, width on the CPU;
    merge_sizes: (V,) on the CPU; s = patch_size · merge_size.

    A token is kept where mean |Δ| over its s·s·3 bytes exceeds the threshold, in grey levels of 0..255. Δ is taken against
    the same place in the `previous` frame, or in the `last_kept` frame of that place, which also notices slow drift.
    First frames and images are kept whole; a frame with fewer than `min_tokens` keeps its first ones too.

    Source: VideoLLaMA 3 §2.2 (DiffFP) as its code does it: videollama3_arch.py:202-241. Its threshold 0.1 on normalised
    pixels times 255 is 0.05 grey levels. Sums of bytes are exact integers, so no rounding decides.
    """
    if reference not in REFERENCES:
        raise ValueError(f"reference is one of {', '.join(REFERENCES)}, not {reference!r}")
    masks: list[Tensor] = []
    counts: list[Tensor] = []
    byte = 0
    for (frames, height, width), merge_size in zip(sizes.tolist(), merge_sizes.tolist(), strict=True):
        video = pixels[byte : byte + frames * 3 * height * width].view(frames, 3, height, width)
        byte += video.numel()
        side = patch_size * merge_size
        limit = threshold_grey_levels * 3 * side**2
        if frames == 1:
            mask = pixels.new_ones(1, height // side * (width // side), dtype=torch.bool)
        elif reference == "previous":
            mask = _keep_against_previous(video, side, limit, min_tokens)  # (F, R·K)
        else:
            mask = _keep_against_last_kept(video, side, limit, min_tokens)
        masks.append(mask.flatten())
        counts.append(mask.sum(dim=1))
    if not masks:
        return pixels.new_empty(0, dtype=torch.bool), pixels.new_empty(0, dtype=torch.int64)
    return torch.cat(masks), torch.cat(counts)


def _keep_against_previous(video: Tensor, side: int, limit: float, min_tokens: int) -> Tensor:
    mask = _block_change(video[1:], video[:-1], side).flatten(1) > limit  # (F-1, R·K)
    return torch.cat([torch.ones_like(mask[:1]), _with_minimum(mask, min_tokens)])


def _keep_against_last_kept(video: Tensor, side: int, limit: float, min_tokens: int) -> Tensor:
    kept = video[:1]  # (1, 3, H, W): every place as it was when last kept
    change = _block_change(kept, kept, side)  # (1, R, K)
    masks = [torch.ones_like(change, dtype=torch.bool).flatten(1)]
    for frame in video[1:].split(1):
        mask = _with_minimum(_block_change(frame, kept, side).flatten(1) > limit, min_tokens)  # (1, R·K)
        pixels_kept = mask.view_as(change).repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)  # (1, H, W)
        kept = torch.where(pixels_kept[:, None], frame, kept)
        masks.append(mask)
    return torch.cat(masks)  # (F, R·K)


def _with_minimum(mask: Tensor, min_tokens: int) -> Tensor:
    """The mask (F, R·K) where frames with fewer than `min_tokens` keep their first ones too."""
    mask[:, :min_tokens] |= mask.sum(dim=1, keepdim=True) < min_tokens
    return mask


def _block_change(frames: Tensor, references: Tensor, side: int) -> Tensor:
    """(F, R, K) int64: sum of |Δ| over the bytes of each block of side×side pixels and three channels."""
    num_frames, channels, height, width = frames.shape
    change = (frames.to(torch.int16) - references.to(torch.int16)).abs_()  # (F, 3, H, W)
    blocks = change.view(num_frames, channels, height // side, side, width // side, side)
    return blocks.sum(dim=(1, 3, 5), dtype=torch.int64)
