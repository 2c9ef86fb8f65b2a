"""Early check of data before anything is written for them."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.data.plan.order import TooFewSamples
from lightning_apollo.data.source import Source
from lightning_apollo.data.storage.address import file_state, frame_list, open_address, title_of
from lightning_apollo.data.storage.roots import part_address
from lightning_apollo.errors import MISSING, MediaError

_MAX_ROWS = 32  # looked at in each source, spread over all of it


def require_rows(sources: Sequence[Source]) -> None:
    """TooFewSamples where no source has a row."""
    if not any(map(len, sources)):
        manifests = [manifest.address for source in sources for manifest in source.manifests]
        raise TooFewSamples(f"{', '.join(manifests)}: no rows: name manifests that have some")


def require_media(source: Source) -> None:
    """UserError where none of the rows that are looked at can be used, as behind a wrong root; no file is opened."""
    problem: ManifestError | MediaError | None = None
    for row in range(0, len(source), -(-len(source) // _MAX_ROWS) or 1):
        try:
            parts = source[row].media
        except ManifestError as error:
            problem = problem or error
            continue
        missing = [part for part in parts if min(file_state(part_address(source.root, part))) < 0]
        if not missing:
            return
        problem = problem or _why(part_address(source.root, missing[0]), source.name)
    if problem is not None:
        raise problem


def _why(address: str, source: str) -> MediaError:
    """Reason why media have no state."""
    pictures = frame_list(address)
    try:
        for one in pictures.addresses if pictures else (address,):
            open_address(one).close()
    except MediaError as error:
        if error.kind not in ("", MISSING):  # a store says what is to be done
            return error
    return MediaError(
        title_of(address), f"no such file, nor those of the other rows of source {source}: correct its root"
    )
