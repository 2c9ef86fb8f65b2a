"""Sources of a mixture: their settings, manifests and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_apollo.data.annotations.keys import REFUSE
from lightning_apollo.data.annotations.manifest import Manifest, manifest_names, open_manifest
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.conversation import Conversation
from lightning_apollo.data.storage.protocols import local_or_url
from lightning_apollo.data.storage.roots import MediaRoot, open_root


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


def open_source(
    name: str,
    config: SourceConfig,
    outside_root: Sequence[str] = (),
    unknown_keys: str = REFUSE,
    protocols: Sequence[str] = (),
) -> Source:
    """The source under this name, its manifests indexed; ManifestError or StorageError where one is not there."""
    root = open_root(config.root, outside_root, protocols)
    patterns = (local_or_url(manifest, protocols) for manifest in config.manifests)
    names = (found for pattern in patterns for found in manifest_names(pattern, root))
    return Source(name, root, tuple(open_manifest(manifest, name, root, unknown_keys) for manifest in names))


def open_sources(
    configs: Mapping[str, SourceConfig],
    outside_root: Sequence[str],
    unknown_keys: str = REFUSE,
    protocols: Sequence[str] = (),
) -> list[Source]:
    """The sources of a recipe in its order, their manifests indexed."""
    return [open_source(name, config, outside_root, unknown_keys, protocols) for name, config in configs.items()]
