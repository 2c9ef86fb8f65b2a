"""Language model and tokenizer of transformers, with packed attention inside.

T text tokens of all samples · S samples · H heads · E width of the LLM
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lightning_apollo.models.attention import packed_attention
from lightning_apollo.models.config import LLMConfig
from lightning_apollo.models.kv_cache import KeyValueCache
from lightning_apollo.structures import WeightsError

LanguageModel = PreTrainedModel  # what the rest of the package calls it: a causal LM of transformers

ATTENTION = "lightning_apollo_packed"  # the name our attention has in transformers' registry
# VideoLLaMA 3's three tokens, then Apollo's two; the order gives them their ids
ADDED_TOKENS = ("<image>", "<|stream_start|>", "<|stream_end|>", "<|vid_start|>", "<|vid_end|>")
# What changes a model's output and leaves its shapes alone: transformers' name -> the recipe's
_COMPARED = {
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
}


def build_llm(config: LLMConfig) -> LanguageModel:
    """Return a causal LM with random weights and packed attention; under `torch.device("meta")` without memory."""
    sizes: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.initializer_range,
    }
    llm_config = AutoConfig.for_model(config.architecture, **sizes)
    return AutoModelForCausalLM.from_config(llm_config, attn_implementation=ATTENTION)


def load_llm(config: LLMConfig) -> LanguageModel:
    """Return the LLM with the weights that `config.weights` names, checked against the sizes of the recipe."""
    if config.weights is None:
        return build_llm(config)
    try:
        llm = AutoModelForCausalLM.from_pretrained(
            config.weights, attn_implementation=ATTENTION, dtype=torch.float32, trust_remote_code=False
        )
    except OSError as error:
        raise WeightsError(_not_found(config.weights, "weights", error)) from error
    except ValueError as error:  # what transformers says of a model with code of its own, and of one it does not know
        raise WeightsError(f"{config.weights}: {str(error).splitlines()[0]}") from error
    for ours, theirs in (
        ("hidden_size", "hidden_size"),
        ("num_layers", "num_hidden_layers"),
        ("vocab_size", "vocab_size"),
    ):
        if getattr(config, ours) != getattr(llm.config, theirs):
            raise WeightsError(
                f"model.llm.{ours} is {getattr(config, ours)}, but {config.weights} has {getattr(llm.config, theirs)}"
            )
    check_llm(config, llm.config, config.weights)
    return llm


def check_llm(llm: LLMConfig, theirs: PreTrainedConfig, source: str) -> None:
    """Raise WeightsError where the recipe would run these weights with other numbers than they were trained with."""
    ours = _numbers(config_of_recipe(llm))
    for name, value in _numbers(theirs).items():
        if value is not None and not math.isclose(ours[name], value, rel_tol=1e-6):
            raise WeightsError(
                f"{source}: {name} is {value:g}: set model.llm.{_COMPARED[name]}, which is {ours[name]:g}"
            )


def check_positions(llm: LanguageModel, max_length: int) -> None:
    """Raise WeightsError where samples may have more tokens than the loaded weights have positions."""
    positions = getattr(llm.config, "max_position_embeddings", None)
    if positions is not None and positions < max_length:
        raise WeightsError(
            f"the language model's weights have {positions} positions (max_position_embeddings), but data.budget.max_length "
            f"is {max_length}: lower it, and data.budget.token_budget with it"
        )


def config_of_recipe(llm: LLMConfig) -> PreTrainedConfig:
    """Configuration of transformers from the recipe's numbers."""
    with torch.device("meta"):
        return build_llm(llm).config


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer with ADDED_TOKENS added where it lacks them, in their order: those of VideoLLaMA 3 get the
    next ids, 151665 to 151667 on Qwen2.5 (papers.md 2.5), and the bounds of a clip (Apollo, Table 2) the two after."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except OSError as error:  # what transformers says of a name that is nowhere, and where the hub cannot be reached
        raise WeightsError(_not_found(name, "tokenizer", error)) from error
    except ValueError as error:  # what transformers says of a tokenizer with code of its own, and of one it cannot read
        raise WeightsError(
            f"{name}: no tokenizer that transformers itself has: {str(error).splitlines()[0]}"
        ) from error
    known = tokenizer.get_vocab()
    missing = [token for token in ADDED_TOKENS if token not in known]
    if missing:
        tokenizer.add_tokens(missing, special_tokens=True)
    return tokenizer


