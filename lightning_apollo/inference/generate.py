"""Answers of a trained model, greedy, for any number of prompts at once.

S prompts · U tokens of all sequences · E width of the LLM
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_apollo.data.collate import collate
from lightning_apollo.models.llm import predict
from lightning_apollo.models.video_lmm import VideoLMM
from lightning_apollo.structures import Sample


@torch.inference_mode()
def generate(model: VideoLMM, prompts: Sequence[Sample], end_id: int, max_new_tokens: int = 64) -> list[list[int]]:
    """Returns the token ids of each answer, without `end_id`, by always taking the likeliest next token.

    Media are encoded once; then every step runs the packed sequences again with one token more each, which for answers of a
    few words is cheap. An answer that does not end within `max_new_tokens` is returned as far as it got.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    spliced = model.splice(collate(prompts, prompts[0].patch_size).to(device))
    sequences = list(spliced.inputs_embeds.split(spliced.lengths))  # S of (U_s, E)
    answers: list[list[int]] = [[] for _ in prompts]
    active = list(range(len(prompts)))
    for _ in range(max_new_tokens):
        chosen = _next_ids(model, [sequences[i] for i in active])
        for i, token in zip(active, chosen.tolist(), strict=True):
            answers[i].append(token)
        active = [i for i in active if answers[i][-1] != end_id]
        if not active:
            break
        embeds = model.llm.get_input_embeddings()(torch.tensor([answers[i][-1] for i in active], device=device))
        for i, embed in zip(active, embeds, strict=True):
            sequences[i] = torch.cat([sequences[i], embed[None]])
    model.train(was_training)
    return [[token for token in answer if token != end_id] for answer in answers]


def _next_ids(model: VideoLMM, sequences: list[Tensor]) -> Tensor:
    """The likeliest next token (S,) of each sequence."""
    lengths = [sequence.shape[0] for sequence in sequences]
    hidden = model.decode(torch.cat(sequences), lengths)  # (U, E)
    last = torch.tensor(lengths, device=hidden.device).cumsum(dim=0) - 1
    return predict(model.llm, hidden[last]).argmax(dim=-1)
