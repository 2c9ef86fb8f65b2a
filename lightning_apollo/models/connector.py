"""Visual features to the LLM's width.

M visual tokens · D width of the encoder · E width of the LLM
"""

from torch import Tensor, nn


class MLPConnector(nn.Module):
    """Two layers with the exact GELU between them: `mlp2x_gelu` of VideoLLaMA 3 (its projector.py).

    Random weights are He's, so that visual tokens are as large as the features they come from: with PyTorch's own they are
    a sixth of that, and a language model trained from scratch takes several times longer to look at them.
    """

    def __init__(self, vision_width: int, llm_width: int) -> None:
        super().__init__()
        self.readout = nn.Sequential(nn.Linear(vision_width, llm_width), nn.GELU(), nn.Linear(llm_width, llm_width))
        for layer in (self.readout[0], self.readout[2]):
            nn.init.kaiming_normal_(layer.get_parameter("weight"), nonlinearity="relu")
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, visual_tokens: Tensor) -> Tensor:
        """(M, D) to (M, E)."""
        return self.readout(visual_tokens)
