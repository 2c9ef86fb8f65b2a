"""Trained model with its tokenizer and the preprocessing of its training."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.prompt.template import IM_END
from lightning_apollo.models.video_lmm import VideoLMM


@dataclass(frozen=True)
class TrainedModel:
    """In eval mode, on the device where it answers."""

    model: VideoLMM
    tokenizer: PreTrainedTokenizerBase
    preparer: Preparer

    @property
    def end_id(self) -> int:
        """The id of the token that ends an answer."""
        number = self.tokenizer.convert_tokens_to_ids(IM_END)
        assert isinstance(number, int)  # a list comes of a list alone
        return number
