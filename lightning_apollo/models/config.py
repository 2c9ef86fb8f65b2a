"""Configuration of a model and its parts. Imports no torch: a recipe is checked before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_apollo.models.apollo.config import FusedEncoderConfig
from lightning_apollo.structures import ClipShape

COMPONENTS = ("vision", "connector", "llm")
FRAME_KINDS = ("mlp",)  # take the tokens of an encoder of frames, whatever their number
CLIP_KINDS = ("perceiver", "mlp_pool", "conv_pool")  # take the grid of an encoder of clips
CALIBRATED = "calibrated"
INITS = ("default", "he", CALIBRATED)
REDUCERS = ("none", "diff_fp", "merge_similar")
REFERENCES = ("previous", "last_kept")  # those of the op `similarity_keep`, and so are the arithmetics
ARITHMETICS = ("exact", "bfloat16")
QUANTIZATIONS = ("none", "nf4")


@dataclass(frozen=True)
class LLMConfig:
    """Sizes of the language model: any Llama-like `architecture` that transformers knows."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    vocab_size: int
    tokenizer: str  # hub name or folder
    architecture: str = "qwen2"  # model_type of transformers
    max_position_embeddings: int = 32_768
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    attention_dropout: float = 0.0
    initializer_range: float = 0.02  # deviation of random weights; small widths learn faster from a larger one
    weights: str | None = None  # hub name or folder to start from; None: random

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads or self.hidden_size % self.num_heads:
            raise ValueError(
                f"llm: hidden_size {self.hidden_size}, num_heads {self.num_heads} and num_kv_heads {self.num_kv_heads} "
                "must each divide the one before"
            )


@dataclass(frozen=True)
class VisionEncoderConfig:
    """Sizes of the encoder. The defaults are SigLIP so400m patch14-384 (VideoLLaMA 3 §2.1)."""

    hidden_size: int = 1152
    num_layers: int = 27
    num_heads: int = 16
    intermediate_size: int = 4304
    patch_size: int = 14  # pixels
    layer_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    weights: str | None = (
        None  # hub name or folder to start from: SigLIP, VL3-SigLIP-NaViT or a VideoLLaMA 3; None: random
    )

    def __post_init__(self) -> None:
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of 4 × num_heads ({4 * self.num_heads}): "
                "a head's channels are split in two axes of two coordinates"
            )


@dataclass(frozen=True)
class ConnectorConfig:
    """Configuration of the connector between encoder and LLM. The resampler's defaults are those of Apollo's released weights."""

    kind: str = "mlp"  # mlp for `vision`; perceiver | mlp_pool | conv_pool for `fused`
    num_tokens: int = 128  # L; the release has 128 (32 a frame), Table 7 says 64
    depth: int = 1  # layers of the resampler
    num_heads: int = 16
    head_dim: int = 96
    num_kv_heads: int = 4
    first_sharpness: float = 1.0  # factor on the random queries; small models learn faster from sharper attention
    ff_multi: int = 4  # the resampler's MLP is this many times as wide as the LLM
    # Random weights: PyTorch's own, as in the released training code | he | calibrated: fitted to the first step's features
    init: str = "default"

    def __post_init__(self) -> None:
        if self.kind not in FRAME_KINDS + CLIP_KINDS:
            raise ValueError(f"connector.kind is one of {', '.join(FRAME_KINDS + CLIP_KINDS)}, not {self.kind!r}")
        if self.init not in INITS:
            raise ValueError(f"connector.init is one of {', '.join(INITS)}, not {self.init!r}")
        if min(self.num_tokens, self.depth, self.num_heads, self.head_dim, self.num_kv_heads, self.ff_multi) < 1:
            raise ValueError("the numbers of a connector are at least 1")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}")


