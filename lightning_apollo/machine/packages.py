"""Requirements of the installed package and the command that installs them, without a checkout."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement

DISTRIBUTION = "lightning-apollo"


def requirements(extra: str = "") -> list[Requirement]:
    """Packages that this one needs on this machine, or those that an extra adds.

    Raises importlib.metadata.PackageNotFoundError where this package is not installed.
    """
    declared = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    needed = [need for need in declared if need.marker is None or need.marker.evaluate({"extra": extra})]
    return [need for need in needed if not extra or (need.marker is not None and "extra" in str(need.marker))]


def install_command(*needs: Requirement) -> str:
    return " ".join(["pip install", *(f"'{need.name}{need.specifier}'" for need in needs)])


def extra_command(extra: str) -> str:
    """Command that brings an extra. It names the packages, as no index has this one."""
    try:
        needs = requirements(extra)
    except metadata.PackageNotFoundError:
        needs = []
    return install_command(*needs) if needs else f"pip install -e '.[{extra}]' in the checkout"
