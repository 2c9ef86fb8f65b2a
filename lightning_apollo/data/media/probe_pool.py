"""Parallel probes in child processes. One that hangs or crashes costs its file and its deadline, not the run.

Not by the children of supervisor.py: their server waits for the end of one that it kills, so that a child that a dead disk
holds would stop all others. Here nobody waits for it.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from lightning_apollo.data.media import video as media
from lightning_apollo.data.media.fork_server import how_it_ended, start_fork_server
from lightning_apollo.data.media.media_facts import MediaKey, ProbeResult
from lightning_apollo.data.storage.address import file_state
from lightning_apollo.data.storage.own_stores import OwnStore, carried
from lightning_apollo.errors import FAULTS
from lightning_apollo.machine.video_libraries import VideoLibrariesError
from lightning_apollo.structures import MediaError, MediaInfo, Modality

Probe = Callable[[str, Modality], MediaInfo]

_ORPHAN_SECONDS = 5  # after its deadline a worker ends itself, so that none outlives a parent that was killed
# What takes long to import and every worker, being a fork, then has; none of ours: the server has not our sys.path
_PRELOADED = ["torch", "torchvision.transforms.v2.functional", "PIL.Image", "numpy"]
_CONTEXT = multiprocessing.get_context("forkserver")  # a fork of a process with threads may inherit a closed lock


def probe_all(
    keys: Iterable[MediaKey], jobs: int, deadline: float, probe: Probe = media.probe
) -> Iterator[tuple[MediaKey, ProbeResult]]:
    """The facts of every file, as they come in. `deadline` is in seconds, for one file.

    `jobs` processes probe, to which `probe` is pickled; 0 probes in this one, without a deadline. A
    VideoLibrariesError says that no video can be probed on this machine.
    """
    waiting = iter(keys)
    if jobs == 0:
        for key in waiting:
            yield key, _unless_hopeless(_facts(key, probe))
        return
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    start_fork_server()
    workers: list[_Worker] = []
    try:
        for _, key in zip(range(jobs), waiting, strict=False):
            workers.append(_Worker.start(probe, deadline, key))
        while workers:
            rest = max(0.0, min(worker.due for worker in workers) - time.monotonic())
            ready = wait([worker.connection for worker in workers], timeout=rest)
            now = time.monotonic()
            for place in [n for n, one in enumerate(workers) if one.connection in ready or one.due <= now]:
                worker = workers[place]
                yield worker.key, worker.take()
                following = next(waiting, None)
                if following is None:
                    worker.stop()
                    continue
                if worker.is_gone:
                    workers[place] = _Worker.start(probe, deadline, following)
                else:
                    worker.give(following)
            workers = [worker for worker in workers if not worker.is_gone]
    finally:
        for worker in workers:
            worker.stop()


@dataclass
class _Worker:
    """One process and the file that it has in hand."""

    process: BaseProcess
    connection: Connection
    deadline: float
    key: MediaKey
    due: float = 0.0  # time.monotonic() at which the file has cost too much
    is_gone: bool = False

    @classmethod
    def start(cls, probe: Probe, deadline: float, key: MediaKey) -> _Worker:
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_serve, args=(theirs, probe, deadline, carried()), daemon=True)
        process.start()
        theirs.close()
        ours.recv()  # it is ready: imports and the start of the process are not on a file's account
        worker = cls(process, ours, deadline, key)
        worker.give(key)
        return worker

    def give(self, key: MediaKey) -> None:
        self.key, self.due = key, time.monotonic() + self.deadline
        try:
            self.connection.send(key)
        except OSError:  # died between two files: `take` reads the end of its pipe
            return

    def take(self) -> ProbeResult:
        """The facts of the file in hand; those of a hang or a crash end the process."""
        reason = f"probing took more than {self.deadline:g} s"
        try:
            if self.connection.poll():
                return _unless_hopeless(self.connection.recv())
        except (EOFError, ConnectionError):
            self.process.join(1)
            if self.process.exitcode != -signal.SIGALRM:  # by which it ends itself where this process looks late
                reason = f"probing crashed ({how_it_ended(self.process.exitcode)})"
        self.stop()
        return ProbeResult(None, *file_state(self.key.path), reason)

    def stop(self) -> None:
        self.is_gone = True
        self.process.kill()  # and no join: a process that waits for a dead disk cannot even be killed
        self.connection.close()


def _unless_hopeless(answer: ProbeResult | VideoLibrariesError) -> ProbeResult:
    if isinstance(answer, VideoLibrariesError):
        raise answer
    return answer


def _serve(connection: Connection, probe: Probe, deadline: float, _: tuple[OwnStore, ...]) -> None:
    """Answer each file with its facts until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    connection.send("ready")
    while True:
        try:
            key = connection.recv()
            signal.setitimer(signal.ITIMER_REAL, deadline + _ORPHAN_SECONDS)
            answer = _facts(key, probe)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(answer)
        except (EOFError, ConnectionError):
            return


def _facts(key: MediaKey, probe: Probe) -> ProbeResult | VideoLibrariesError:
    state = file_state(key.path)
    try:
        return ProbeResult(probe(key.path, key.modality), *state)
    except MediaError as error:
        # What the store did today says nothing about the file: without its state it is looked at again next time
        return ProbeResult(None, *((-1, -1) if error.kind in FAULTS else state), error.reason)
    except VideoLibrariesError as error:
        return error
    except Exception as error:  # whatever else a reader of files trips over is a fact of the file
        return ProbeResult(None, *state, f"probing failed ({type(error).__name__}: {error})".replace("\n", " "))
