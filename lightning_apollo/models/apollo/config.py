"""Configuration of Apollo's vision encoder and its towers."""

from __future__ import annotations

from dataclasses import dataclass

TOWER_KINDS = ("siglip", "internvideo2", "vjepa2", "videomae")  # in towers.py each of them has its class


@dataclass(frozen=True)
class TowerConfig:
    """One tower: its kind and the sizes of the published model."""

    kind: str  # siglip | internvideo2 | vjepa2 | videomae
    hidden_size: int
    num_layers: int  # of the published model; those after `select_layer` are not built
    num_heads: int
    intermediate_size: int
    patch_size: int  # pixels
    image_size: int  # pixels of the square that a frame is padded to
    tubelet_size: int = 1  # frames of one patch
    select_layer: int = -2  # whose output is used: -1 the last layer's, -2 that of the one before
    layer_scale: float = 1e-5  # internvideo2 from random weights: the first scale of every residual
    position_deviation: float | None = None  # the same: of random positions; None starts from sinusoids
    weights: str | None = None  # hub name, folder or file to start from; None: random

    def __post_init__(self) -> None:
        if self.kind not in TOWER_KINDS:
            raise ValueError(f"tower kind is one of {', '.join(TOWER_KINDS)}, not {self.kind!r}")
        if not -self.num_layers <= self.select_layer <= -1:
            raise ValueError(f"select_layer counts from the end, -1 to -{self.num_layers}, not {self.select_layer}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}")
        if self.kind == "internvideo2" and self.hidden_size % 16:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of 16, as positions in time and space need"
            )

    @property
    def num_built_layers(self) -> int:
        return self.num_layers + self.select_layer + 1


@dataclass(frozen=True)
class FusedEncoderConfig:
    """The towers of Apollo: `image` and `video`, or one of them alone (the ablation of Table 9)."""

    image: TowerConfig | None = None
    video: TowerConfig | None = None
    num_frames: int = 4  # of a clip; InternVideo2 was trained on 4 (C.1)
    encode_batch_size: int = 25  # clips that run through the towers at once (configuration of the release)

    def __post_init__(self) -> None:
        if not self.towers:
            raise ValueError("fused names no tower: give image, video or both")
        if self.num_frames < 1 or self.encode_batch_size < 1:
            raise ValueError("num_frames and encode_batch_size are at least 1")
        for name, tower in self.towers.items():
            if self.num_frames % tower.tubelet_size:
                raise ValueError(
                    f"{name}: num_frames {self.num_frames} is no multiple of tubelet_size {tower.tubelet_size}"
                )

    @property
    def towers(self) -> dict[str, TowerConfig]:
        """The towers that there are, in the order of their channels."""
        both = {"image": self.image, "video": self.video}
        return {name: tower for name, tower in both.items() if tower is not None}

    @property
    def width(self) -> int:
        """W."""
        return sum(tower.hidden_size for tower in self.towers.values())

    @property
    def image_size(self) -> int:
        """Pixels of the longer side of the frames that all towers are served from."""
        return max(tower.image_size for tower in self.towers.values())
