"""Per-layer key-value cache of a batch of samples, each at its own length.

S samples · T tokens of all samples · H heads · G key/value heads (H is a multiple of G) · D channels of a head
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class KeyValueCache:
    """Keys and values of each layer and sample in a buffer of its own: nothing is padded, so no sample sees another's."""

    def __init__(self, lengths: Sequence[int], num_new_tokens: int) -> None:
        """`lengths`: tokens of each sample; `num_new_tokens`: room for that many more of each."""
        self.lengths = list(lengths)  # of each sample, without the token of a step under way
        self._num_new_tokens = num_new_tokens
        self._layers: dict[int, list[tuple[Tensor, Tensor]]] = {}  # layer -> for each sample two of (G, room, D)

    def fill(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Remember keys and values (T, G, D) of the packed samples."""
        parts = zip(k.split(self.lengths), v.split(self.lengths), strict=True)
        self._layers[layer] = [(self._with_room(keys), self._with_room(values)) for keys, values in parts]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Return attention (S, H, D) of the next token of each sample over that sample and itself, and remember it.

        q: (S, H, D); k, v: (S, G, D). The H/G heads that share keys are the rows of one attention over them.
        """
        outputs: list[Tensor] = []
        for sample, (length, (keys, values)) in enumerate(zip(self.lengths, self._layers[layer], strict=True)):
            keys[:, length], values[:, length] = k[sample], v[sample]
            rows = q[sample].unflatten(0, (k.shape[1], -1))  # (G, H/G, D)
            seen = slice(length + 1)
            out = scaled_dot_product_attention(rows[None], keys[None, :, seen], values[None, :, seen], scale=scale)
            outputs.append(out[0].flatten(0, 1))  # (H, D)
        return torch.stack(outputs)

    def advance(self) -> None:
        """Count the token that every layer has attended with."""
        self.lengths = [length + 1 for length in self.lengths]

    def keep(self, samples: Sequence[int]) -> None:
        """Forget all but these samples, which are numbered anew in this order."""
        self.lengths = [self.lengths[sample] for sample in samples]
        self._layers = {layer: [buffers[sample] for sample in samples] for layer, buffers in self._layers.items()}

    def _with_room(self, rows: Tensor) -> Tensor:
        """Rows (length, G, D) of a sample at the beginning of a buffer (G, length + new tokens, D)."""
        length, groups, channels = rows.shape
        buffer = rows.new_empty(groups, length + self._num_new_tokens, channels)
        buffer[:, :length] = rows.transpose(0, 1)
        return buffer