def load_tokenizer_of(llm: LLMConfig, name: str | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the recipe, or the one called `name`. WeightsError where its ids exceed the vocabulary."""
    name = name or llm.tokenizer
    tokenizer = load_tokenizer(name)
    num_tokens = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))  # ids may have gaps
    if num_tokens > llm.vocab_size:
        raise WeightsError(
            f"{name}: {num_tokens} tokens, with those that we add ({', '.join(ADDED_TOKENS)}), but model.llm.vocab_size is "
            f"{llm.vocab_size}: set it to {num_tokens} or more, or name another tokenizer"
        )
    return tokenizer


def _not_found(name: str, key: str, error: OSError) -> str:
    return (
        f"{name}: no such folder, and the hub says: {str(error).splitlines()[0]} Fetch it where there is a network "
        f"(`hf download {name}`), or name a folder: model.llm.{key}=FOLDER"
    )


def run_decoder(
    llm: LanguageModel,
    inputs_embeds: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    cache: KeyValueCache | None = None,
) -> Tensor:
    """Return the last hidden states (T, E) of samples packed into one sequence, each attending to itself alone.

    inputs_embeds: (T, E); cu_seqlens: (S+1,) int32. Positions restart at 0 with every sample. `use_cache=False` is needed: with
    its default cache transformers attends across samples in eval mode. An empty `cache` is filled, for `run_next_tokens`.
    """
    num_tokens = inputs_embeds.shape[0]
    token = torch.arange(num_tokens, device=inputs_embeds.device)
    start = cu_seqlens[torch.bucketize(token, cu_seqlens, right=True) - 1]  # (T,) first token of the own sample
    output = llm.base_model(
        inputs_embeds=inputs_embeds[None],  # (1, T, E)
        position_ids=(token - start)[None],
        use_cache=False,
        cu_seqlens=cu_seqlens,
        max_seqlen=max_seqlen,
        cache=cache,
    )
    return output.last_hidden_state[0]


def run_next_tokens(llm: LanguageModel, inputs_embeds: Tensor, cache: KeyValueCache) -> Tensor:
    """Return the last hidden states (S, E) of one more token (S, E) of each sample in the cache, which then hold it."""
    output = llm.base_model(
        inputs_embeds=inputs_embeds[None],  # (1, S, E)
        position_ids=torch.tensor([cache.lengths], device=inputs_embeds.device),
        use_cache=False,
        cu_seqlens=None,
        max_seqlen=max(cache.lengths) + 1,
        cache=cache,
    )
    cache.advance()
    return output.last_hidden_state[0]


def predict(llm: LanguageModel, hidden: Tensor) -> Tensor:
    """Return logits (L, vocabulary) of hidden states (L, E)."""
    head = llm.get_output_embeddings()
    assert head is not None  # every causal LM has one
    return head(hidden)


def _packed_attention_interface(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seqlens: Tensor | None,
    max_seqlen: int,
    cache: KeyValueCache | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention function of transformers in every layer: query (1, H, T, D) in, (1, T, H, D) out.

    Without `cu_seqlens` the T tokens are the next one of each sample in the cache.
    """
    if attention_mask is not None:
        raise ValueError("packed attention takes cu_seqlens, not an attention mask")
    if sliding_window is not None and max_seqlen > sliding_window:
        raise ValueError(f"a sample of {max_seqlen} tokens is longer than the sliding window of {sliding_window}")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, H, D) each
    layer = cast("int", module.layer_idx)  # every attention of transformers' decoders knows its place
    if cu_seqlens is None:
        assert cache is not None  # run_next_tokens, the only one to ask so, gives it
        return cache.attend(layer, q, k, v, scaling)[None], None
    if cache is not None:
        cache.fill(layer, k, v)
    out = packed_attention(q, k, v, cu_seqlens, max_seqlen, causal=True, scale=scaling, dropout=dropout)
    return out[None], None


def _numbers(config: PreTrainedConfig) -> dict[str, Any]:
    rope = getattr(config, "rope_parameters", None) or {}
    return {name: rope.get(name) if name == "rope_theta" else getattr(config, name, None) for name in _COMPARED}


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _packed_attention_interface)