@dataclass(frozen=True)
class ReducerConfig:
    """`diff_fp` drops visual tokens whose pixels did not change (VideoLLaMA 3 §2.2). `merge_similar` replaces runs of similar
    features at one place by their mean, which also saves tokens where a camera moves or noise changes every pixel."""

    kind: str = "none"  # none | diff_fp | merge_similar
    threshold_grey_levels: float = 0.05  # mean |Δ| of 0..255; 0.05 is VideoLLaMA 3's 0.1 in its own units, 5.8 is RLT's
    token_budget: int | None = None  # visual tokens that diff_fp keeps of each video, instead of a threshold
    reference: str = "previous"  # previous | last_kept: the frame that a token is compared with
    min_tokens: int = 1  # tokens that diff_fp keeps of every frame at least
    arithmetic: str = "exact"  # exact | bfloat16: as the released models compute it when they run in bfloat16
    min_cosine: float = 0.9  # merge_similar: tokens at least this similar to the first of their run join it

    def __post_init__(self) -> None:
        choices = {"kind": REDUCERS, "reference": REFERENCES, "arithmetic": ARITHMETICS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"reducer.{name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.threshold_grey_levels < 0 or self.min_tokens < 1:
            raise ValueError("reducer.threshold_grey_levels is at least 0 and reducer.min_tokens at least 1")
        if self.token_budget is not None and (self.reference, self.arithmetic) != ("previous", "exact"):
            raise ValueError("reducer.token_budget needs reducer.reference=previous and reducer.arithmetic=exact")
        if self.token_budget is not None and self.token_budget < 1:
            raise ValueError(f"reducer.token_budget is at least 1, not {self.token_budget}")
        if not -1 < self.min_cosine <= 1:
            raise ValueError(f"reducer.min_cosine is above -1 and at most 1, not {self.min_cosine}")


@dataclass(frozen=True)
class LoraConfig:
    """Adapters on the linear layers of one component. The defaults are common ones, not those of a paper of ours."""

    rank: int = 16  # rows of A and columns of B
    alpha: int = 32  # the adapters' output is multiplied by alpha / rank
    dropout: float = 0.05  # of the adapters' input
    modules: list[str] = field(
        default_factory=list
    )  # last names of linear layers: q_proj, ...; empty: all in its layers
    quantize: str = "none"  # none | nf4: hold the linear layers of its layers in 4 bit; needs the extra `qlora`

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora rank is {self.rank}: it is at least 1")
        if self.alpha < 1:
            raise ValueError(f"lora alpha is {self.alpha}: it is at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"lora dropout is {self.dropout}: it is in [0, 1)")
        if self.quantize not in QUANTIZATIONS:
            raise ValueError(f"lora quantize is one of {', '.join(QUANTIZATIONS)}, not {self.quantize!r}")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class ModelConfig:
    """An encoder of frames (`vision`, VideoLLaMA 3) or of clips (`fused`, Apollo), a connector and a language model."""

    llm: LLMConfig
    vision: VisionEncoderConfig | None = None
    fused: FusedEncoderConfig | None = None
    connector: ConnectorConfig = field(default_factory=ConnectorConfig)

    def __post_init__(self) -> None:
        if (self.vision is None) == (self.fused is None):
            raise ValueError("model has one encoder: vision (of frames) or fused (of clips)")
        if (self.vision is None) == (self.connector.kind in FRAME_KINDS):
            encoder = "fused" if self.vision is None else "vision"
            raise ValueError(f"connector.kind {self.connector.kind} does not go with the encoder `{encoder}`")

    @property
    def clip(self) -> ClipShape | None:
        """Shape of a clip from the encoder; None where it takes frames."""
        if self.fused is None:
            return None
        return ClipShape(self.fused.num_frames, self.connector.num_tokens, self.fused.image_size)

    @property
    def patch_size(self) -> int:
        """Pixels. With several towers that of the first, which no size of a frame depends on."""
        if self.vision is not None:
            return self.vision.patch_size
        assert self.fused is not None  # checked above
        return next(iter(self.fused.towers.values())).patch_size

    @property
    def weights(self) -> dict[str, str | None]:
        """Start weights of each part: name of the part -> hub name or path; None: random."""
        towers = {} if self.fused is None else {name: tower.weights for name, tower in self.fused.towers.items()}
        vision = {} if self.vision is None else {"vision": self.vision.weights}
        return {**vision, **towers, "llm": self.llm.weights}
