"""Batched token-by-token generation for any number of prompts.

S prompts · U tokens of all sequences · E width of the LLM
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_apollo.data.collate import collate
from lightning_apollo.models.kv_cache import KeyValueCache
from lightning_apollo.models.llm import predict, run_next_tokens
from lightning_apollo.models.video_lmm import VideoLMM
from lightning_apollo.structures import Sample


@dataclass(frozen=True)
class DrawConfig:
    """Choice of the next token: the likeliest, or drawn."""

    temperature: float = 0.0  # logits are divided by it; 0: always the likeliest token
    top_p: float = 1.0  # only the likeliest tokens that together reach this probability are drawn from
    seed: int = 0  # of the draws

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}: give 0 (the likeliest token) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: give a probability above 0 and up to 1")


GREEDY = DrawConfig()


def generate(
    model: VideoLMM, prompts: Sequence[Sample], end_id: int, max_new_tokens: int = 64, draw: DrawConfig = GREEDY
) -> list[list[int]]:
    """Return the token ids of each answer, without `end_id`.

    An answer that does not end within `max_new_tokens` is returned as far as it got.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    for tokens in stream_tokens(model, prompts, end_id, max_new_tokens, draw):
        for prompt, token in tokens.items():
            answers[prompt].append(token)
    return answers


@torch.inference_mode()
def stream_tokens(
    model: VideoLMM, prompts: Sequence[Sample], end_id: int, max_new_tokens: int, draw: DrawConfig = GREEDY
) -> Generator[dict[int, int], None, None]:
    """Yield after each step the next token id of every unfinished answer: number of the prompt -> id.

    Media are encoded and the packed prompts run once; then each step runs one token of each unfinished answer. The model
    is in eval mode until the iterator ends or is closed.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(draw.seed)
    was_training = model.training
    model.eval()
    try:
        spliced = model.splice(collate(prompts, prompts[0].patch_size).to(device))
        cache = KeyValueCache(spliced.lengths, max_new_tokens)
        hidden = model.decode(spliced.inputs_embeds, spliced.lengths, cache)  # (U, E)
        hidden = hidden[torch.tensor(spliced.lengths, device=device).cumsum(dim=0) - 1]  # (S, E) of the last tokens
        active = list(range(len(prompts)))
        for num_left in reversed(range(max_new_tokens)):
            chosen = _choose(predict(model.llm, hidden), draw, generator)  # (S,)
            tokens = chosen.tolist()
            unfinished = [row for row, token in enumerate(tokens) if token != end_id]
            if not unfinished:
                return
            if len(unfinished) < len(active):
                active = [active[row] for row in unfinished]
                chosen = chosen[unfinished]
                cache.keep(unfinished)
            yield dict(zip(active, chosen.tolist(), strict=True))
            if num_left:
                hidden = run_next_tokens(model.llm, model.llm.get_input_embeddings()(chosen), cache)  # (S, E)
    finally:
        model.train(was_training)


def _choose(logits: Tensor, draw: DrawConfig, generator: torch.Generator) -> Tensor:
    """One token id (S,) for each row of logits (S, vocabulary)."""
    if draw.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = (logits.float() / draw.temperature).softmax(dim=-1)
    probabilities, ids = probabilities.sort(dim=-1, descending=True)
    likelier = probabilities.cumsum(dim=-1) - probabilities  # the probability of all that come before
    probabilities = probabilities.masked_fill(likelier >= draw.top_p, 0.0)
    places = torch.multinomial(probabilities, 1, generator=generator)  # (S, 1)
    return ids.gather(1, places).squeeze(1)
