"""Agreement of all ranks on their environment, before training.

    rank 0          "root": a file beside the stages ──> the others look for it
    every rank      "facts/RANK": host, what it sees, or why it cannot continue
    rank 0          compares ──> "verdict": empty, or the line with which all ranks end

Over a key-value store of torch.distributed: torchrun's, or one that rank 0 opens at the address which Lightning will use.
Ranks that Lightning starts itself are forks of one command on one machine and are not asked.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from uuid import uuid4

from torch.distributed import DistError, PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from lightning_apollo.errors import UserError
from lightning_apollo.training.processes.launch import Rank, launched

Facts = Mapping[str, str]  # what a rank sees, by what it is

NAMED_SECONDS = 20.0  # after which ranks that have not come are named
LATE_SECONDS = 300.0  # after which the others end without them: imports from a busy disk take minutes
_ROOT_SECONDS = 10.0  # for a file to be seen on other machines, whose view of a folder may be cached
_READ_SECONDS = 5.0  # for all ranks to read the verdict before the store goes with rank 0
_POLL_SECONDS = 0.05
_MAX_SHOWN = 4  # differences in one line

logger = logging.getLogger(__name__)


class RanksDisagree(UserError):
    """Ranks that would not train the same; the message names one of them."""


def agreed_facts(see: Callable[[], Facts], output: Path) -> Facts:
    """Facts of rank 0, where every rank sees the same.

    see: looks at this rank's disk; its UserError ends all ranks. output: folder of the run, which all must share.
    RanksDisagree names rank, host and what differs; of the ranks on a machine the first says it, and the others leave with the
    same code 2. Ranks that are late are named in a warning, and after LATE_SECONDS in an error.
    """
    me = launched()
    if me is None:
        return see()
    store = _open_store(me)
    with _root(me, store, output) as problem:
        facts: dict[str, str] = {}
        if problem is None:
            try:
                facts = dict(see())
            except UserError as error:
                problem = str(error)
        verdict = _hear_verdict(store, me, facts, problem or "", output)
    _conclude(store, me, verdict)
    return facts


def tell(error: UserError) -> None:
    """End all ranks with an error that this rank has found before they agreed; return where they have agreed already."""
    me = launched()
    if me is None or isinstance(error, RanksDisagree) or _open_store.cache_info().currsize:
        return
    store = _open_store(me)
    if me.rank == 0:
        store.set("root", "")  # which the others wait for
    _conclude(store, me, _hear_verdict(store, me, {}, str(error), Path()))


@cache  # kept open: Lightning's process group uses the same server on rank 0
def _open_store(me: Rank) -> Store:
    try:
        store = TCPStore(
            me.address,
            me.port,
            is_master=me.rank == 0 and not me.is_stored_by_agent,
            timeout=timedelta(seconds=LATE_SECONDS),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except DistError as error:
        raise RanksDisagree(
            f"rank {me.rank} ({socket.gethostname()}) does not reach rank 0 at {me.address}:{me.port}: see that it runs, "
            "and that no firewall is between them"
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"lightning_apollo/{attempt}", store)
    store.set(f"host/{me.rank}", socket.gethostname())
    return store


@contextmanager
def _root(me: Rank, store: Store, output: Path) -> Iterator[str | None]:
    """Yield why this rank does not see the folder that rank 0 writes, None where it does; rank 0 puts a file there to find."""
    if me.rank > 0:
        name = _wait(store, "root", f"rank 0 at {me.address}")
        is_seen = not name or _appears(output / name)
        yield None if is_seen else f"does not see what rank 0 writes: its output is {output.absolute()}"
        return
    path, problem = output / f".ranks-{uuid4().hex}", None
    try:
        output.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        problem = f"{output}: cannot be written ({error.strerror}): name another folder with output="
    store.set("root", "" if problem else path.name)
    try:
        yield problem
    finally:
        path.unlink(missing_ok=True)


def _appears(path: Path) -> bool:
    due = time.monotonic() + _ROOT_SECONDS
    while not path.exists():
        if time.monotonic() > due:
            return False
        with suppress(OSError):
            os.listdir(path.parent)  # lets NFS look again
        time.sleep(_POLL_SECONDS)
    return True


def _hear_verdict(store: Store, me: Rank, facts: Facts, problem: str, output: Path) -> str:
    """The line with which all ranks end, empty where they may train, once this one has said what it sees."""
    seen = {"facts": facts, "problem": problem, "output": str(output.absolute())}
    store.set(f"facts/{me.rank}", json.dumps(seen))
    if me.rank > 0:
        return _wait(store, "verdict", f"rank 0 at {me.address}")
    verdict = _judge(store, me)
    store.set("verdict", verdict)
    return verdict


def _judge(store: Store, me: Rank) -> str:
    """Compare what all ranks have said; on rank 0."""
    begun, is_said, waiting = time.monotonic(), False, list(range(me.world_size))
    while waiting := [rank for rank in waiting if not store.check([f"facts/{rank}"])]:
        waited = time.monotonic() - begun
        late = f"{', '.join(_name(store, rank) for rank in waiting)} not ready after {waited:.0f} s"
        if waited > LATE_SECONDS:
            return f"{late}: look at what they say, and start all again"
        if waited > NAMED_SECONDS and not is_said:
            logger.warning("%s; the other ranks wait %.0f s", late, LATE_SECONDS)
            is_said = True
        time.sleep(_POLL_SECONDS)
    ranks = range(me.world_size)
    hosts = [store.get(f"host/{rank}").decode() for rank in ranks]
    return disagreement([json.loads(store.get(f"facts/{rank}")) for rank in ranks], hosts)


def disagreement(seen: Sequence[Mapping[str, object]], hosts: Sequence[str]) -> str:
    """The line about the first rank that does not see what rank 0 sees; empty where all do.

    seen: of each rank its `facts`, its `problem` in words or "", and its `output`.
    """
    first = seen[0]
    if first["problem"]:
        return str(first["problem"])
    for rank, other in enumerate(seen):
        name = f"rank {rank} ({hosts[rank]})"
        if str(other["problem"]).startswith("does not see"):
            return (
                f"{name} {other['problem']}, that of rank 0 ({hosts[0]}) {first['output']}: set output= to a folder that all "
                "machines share, the same on every rank"
            )
        if other["problem"]:
            return f"{name}: {other['problem']}"
        differing = _differences(first["facts"], other["facts"])
        if differing:
            more = f" and {len(differing) - _MAX_SHOWN} more" if len(differing) > _MAX_SHOWN else ""
            return (
                f"{name} does not see what rank 0 ({hosts[0]}) sees: {', '.join(differing[:_MAX_SHOWN])}{more}: start all ranks "
                "with the same recipe, on the same data and output"
            )
    return ""


def _differences(first: object, other: object) -> list[str]:
    assert isinstance(first, Mapping)
    assert isinstance(other, Mapping)
    keys = {**first, **other}
    return [
        f"{key} is {other.get(key, 'not given')} instead of {first.get(key, 'not given')}"
        for key in keys
        if first.get(key) != other.get(key)
    ]


def _name(store: Store, rank: int) -> str:
    """A late rank, with its host where it has begun."""
    host = f" ({store.get(f'host/{rank}').decode()})" if store.check([f"host/{rank}"]) else ""
    return f"rank {rank}{host}"


def _wait(store: Store, key: str, whom: str) -> str:
    """The value once it is there; polled, so that signals are answered meanwhile."""
    due = time.monotonic() + LATE_SECONDS + _ROOT_SECONDS
    try:
        while not store.check([key]):
            if time.monotonic() > due:
                raise RanksDisagree(f"{whom} has said nothing for {LATE_SECONDS:.0f} s: look at what it says")
            time.sleep(_POLL_SECONDS)
        return store.get(key).decode()
    except DistError as error:
        raise RanksDisagree(f"{whom} has ended: look at what it says") from error


def _conclude(store: Store, me: Rank, verdict: str) -> None:
    """End where there is a verdict; rank 0 once all have read it."""
    with suppress(DistError):  # rank 0, where the store lies, has waited for the others and has ended
        store.set(f"read/{me.rank}", "")
        due = time.monotonic() + _READ_SECONDS
        while me.rank == 0 and time.monotonic() < due:
            if store.check([f"read/{rank}" for rank in range(me.world_size)]):
                break
            time.sleep(_POLL_SECONDS)
    if verdict and me.local_rank == 0:
        raise RanksDisagree(verdict)
    if verdict:
        time.sleep(1.0)  # launchers kill the others once one has left: the first has said it by then
        raise SystemExit(2)
