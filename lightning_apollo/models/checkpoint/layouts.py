"""Tensor layouts of published checkpoints, recognised by their tensor names."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lightning_apollo.models.checkpoint.load import PORT_PREFIXES
from lightning_apollo.structures import WeightsError

# --part of the command line -> what our names begin with
PARTS = {"all": ("vision_encoder", "connector", "llm"), "vision": ("vision_encoder",), "llm": ("llm",)}

_PATCHES = "embeddings.patch_embedding.weight"
_LLM = {"model.embed_tokens.": "llm.model.embed_tokens.", "model.layers.": "llm.model.layers."}
_LLM |= {"model.norm.": "llm.model.norm.", "lm_head.": "llm.lm_head."}
_ENCODER = {f"{name}.": f"vision_encoder.{name}." for name in ("embeddings", "encoder", "post_layernorm")}
_POSITIONS = "a position table: positions are rotations here"
_HEAD = "SigLIP's pooling head: features are taken before it"
_CONTRASTIVE = "SigLIP's text side and its loss"
# What any checkpoint may carry and no model needs
_COMPUTED = {r"(.*\.)?(inv_freq|position_ids)": "computed from the sizes, not learnt"}


@dataclass(frozen=True)
class TensorLayout:
    """One way to name the tensors of a model."""

    name: str
    landmark: str  # a name that every checkpoint of this layout has, and none of a row below it has to
    prefixes: Mapping[str, str]  # what their names begin with -> what ours begin with; the rest is the same
    unused: Mapping[str, str] = field(default_factory=dict)  # pattern of a whole name -> why it is left out


@dataclass(frozen=True)
class Mapped:
    """The names of a checkpoint, each of them in one of three places."""

    layout: TensorLayout
    used: dict[str, str]  # ours -> theirs
    unused: dict[str, str]  # theirs -> why
    unknown: list[str]  # theirs

    @property
    def parts(self) -> set[str]:
        """Components that the checkpoint has something of."""
        return {name.split(".", 1)[0] for name in self.used}


LAYOUTS = (
    TensorLayout(
        "VideoLLaMA 3 (training repository)",
        f"model.vision_encoder.vision_encoder.{_PATCHES}",
        {"model.vision_encoder.vision_encoder.": "vision_encoder.", "model.mm_projector.": "connector.", **_LLM},
    ),
    TensorLayout(
        "VideoLLaMA 3 (hub, remote code)",
        f"model.vision_encoder.{_PATCHES}",
        {"model.vision_encoder.": "vision_encoder.", "model.mm_projector.": "connector.", **_LLM},
    ),
    TensorLayout(
        "VideoLLaMA 3 (transformers)",
        f"model.vision_model.{_PATCHES}",
        {theirs: ours for ours, theirs in PORT_PREFIXES.items()},
    ),
    TensorLayout(
        "SigLIP",
        f"vision_model.{_PATCHES}",
        {"vision_model.": "vision_encoder."},
        {
            r"vision_model\.embeddings\.position_embedding\..*": _POSITIONS,
            r"vision_model\.head\..*": _HEAD,
            r"(text_model\..*|logit_scale|logit_bias)": _CONTRASTIVE,
        },
    ),
    TensorLayout(
        "SigLIP (vision tower alone)",
        "embeddings.position_embedding.weight",
        _ENCODER,
        {r"embeddings\.position_embedding\..*": _POSITIONS, r"head\..*": _HEAD},
    ),
    TensorLayout("VL3-SigLIP-NaViT", _PATCHES, _ENCODER),
    TensorLayout("language model", "model.embed_tokens.weight", _LLM),
    TensorLayout(
        "language model (no head)", "embed_tokens.weight", {k.removeprefix("model."): v for k, v in _LLM.items()}
    ),
)


def map_names(names: Iterable[str], source: str, part: str = "all") -> Mapped:
    """Every name of a checkpoint as used, unused with its reason, or unknown; WeightsError where no layout fits."""
    names = list(names)
    layout = next((layout for layout in LAYOUTS if layout.landmark in names), None)
    if layout is None:
        shown = ", ".join(names[:3]) or "none at all"
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise WeightsError(f"{source}: no layout fits its names ({shown}, ...); those known are {known}")
    mapped = Mapped(layout, {}, {}, [])
    for name in names:
        ours = _ours(name, layout.prefixes)
        why = next(
            (why for pattern, why in {**_COMPUTED, **layout.unused}.items() if re.fullmatch(pattern, name)), None
        )
        if why is not None:
            mapped.unused[name] = why
        elif ours is None:
            mapped.unknown.append(name)
        elif ours.split(".", 1)[0] not in PARTS[part]:
            mapped.unused[name] = f"not asked for (--part {part})"
        else:
            mapped.used[ours] = name
    return mapped


def _ours(name: str, prefixes: Mapping[str, str]) -> str | None:
    theirs = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default=None)
    return None if theirs is None else prefixes[theirs] + name.removeprefix(theirs)
