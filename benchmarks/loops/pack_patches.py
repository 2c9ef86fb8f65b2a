"""Packing item by item as in transformers' port of VideoLLaMA 3. To float, normalise, view, permute, reshape, concatenate."""

import torch
from torch import Tensor


def loop(
    pixels: Tensor,
    grids: list[tuple[int, int, int, int]],
    patch_size: int,
    *,
    mean: float = 0.5,
    std: float = 0.5,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return patches (N, 3·p·p), rows and columns (N, 2) and frame numbers (N,) of flat pixels (B,) uint8.

    grids: frames, rows and columns in patches, and merge size of each item. The port's image processor makes float32; its encoder
    casts, and finds the places.
    """
    p = patch_size
    channel_mean, channel_std = (torch.full((3, 1, 1), 255 * x, device=pixels.device) for x in (mean, std))
    patches, places, numbers = [], [], []
    byte, num_frames = 0, 0
    for frames, rows, columns, m in grids:
        count = frames * rows * columns
        clip = pixels[byte : byte + count * 3 * p * p].view(frames, 3, rows * p, columns * p)
        normalised = clip.float().sub(channel_mean).div_(channel_std)
        blocks = normalised.view(frames, 3, rows // m, m, p, columns // m, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
        patches.append(blocks.reshape(count, -1))
        row = torch.arange(rows, device=pixels.device)[:, None].expand(-1, columns)
        column = torch.arange(columns, device=pixels.device)[None, :].expand(rows, -1)
        place = torch.stack([row, column], dim=-1).view(rows // m, m, columns // m, m, 2).transpose(1, 2)
        places.append(place.reshape(-1, 2).repeat(frames, 1))
        frame = torch.arange(num_frames, num_frames + frames, device=pixels.device)
        numbers.append(frame.repeat_interleave(rows * columns))
        byte, num_frames = byte + clip.numel(), num_frames + frames
    return torch.cat(patches).to(dtype), torch.cat(places).int(), torch.cat(numbers).int()
