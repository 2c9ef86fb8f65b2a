"""Tiny Apollo with its clips, and weights large enough that every path matters."""

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_apollo.models.apollo.config import FusedEncoderConfig, TowerConfig
from lightning_apollo.models.config import ConnectorConfig, ModelConfig, ReducerConfig
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.structures import Frames, VisualItem
from tests.models.samples import MODEL
from tests.tolerances import SUMMATION

FRAMES = 4  # of a clip
IMAGE = TowerConfig("siglip", 24, num_layers=3, num_heads=2, intermediate_size=40, patch_size=4, image_size=12)
VIDEO = TowerConfig("internvideo2", 32, num_layers=3, num_heads=2, intermediate_size=48, patch_size=4, image_size=8)
VJEPA2 = TowerConfig("vjepa2", 36, 3, 2, intermediate_size=44, patch_size=4, image_size=12, tubelet_size=2)
VIDEOMAE = TowerConfig("videomae", 32, 3, 2, intermediate_size=48, patch_size=4, image_size=8, tubelet_size=2)
CONNECTOR = ConnectorConfig("perceiver", num_tokens=6, num_heads=4, head_dim=8, num_kv_heads=2, ff_multi=2)
FUSED = FusedEncoderConfig(IMAGE, VIDEO, FRAMES)
CLIP_MODEL = ModelConfig(llm=MODEL.llm, fused=FUSED, connector=CONNECTOR)


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Every parameter anew: scales and biases around 1, weights around 0."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise * 0.2 + (1.0 if parameter.ndim == 1 else 0.0)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Equal up to the order in which the dtype of `actual` sums."""
    tolerance = SUMMATION[actual.dtype]
    assert_close(actual.double(), expected.double(), atol=tolerance, rtol=tolerance)


def clip_model(config: ModelConfig = CLIP_MODEL) -> VideoLMM:
    model = build_model(config, ReducerConfig())
    randomize(model)
    return model.eval()


def clip_pixels(num_frames: int, height: int, width: int, seed: int) -> Tensor:
    """(num_frames, 3, height, width) uint8 of noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, 3, height, width), generator=generator, dtype=torch.uint8)


def clip_item(pixels: Tensor, config: ModelConfig = CLIP_MODEL) -> VisualItem:
    """A video of whole clips, or an image of one frame."""
    modality = "image" if len(pixels) == 1 else "video"
    return VisualItem(Frames(pixels, torch.arange(len(pixels)).double()), modality, merge_size=1, clip=config.clip)
