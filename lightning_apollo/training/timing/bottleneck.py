"""Bottleneck of a stage, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

WAIT, TRANSFER, VISION, CONNECTOR, LLM, BACKWARD, OPTIMIZER, COMMUNICATION, OTHER = PARTS = (
    *("wait", "transfer", "vision", "connector", "llm"),
    *("backward", "optimizer", "communication", "other"),
)
# What a stage is bound by -> the parts that make it up
BOUNDS = {
    "data": (WAIT, TRANSFER),
    "compute": (VISION, CONNECTOR, LLM, BACKWARD, OPTIMIZER),
    "communication": (COMMUNICATION,),
    "overhead": (OTHER,),
}


class DataSeconds(NamedTuple):
    """Seconds that batches have cost where they were made: in loader processes, or in the training process."""

    prepare: float  # in all
    decode: float  # of these in probes and decodes


@dataclass(frozen=True)
class Account:
    """Time of one rank by part, and its work in that time."""

    seconds: Mapping[str, float]  # for each of PARTS
    data: DataSeconds
    num_tokens: float  # through the LLM
    num_samples: float
    flops: float = 0.0

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


def bottleneck(accounts: Sequence[Account], peak_flops: float | None) -> str:
    """One line about a stage: what bounds it, tokens and samples a second over all ranks, and MFU where a peak is known.

    accounts: one of each rank. The rank that waits least for the others is the one that they wait for, and so the one
    that is told about.
    """
    slowest = min(range(len(accounts)), key=lambda rank: accounts[rank].seconds[COMMUNICATION])
    own = accounts[slowest]
    shares = {name: sum(own.seconds[part] for part in parts) / own.total_seconds for name, parts in BOUNDS.items()}
    bound = max(shares, key=lambda name: shares[name])
    line = f"{bound}-bound {100 * shares[bound]:.0f} %: {_detail(bound, own)}"
    if len(accounts) > 1:
        line += f" (rank {slowest}, which the others wait for)"
    seconds = max(account.total_seconds for account in accounts)
    rates = [
        f"{sum(account.num_tokens for account in accounts) / seconds:,.0f} tokens/s",
        f"{sum(account.num_samples for account in accounts) / seconds:,.1f} samples/s",
    ]
    if peak_flops is not None:
        reached = sum(account.flops for account in accounts) / seconds
        rates.append(f"MFU {100 * reached / (peak_flops * len(accounts)):.1f} %")
    return f"{line} · {', '.join(rates)}"


def _detail(bound: str, account: Account) -> str:
    if bound == "data":
        return _slow_data(account)
    if bound == "compute":
        return max(BOUNDS["compute"], key=lambda part: account.seconds[part])
    return {"communication": "other ranks and their gradients", "overhead": "logging, checkpoints and callbacks"}[bound]


def _slow_data(account: Account) -> str:
    wait, data = account.seconds[WAIT], account.data
    if account.seconds[TRANSFER] > wait:
        return "transfer to the device"
    if data.prepare < wait / 2:  # batches were ready long before they arrived
        return "loader processes and their queue"
    return "decode" if data.decode >= data.prepare / 2 else "preprocessing behind decode"
