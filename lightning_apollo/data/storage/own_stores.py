"""Registration of a user's own stores in the processes that a run starts."""

from __future__ import annotations

from dataclasses import dataclass

_carried: dict[str, OwnStore] = {}


@dataclass(frozen=True)
class OwnStore:
    """A protocol and its class. Where it is unpickled, fsspec knows the protocol from then on."""

    protocol: str
    implementation: str  # the module of the class, and its name

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return carry, (self.protocol, self.implementation)


def carry(protocol: str, implementation: str) -> OwnStore:
    """Register the class in this process, unless the protocol is known, and in those that are handed `carried()`."""
    from fsspec.registry import known_implementations, register_implementation, registry

    if protocol not in known_implementations and protocol not in registry:
        register_implementation(protocol, implementation)
    return _carried.setdefault(protocol, OwnStore(protocol, implementation))


def carried() -> tuple[OwnStore, ...]:
    """The stores of users that this process has opened; processes that read for it are given them."""
    return tuple(_carried.values())
