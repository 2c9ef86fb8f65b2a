"""The towers of Apollo's vision encoder: SigLIP for single frames, and the video encoders of Table 9 for whole clips (§6, C.1).

What a tower returns is the output of its selected layer: no layer after that one is built, and no norm behind it.

K clips · T frames of a clip · S side in pixels · D channels
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    VideoMAEConfig,
    VideoMAEModel,
    VJEPA2Config,
    VJEPA2Model,
)

from lightning_apollo.models.apollo.config import TowerConfig
from lightning_apollo.models.apollo.internvideo2 import InternVideo2

Grid = tuple[int, int, int]  # time, rows, columns

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Tower(nn.Module):
    """One encoder of clips: what it is built from, the colours that its pixels are normalised by, and its grid."""

    mean: ClassVar = IMAGENET_MEAN  # of colours between 0 and 1; also what frames are padded with
    deviation: ClassVar = IMAGENET_DEVIATION

    def __init__(self, config: TowerConfig, num_frames: int) -> None:
        super().__init__()
        side = config.image_size // config.patch_size
        self.config = config
        self.grid: Grid = (num_frames // config.tubelet_size, side, side)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute the activations of every layer in the backward pass, or keep them."""
        model = self.get_submodule("model")
        if isinstance(model, InternVideo2):
            model.activation_checkpointing = enabled
        elif isinstance(model, PreTrainedModel):
            model.activation_checkpointing_enable() if enabled else model.activation_checkpointing_disable()


class SiglipTower(Tower):
    """The image tower: every frame by itself (`siglip-so400m-patch14-384` in the paper)."""

    mean: ClassVar = HALF
    deviation: ClassVar = HALF

    def __init__(self, config: TowerConfig, num_frames: int) -> None:
        super().__init__(config, num_frames)
        self.model = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_built_layers,
                num_attention_heads=config.num_heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
                vision_use_head=False,
            )
        )
        self.model.set_submodule("post_layernorm", nn.Identity())

    def forward(self, clips: Tensor) -> Tensor:
        """(K, T, 3, S, S) normalised pixels to (K, T, rows, columns, D)."""
        features = self.model(clips.flatten(0, 1)).last_hidden_state  # (K·T, rows·columns, D)
        return features.reshape(len(clips), *self.grid, -1)


class InternVideo2Tower(Tower):
    """The video tower of the paper: InternVideo2-1B, on clips of 4 frames."""

    def __init__(self, config: TowerConfig, num_frames: int) -> None:
        super().__init__(config, num_frames)
        self.model = InternVideo2(
            hidden_size=config.hidden_size,
            num_layers=config.num_built_layers,
            num_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            patch_size=config.patch_size,
            image_size=config.image_size,
            num_frames=num_frames,
            tubelet_size=config.tubelet_size,
            layer_scale=config.layer_scale,
            position_deviation=config.position_deviation,
        )

    def forward(self, clips: Tensor) -> Tensor:
        """(K, T, 3, S, S) normalised pixels to (K, T', rows, columns, D)."""
        return self.model(clips)


class VJEPA2Tower(Tower):
    """V-JEPA 2 as the video tower; its predictor and the norm behind its last layer are left out."""

    def __init__(self, config: TowerConfig, num_frames: int) -> None:
        super().__init__(config, num_frames)
        self.model = VJEPA2Model(
            VJEPA2Config(
                patch_size=config.patch_size,
                crop_size=config.image_size,
                frames_per_clip=num_frames,
                tubelet_size=config.tubelet_size,
                hidden_size=config.hidden_size,
                num_attention_heads=config.num_heads,
                num_hidden_layers=config.num_built_layers,
                mlp_ratio=(config.intermediate_size + 0.5) / config.hidden_size,  # times hidden_size, rounded down
                pred_num_hidden_layers=0,
            )
        )
        self.model.set_submodule("predictor", nn.Identity())
        self.model.set_submodule("encoder.layernorm", nn.Identity())

    def forward(self, clips: Tensor) -> Tensor:
        """(K, T, 3, S, S) normalised pixels to (K, T', rows, columns, D)."""
        features = self.model.encoder(clips).last_hidden_state  # (K, T'·rows·columns, D)
        return features.reshape(len(clips), *self.grid, -1)


class VideoMAETower(Tower):
    """VideoMAE as the video tower; its positions are sinusoids, so that any number of frames goes."""

    def __init__(self, config: TowerConfig, num_frames: int) -> None:
        super().__init__(config, num_frames)
        self.model = VideoMAEModel(
            VideoMAEConfig(
                image_size=config.image_size,
                patch_size=config.patch_size,
                num_frames=num_frames,
                tubelet_size=config.tubelet_size,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_built_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.intermediate_size,
                use_mean_pooling=True,  # which is to say: no norm behind the last layer
            )
        )

    def forward(self, clips: Tensor) -> Tensor:
        """(K, T, 3, S, S) normalised pixels to (K, T', rows, columns, D)."""
        features = self.model(clips).last_hidden_state  # (K, T'·rows·columns, D)
        return features.reshape(len(clips), *self.grid, -1)


TOWERS: dict[str, type[Tower]] = {
    "siglip": SiglipTower,
    "internvideo2": InternVideo2Tower,
    "vjepa2": VJEPA2Tower,
    "videomae": VideoMAETower,
}
