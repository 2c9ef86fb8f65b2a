"""Fingerprint of a stage (settings, data and start weights), compared with an earlier training.

Values count, and not how or where they are written: docs/runs.md says what makes another training and what does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.data_digest import digests_of_data
from lightning_apollo.runs.settings import default_at, settings_of
from lightning_apollo.runs.start_weights import digest_of_start


@dataclass(frozen=True)
class Origin:
    """Everything the weights of a stage depend on."""

    settings: Mapping[str, Any]  # dotted key -> value, without what changes no weights and without defaults
    data: Mapping[str, str]  # source -> digest of its manifests; source/media -> of sizes, durations and frame counts
    start: str | None  # digest of the start weights' content; None: random ones

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Origin:
        return cls(dict(tree["settings"]), dict(tree["data"]), tree["start"])


def read_origin(recipe: Recipe, stage: str) -> Origin:
    """Fingerprint of the stage as it would be trained now; a UserError says which data or start weights are not there.

    Nothing is written but notes in the cache folder.
    """
    start = digest_of_start(recipe, stage)
    return Origin(settings_of(recipe, stage), digests_of_data(recipe, stage), start)


def differences(before: Origin, now: Origin) -> list[str]:
    """Differences in the words of a recipe: "seed was 0 and is 1", "data of source x changed"; nothing where equal."""
    changed = [
        f"{key} was {_shown(before.settings, key)} and is {_shown(now.settings, key)}"
        for key in {**before.settings, **now.settings}
        if before.settings.get(key) != now.settings.get(key)
    ]
    for name in before.data.keys() & now.data.keys():  # a source that came or went shows in the settings
        if before.data[name] != now.data[name]:
            source, _, is_media = name.partition("/")
            changed.append(f"{'media' if is_media else 'data'} of source {source} changed")
    if before.start != now.start:
        changed.append("the start weights changed")
    return changed


def _shown(settings: Mapping[str, Any], key: str) -> str:
    value = settings.get(key, default_at(key))
    return "not given" if value is None else str(value)
