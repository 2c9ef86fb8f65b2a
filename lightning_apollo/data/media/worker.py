"""Processes below a SupervisedReader: a server that has imported everything and its decoding forks.

    loader process ── a socket to be served, or a process to end ──> fork_on_request
                   └─ requests and answers ────────────────────────> serve, in a fork of it

Requests and answers are pickled messages. The pixels of an answer follow as a memory file (memfd) of their own, which
the other end maps and no disk, no /dev/shm and no clean-up knows of: it goes with the last process that holds it.
"""

from __future__ import annotations

import math
import os
import pickle
import resource
import signal
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any, NoReturn

import torch

from lightning_apollo.data.media.reader import MediaReader
from lightning_apollo.machine.video_libraries import VideoLibrariesError, load_torchcodec
from lightning_apollo.structures import Frames, MediaError, MediaInfo

WorkerAnswer = MediaInfo | Frames | Exception | None  # None: ready for the first request

_ORPHAN_SECONDS = 5  # after its deadline the process ends itself, should nobody be left to do it


def fork_on_request(socket: int) -> None:
    """Answer None and a handle with the id of a fork that serves it, and such an id with the exit code of its end.

    Where the other end is closed, as it is when its process is killed, the forks end too, whatever they do.
    """
    with suppress(VideoLibrariesError):  # a reader will say so
        load_torchcodec()  # the forks have it then
    control = Connection(socket)
    processes: set[int] = set()
    while True:
        try:
            process = control.recv()
        except (EOFError, ConnectionError):
            break
        if process is None:
            handle = recv_handle(control)
            process = os.fork()
            if process == 0:
                control.close()
                _serve_and_exit(Connection(handle))
            os.close(handle)
            processes.add(process)
            control.send(process)
        else:
            os.kill(process, signal.SIGKILL)  # one that crashed keeps the exit code that it has
            control.send(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
            processes.remove(process)
    for process in processes:
        os.kill(process, signal.SIGKILL)


def serve_requests(connection: Connection) -> None:
    """Answers until the other end is closed, with the reader that the first message brings."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected: no memory image of each on the disk
    Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this process goes before the training
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        reader, deadline_seconds, num_threads, folder, _ = pickle.loads(connection.recv_bytes())
        with suppress(OSError):  # a folder that is gone: absolute paths are read all the same
            os.chdir(folder)
        torch.set_num_threads(num_threads)
        send_answer(connection, None)
        while True:
            method, *arguments = pickle.loads(connection.recv_bytes())
            signal.setitimer(signal.ITIMER_REAL, deadline_seconds + _ORPHAN_SECONDS)
            answer = _answer(reader, method, arguments)
            signal.setitimer(signal.ITIMER_REAL, 0)
            send_answer(connection, answer)
    except (EOFError, ConnectionError):
        return


def send_answer(connection: Connection, answer: WorkerAnswer) -> None:
    """Send a message, and the memory file of its pixels after it."""
    if not isinstance(answer, Frames):
        connection.send_bytes(pickle.dumps(answer))
        return
    with open(os.memfd_create("decoded_frames"), "wb") as memory:
        answer.pixels.contiguous().numpy().tofile(memory)
        connection.send_bytes(pickle.dumps((answer.pixels.shape, answer.pts_seconds.numpy())))
        send_handle(connection, memory.fileno(), 0)  # the last, the receiving process, is asked for on Windows alone


def receive_answer(connection: Connection) -> WorkerAnswer:
    """The next answer. The memory of its pixels is theirs alone, and free when the last tensor on it is."""
    answer = pickle.loads(connection.recv_bytes())
    if not isinstance(answer, tuple):
        return answer
    shape, pts_seconds = answer
    with open(recv_handle(connection), "rb") as memory:
        name = f"/proc/self/fd/{memory.fileno()}"
        pixels = torch.from_file(name, shared=True, size=math.prod(shape), dtype=torch.uint8)
    return Frames(pixels.view(shape), torch.from_numpy(pts_seconds))


def _serve_and_exit(connection: Connection) -> NoReturn:
    exit_code = 1
    try:
        serve_requests(connection)
        exit_code = 0
    except BaseException:  # a fork may not continue in the loop of what it was forked from
        traceback.print_exc()
    finally:
        os._exit(exit_code)


def _answer(reader: MediaReader, method: str, arguments: list[Any]) -> WorkerAnswer:
    try:
        if method == "probe":
            return reader.probe(*arguments)
        info, timestamps, *how = arguments
        return reader.decode(info, torch.from_numpy(timestamps), *how)
    except (MediaError, ValueError, VideoLibrariesError) as error:
        return error
    except Exception as error:  # whatever else a reader of files trips over is a fact of the file
        address = arguments[0] if method == "probe" else arguments[0].path
        return MediaError(address, f"{method} failed ({type(error).__name__}: {error})".replace("\n", " "))
