"""The three training stages of Apollo (arXiv 2412.10360, §5.1, Table 7, C.3 and C.4), in their order.

All seven schedules of Table 3 are made of them: docs/apollo.md has the table. Rates, clips and batches are the recipe's.
"""

from typing import ClassVar

from lightning_apollo.stages.base import Stage
from lightning_apollo.stages.kinds import STAGES


class ConnectorAlignment(Stage):
    """Stage 1: the resampler learns the LLM's space from captions, half of them of images and half of videos.

    Towers and LLM are frozen. Rate 1e-4, at most 25 clips a video. (§5.1 says that a frozen LLM sees video alone, C.3
    has images in this stage: the recipe follows C.3, and the mixture is a value.)
    """

    kind: ClassVar = STAGES["ConnectorAlignment"]


class VisionPretraining(Stage):
    """Stage 2: both towers and the resampler learn from video captions alone, behind a frozen LLM.

    Rates 5e-6 for the towers and 1e-4 for the resampler, at most 25 clips a video.
    """

    kind: ClassVar = STAGES["VisionPretraining"]


class InstructionTuning(Stage):
    """Stage 3: resampler and LLM learn instructions over text, images, several images and videos.

    Rates 1e-4 for the resampler and 5e-5, 2e-5 or 1e-5 for the LLM of 1.5B, 3B or 7B. Apollo keeps the towers frozen
    here: trained together with the LLM on mixed data they lost 10 to 15 points (Table 12). VideoLLaMA 3 trains its encoder
    with the LLM in three stages out of four, at a fifth of the LLM's rate. Neither tests the other's setting, so it is the
    recipe's choice: `trains: {vision: 1e-6, ...}` trains the towers too.
    """

    kind: ClassVar = STAGES["InstructionTuning"]
