"""Digests of the data of a stage: bytes of the manifests, sizes and durations of the media.

No pixel is hashed. The facts of a source's media lie in the cache folder, so that a later call asks each file for its size
and time of change alone, and opens those that are others now.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_apollo.data.annotations.manifest import ManifestError, manifest_names
from lightning_apollo.data.config import DataConfig, SourceConfig
from lightning_apollo.data.datamodule import build_reader
from lightning_apollo.data.media import video as media
from lightning_apollo.data.media.probe_pool import MediaKey, probe_all
from lightning_apollo.data.shapes import dataset as shapes
from lightning_apollo.data.source import Source, open_source
from lightning_apollo.data.storage.address import EmbeddedAddress, cache_folder, file_state
from lightning_apollo.data.storage.roots import FolderRoot
from lightning_apollo.files import write_atomically
from lightning_apollo.progress import CheckProgress, no_check_progress, preparation_progress
from lightning_apollo.recipe.schema import Recipe, RecipeError
from lightning_apollo.runs.file_digest import one_at_a_time
from lightning_apollo.structures import Modality

_FORMAT_VERSION = 1
_STAT_THREADS = 16
_MANY_VIDEOS = 256  # more are probed by several processes
_MANY_ROWS = 50_000  # reading more, or probing many videos, takes long enough to be shown

logger = logging.getLogger(__name__)


def digests_of_data(recipe: Recipe, stage: str) -> dict[str, str]:
    """Digests of each source that the stage draws from: of its manifests, and behind "/media" of its media.

    ManifestError or StorageError where a source cannot be opened. A media file that is missing or broken is a fact like
    others. The built-in set counts by its rows and its settings, rendered or not.
    """
    data, config = recipe.data, recipe.stages[stage]
    digests: dict[str, str] = {}
    for name, source in data.sources.items():
        if not config.mixture.get(name):
            continue
        if data.shapes is not None and os.path.realpath(source.root) == os.path.realpath(data.root):
            digests[name] = _digest_of_shapes(data.shapes, Path(data.root), source)
            continue
        opened = open_source(name, source, data.outside_root, data.unknown_keys, data.storage.protocols)
        manifests: list[Any] = [manifest.content_digest() for manifest in opened.manifests]
        if data.visuals == "single_frame":  # the frame of a row is drawn by its name
            manifests += [manifest.name for manifest in opened.manifests]
        if data.visuals != "blind":
            facts = _facts_of_source(opened, data, recipe.trainer.progress_bar)
            digests[f"{name}/media"] = _hash({path: one.counted for path, one in facts.media.items()})
            if config.packing is not None:  # which leaves refused rows out, where other stages stop
                manifests += [facts.refused]
        digests[name] = _hash(manifests)
    return digests


def _digest_of_shapes(config: shapes.ShapesConfig, root: Path, source: SourceConfig) -> str:
    shapes.check_holds(config, root)
    names = [name for pattern in source.manifests for name in manifest_names(pattern, FolderRoot(str(root)))]
    rows = [_rows_of_shapes(config, root, name) for name in names]
    version = [shapes.FORMAT_VERSION, {**asdict(config), "num_held_out": None}]  # which no stage trains on
    return _hash([version, *(hashlib.sha256(text).hexdigest() for text in rows)])


def _rows_of_shapes(config: shapes.ShapesConfig, root: Path, name: str) -> bytes:
    """The bytes of an annotation file of the set, rendered or not, or of one written about its media."""
    file = next((file for file in (Path(name), root / name) if file.is_file()), None)
    return shapes.manifest_text(config, Path(name).name).encode() if file is None else file.read_bytes()


@dataclass
class _Medium:
    """Known facts of a file: its state (storage/address.py), and of a video seconds and frames, where it can be read."""

    modality: Modality
    size: int  # bytes; -1: no such file
    changed: int
    seconds: float | None = None
    frames: int | None = None

    @property
    def counted(self) -> list[Any]:
        return [self.modality, self.size, self.seconds, self.frames]


@dataclass
class _Facts:
    """The files that the rows of a source name, by that name, and the rows that cannot be used: manifest and row in it."""

    media: dict[str, _Medium]
    refused: list[tuple[int, int]]


def _facts_of_source(source: Source, data: DataConfig, shows_progress: bool) -> _Facts:
    """As the files are now. What is new is kept for the next call with the same manifests and places."""
    contents = [manifest.content_digest() for manifest in source.manifests]
    places = [os.getcwd(), str(getattr(source.root, "root", "")), *data.outside_root, data.unknown_keys]
    cache = cache_folder() / f"media-{_hash([_FORMAT_VERSION, contents, places])}.json"
    with one_at_a_time(cache.name):
        facts = _read_facts(cache)
        is_new = facts is None
        if facts is None:
            with _progress(shows_progress and len(source) > _MANY_ROWS) as report:
                facts = _read_rows(source, report)
        changed = _refresh(source, facts.media)
        _require_root(source, facts)
        videos = [name for name in changed if facts.media[name].modality == "video" and facts.media[name].size >= 0]
        with _progress(shows_progress and len(videos) > _MANY_VIDEOS) as report:
            _probe(source, {name: facts.media[name] for name in videos}, data, report)
        if changed or is_new:
            _keep_facts(cache, facts)
    return facts


def _read_rows(source: Source, report: CheckProgress) -> _Facts:
    """Media that the rows name; media inside a row are part of the manifest."""
    facts = _Facts({}, [])
    done, total = 0, len(source)
    for number, manifest in enumerate(source.manifests):
        for row in range(len(manifest)):
            try:
                parts = manifest[row].media
            except ManifestError:
                parts = manifest.media(row)
                facts.refused.append((number, row))
            for part in parts:
                modality: Modality = "image" if part.frame_paths else part.modality
                for path in part.frame_paths or (part.path,):
                    if not isinstance(path, EmbeddedAddress):
                        facts.media[path] = _Medium(modality, -1, -1)
            done += 1
            if done % 1024 == 0 or done == total:
                report("rows", done, total, len(facts.refused))
    return facts


def _refresh(source: Source, media_of_source: dict[str, _Medium]) -> list[str]:
    """Bring sizes and times of change up to date; the names of those files that are others now."""
    changed = []
    with ThreadPoolExecutor(_STAT_THREADS) as pool:  # a disk on the network answers many at a time
        states = pool.map(file_state, map(source.root.address, media_of_source))
        for (name, before), state in zip(media_of_source.items(), states, strict=True):
            if state != (before.size, before.changed):
                media_of_source[name] = _Medium(before.modality, *state)
                changed.append(name)
    return changed


def _require_root(source: Source, facts: _Facts) -> None:
    """RecipeError where not one file is there, because their folder is not."""
    if not isinstance(source.root, FolderRoot) or Path(source.root.root).is_dir() or not facts.media:
        return
    if all(one.size < 0 for one in facts.media.values()):
        raise RecipeError(f"{source.root.root}: no such folder for the media of source {source.name}: correct the root")


def _probe(source: Source, videos: dict[str, _Medium], data: DataConfig, report: CheckProgress) -> None:
    """Fill in seconds and frames; what hangs or crashes costs its file alone, as data.supervision has it."""
    named = {MediaKey(source.root.address(name), "video"): one for name, one in videos.items()}
    deadline = 0.0 if data.supervision is None else data.supervision.deadline_seconds
    if len(videos) > _MANY_VIDEOS and data.supervision is not None:
        found = probe_all(named, len(os.sched_getaffinity(0)), deadline, media.probe)
    else:
        found = probe_all(named, 0, deadline, build_reader(data).probe)
    num_errors = 0
    for done, (key, one) in enumerate(found, start=1):
        if one.info is None:
            num_errors += 1
        else:
            named[key].seconds, named[key].frames = one.info.duration_seconds, one.info.num_frames
        report("videos", done, len(videos), num_errors)


def _read_facts(cache: Path) -> _Facts | None:
    if not cache.is_file():
        return None
    kept = json.loads(cache.read_text())
    refused = [(number, row) for number, row in kept["refused"]]
    return _Facts({name: _Medium(*values) for name, values in kept["media"].items()}, refused)


def _keep_facts(cache: Path, facts: _Facts) -> None:
    kept = {"refused": facts.refused, "media": {name: [*vars(one).values()] for name, one in facts.media.items()}}
    try:
        with write_atomically(cache) as partial:
            partial.write_text(json.dumps(kept))
    except OSError as error:
        logger.warning("%s: facts of media are not kept (%s): they are read again next time", cache, error.strerror)


def _progress(is_shown: bool) -> AbstractContextManager[CheckProgress]:
    return preparation_progress() if is_shown else nullcontext(no_check_progress)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
