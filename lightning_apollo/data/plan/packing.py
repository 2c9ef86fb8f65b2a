"""Packing of samples into micro-batches of equal cost, under a limit of LLM tokens and one of patches.

A window of six samples, cost = tokens, limit 10, two micro-batches open: the most expensive first, each to the cheapest with room.

    samples  7 5 3 2 2 1     7 | 5     7 | 5 3     7 2 | 5 3     7 2 | 5 3 2     7 2 1 | 5 3 2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NO_ROOM = np.iinfo(np.int64).max


class Packed(NamedTuple):
    """Micro-batch k holds members[offsets[k] : offsets[k + 1]], in ascending order."""

    offsets: NDArray[np.int64]  # (K+1,) leading 0
    members: NDArray[np.int64]  # (D,) positions in the arrays that were packed


def pack(
    sizes: Sequence[NDArray[np.int32]],
    limits: Sequence[int],
    cost: NDArray[np.int64],
    priority: NDArray[np.int64],
    window: int,
    target_fill: float,
) -> Packed:
    """Micro-batches under every limit, with costs as equal as the samples allow.

    sizes: (D,) for each limit, such as LLM tokens and patches of every sample, none over the limit; cost: (D,); priority: (D,),
    about the cost. Samples are taken in windows of about `window` neighbours. A window opens the micro-batches that it fills to
    `target_fill`; then each sample, the highest priority first, goes to the cheapest of them that has room. What finds no room is
    packed again, by itself. The windows of a round advance together, a sample each at a time, which makes it fast.
    """
    home = np.empty(len(cost), dtype=np.int64)
    pending = np.arange(len(cost))
    num_opened = 0
    while len(pending):
        windows = _windows(priority[pending], window)
        waiting = [np.where(windows < 0, 0, size[pending][windows].astype(np.int64)) for size in sizes]
        room = _open(waiting, limits, target_fill)
        number = _place(waiting, np.where(windows < 0, 0, cost[pending][windows]), room)
        is_placed = (number >= 0) & (windows >= 0)
        home[pending[windows[is_placed]]] = number[is_placed] + num_opened
        num_opened += room[0].size
        pending = pending[np.sort(windows[(number < 0) & (windows >= 0)])]
    numbers, home = np.unique(home, return_inverse=True)
    ends = np.cumsum(np.bincount(home, minlength=len(numbers)))
    return Packed(np.concatenate([[0], ends]), np.argsort(home, kind="stable"))


def _windows(priority: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """(S, W): in column w the samples of window w, the highest priority first, then -1."""
    num_windows = max(1, round(len(priority) / window))
    length = -(-len(priority) // num_windows)
    padded = np.full(num_windows * length, -1, dtype=np.int64)
    padded[: len(priority)] = priority
    order = np.argsort(-padded.reshape(num_windows, length), axis=1, kind="stable")
    order += np.arange(num_windows)[:, None] * length
    return np.where(order < len(priority), order, -1).T


def _open(waiting: Sequence[NDArray[np.int64]], limits: Sequence[int], target_fill: float) -> NDArray[np.int64]:
    """(limits, W, B) room in the micro-batches that each of W windows opens, -1 in those that it does not."""
    needed = [size.sum(axis=0) / (limit * target_fill) for size, limit in zip(waiting, limits, strict=True)]
    num_open = np.ceil(np.max([*needed, np.ones_like(needed[0])], axis=0))
    is_open = np.arange(num_open.max()) < num_open[:, None]
    return np.where(is_open, np.asarray(limits)[:, None, None], -1)


def _place(waiting: Sequence[NDArray[np.int64]], cost: NDArray[np.int64], room: NDArray[np.int64]) -> NDArray[np.int64]:
    """(S, W) number of the micro-batch, over all windows, that each waiting sample goes to, or -1. Uses up `room`."""
    _, num_windows, num_bins = room.shape
    first = np.arange(num_windows) * num_bins  # of each window, in the flat views below
    flat_room, load = room.reshape(len(room), -1), np.zeros(num_windows * num_bins, dtype=np.int64)
    score, is_small = np.empty((num_windows, num_bins), dtype=np.int64), np.empty((num_windows, num_bins), dtype=bool)
    number = np.full(cost.shape, -1)
    for step in range(len(cost)):
        np.copyto(score, load.reshape(num_windows, num_bins))
        for have, sizes in zip(room, waiting, strict=True):
            np.less(have, sizes[step][:, None], out=is_small)
            np.putmask(score, is_small, _NO_ROOM)
        best = score.argmin(axis=1) + first
        fits = score.reshape(-1)[best] < _NO_ROOM
        chosen = best[fits]
        for have, sizes in zip(flat_room, waiting, strict=True):
            have[chosen] -= sizes[step][fits]
        load[chosen] += cost[step][fits]
        number[step][fits] = chosen
    return number
