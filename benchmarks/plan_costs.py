"""Synthetic sample costs for bench_plan.py, with lengths like those of the papers' mixtures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_apollo.data.plan.costs import SampleCosts

MAX_LLM_TOKENS = 16384  # VideoLLaMA 3's model_max_length
MAX_PATCHES = 65536  # the same number of visual tokens, of four patches each
MAX_VISUAL_TOKENS = 10240  # VideoLLaMA 3's mm_max_length: of one sample
MAX_FRAMES = 180
SHARES = {"text": 0.3, "image": 0.4, "video": 0.3}


def mixed_costs(num_samples: int, seed: int = 0) -> SampleCosts:
    """Text of log-normal length (median 150 tokens, sigma 1), images of 300 to 2,600 visual tokens and a patch for each, videos of
    log-normal length (median 4,000, sigma 0.8, at most 10,240) and four patches for each. Images and videos come with text."""
    generator = np.random.default_rng(seed)
    num_text, num_image = (int(num_samples * SHARES[name]) for name in ("text", "image"))
    num_video = num_samples - num_text - num_image
    text = _log_normal(generator, num_text, 150, 1.0, 8, MAX_LLM_TOKENS)
    image = generator.integers(300, 2601, num_image)
    video = _log_normal(generator, num_video, 4000, 0.8, 64, MAX_VISUAL_TOKENS)
    frames = np.maximum(generator.integers(8, MAX_FRAMES + 1, num_video), video // 2600 + 1)
    frames = np.minimum(frames, video // 16)  # a frame has 16 visual tokens or more
    words = _log_normal(generator, num_image + num_video, 60, 0.8, 8, 2000)
    squares = np.concatenate([0 * text, image**2, (4 * video) ** 2 // frames])
    return SampleCosts(
        source_names=tuple(SHARES),
        source=np.repeat(np.arange(3, dtype=np.int16), [num_text, num_image, num_video]),
        llm_tokens=np.concatenate([text, np.concatenate([image, video]) + words]).astype(np.int32),
        patches=np.concatenate([0 * text, image, 4 * video]).astype(np.int32),
        vision_squares=squares,
    )


def _log_normal(
    generator: np.random.Generator, number: int, median: float, sigma: float, low: int, high: int
) -> NDArray[np.int64]:
    return np.clip(np.rint(generator.lognormal(np.log(median), sigma, number)), low, high).astype(np.int64)
