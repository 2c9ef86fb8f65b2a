"""The four training stages of VideoLLaMA 3 (arXiv 2501.13106, section 3), in their order.

They differ in what they train and what they learn from; how a step runs is the same and lies in `Stage`.
"""

from typing import ClassVar

from lightning_apollo.stages.base import Stage
from lightning_apollo.stages.kinds import STAGES


class VisionEncoderAdaptation(Stage):
    """Stage 1: the image encoder learns images of any resolution and the connector learns the LLM's space.

    The LLM is frozen, its output layer too. Short captions, scene text and documents; images keep every patch as a
    token (merge 1). Rates 1e-5 for the encoder and 1e-3 for the connector.
    """

    kind: ClassVar = STAGES["VisionEncoderAdaptation"]


class VisionLanguageAlignment(Stage):
    """Stage 2: all components train on detailed captions, text in images, charts, regions and some text alone.

    Rates 2e-6 for the encoder and 1e-5 for connector and LLM, here and in the stages after it. No videos yet.
    """

    kind: ClassVar = STAGES["VisionLanguageAlignment"]


class MultiTaskFineTuning(Stage):
    """Stage 3: instructions over images, several images, text and the first videos.

    Videos are merged 2×2 and, from here on, lose the tokens that did not change since the frame before (DiffFP).
    """

    kind: ClassVar = STAGES["MultiTaskFineTuning"]


class VideoCentricFineTuning(Stage):
    """Stage 4: mostly videos: general, streaming and temporal grounding, with images and text against forgetting.

    Images are merged 2×2 as well, so that an image costs what a frame does.
    """

    kind: ClassVar = STAGES["VideoCentricFineTuning"]
