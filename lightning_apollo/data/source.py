"""Sources of a mixture: their settings, manifests and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_apollo.data.annotations.keys import REFUSE
from lightning_apollo.data.annotations.manifest import Manifest, manifest_names, open_manifest
from lightning_apollo.data.conversation import Conversation
from lightning_apollo.data.storage.protocols import check_form, local_or_url, shown
from lightning_apollo.data.storage.roots import MediaRoot, open_root
from lightning_apollo.structures import SAMPLE_MODALITIES


@dataclass(frozen=True)
class SourceConfig:
    """A named source of conversations, the unit of a mixture."""

    manifests: list[
        str
    ]  # files or patterns of them, relative to the working directory or else to `root`, or s3://... etc.
    root: str = "."  # what media paths start from and may not leave: a folder, s3://BUCKET/PREFIX etc. or shards/*.tar
    modality: str | None = None  # text | image | multi_image | video: what its rows show; a stage's `shares` needs it

    def __post_init__(self) -> None:
        if self.modality is not None and self.modality not in SAMPLE_MODALITIES:
            raise ValueError(f"modality is one of {', '.join(SAMPLE_MODALITIES)}, not {self.modality!r}")
        if not self.manifests:
            raise ValueError(f"a source needs at least one manifest (root {shown(self.root)})")
        for place in (self.root, *self.manifests):
            check_form(place)

    def open(
        self,
        name: str,
        outside_root: Sequence[str] = (),
        unknown_keys: str = REFUSE,
        protocols: Sequence[str] = (),
    ) -> Source:
        """The source under this name, its manifests indexed; ManifestError or StorageError where one is not there."""
        root = open_root(self.root, outside_root, protocols)
        patterns = (local_or_url(manifest, protocols) for manifest in self.manifests)
        names = (found for pattern in patterns for found in manifest_names(pattern, root))
        return Source(name, root, tuple(open_manifest(manifest, name, root, unknown_keys) for manifest in names))


@dataclass(frozen=True)
class Source:
    """The rows of a source: those of its manifests, one after the other."""

    name: str
    root: MediaRoot
    manifests: tuple[Manifest, ...]

    def __len__(self) -> int:
        return sum(len(manifest) for manifest in self.manifests)

    def __getitem__(self, row: int) -> Conversation:
        for manifest in self.manifests:
            if row < len(manifest):
                return manifest[row]
            row -= len(manifest)
        raise IndexError(f"source {self.name} has no such row")


def open_sources(
    configs: Mapping[str, SourceConfig],
    outside_root: Sequence[str],
    unknown_keys: str = REFUSE,
    protocols: Sequence[str] = (),
) -> list[Source]:
    """The sources of a recipe in its order, their manifests indexed."""
    return [config.open(name, outside_root, unknown_keys, protocols) for name, config in configs.items()]
