"""Machine faults as one line with the fix. Full disks, missing permissions, ports, memory."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

_ROOM = "make room there, or write elsewhere"
_NAMED = {  # of errors that name a file
    errno.EACCES: "no permission: change it with chmod or chown, or name another place",
    errno.EPERM: "not permitted by the system: name another place",
    errno.EROFS: "on a disk that is read-only: write elsewhere, for example output=FOLDER",
    errno.ENAMETOOLONG: "a name longer than the disk allows: shorten it",
    errno.ENOTDIR: "a file lies where a folder is wanted: name another place, or move the file away",
    errno.EEXIST: "a file lies where a folder is wanted: name another place, or move the file away",
    errno.EISDIR: "a folder lies where a file is wanted: name another file",
    errno.ELOOP: "symbolic links that lead in a circle: correct them",
    errno.EIO: "the disk reports an error: look at it with dmesg, or use another",
    errno.ESTALE: "the network disk has lost the file: mount it again",
}
_PLAIN = {  # of those too that name none
    errno.ENOSPC: f"no space left on the disk: {_ROOM}",
    errno.EDQUOT: f"the quota of the disk is used up: {_ROOM}",
    errno.EMFILE: "too many open files: raise the limit with `ulimit -n 65536`",
    errno.ENFILE: "too many open files on this machine: end other programs",
    errno.ENOMEM: "no memory left: lower the batch or data.num_workers",
}
_SAID = {  # pattern in the message of a library's error -> line
    r"port: (\d+).*EADDRINUSE": "port {0} is taken: set MASTER_PORT to a free one",
    r"killed by signal: Bus error|shared memory object.*No space left": "the loader's workers have no shared memory left: "
    "give /dev/shm more (docker run --shm-size=8g), or set data.num_workers=0",
    r"DataLoader worker .* killed by signal: Killed": "a loader worker was killed, most often for want of memory: lower "
    "data.num_workers",
    r"CUDA out of memory": "the GPU's memory is full: lower micro_batch_size or packing.max_llm_tokens, or set "
    "activation_checkpointing=true or trainer.strategy=fsdp",
    r"DefaultCPUAllocator: can't allocate memory|not enough memory: you tried to allocate": "no memory left: lower the batch",
}


def fault_of_machine(error: BaseException) -> str | None:
    """One line for an error that this machine is to blame for; None for any other, which may be a mistake of ours."""
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror):
        return _of_number(error.errno, error.filename)
    said = str(error)
    if type(error).__name__ == "SafetensorError":
        number = re.search(r"\(os error (\d+)\)", said)
        return _of_number(int(number[1]), None) if number else None
    if isinstance(error, MemoryError):
        return _PLAIN[errno.ENOMEM]
    if isinstance(error, RuntimeError):  # of torch
        if isinstance(error.__cause__, RuntimeError):  # how a loader worker ended
            said = f"{error.__cause__}\n{said}"
        for pattern, line in _SAID.items():
            if found := re.search(pattern, said, re.DOTALL):
                return line.format(*found.groups())
    return None


def _of_number(number: int | None, name: str | bytes | int | None) -> str | None:
    if number in _PLAIN:
        place = os.fsdecode(name) if isinstance(name, str | bytes) else ""
        if not place and number == errno.ENOSPC:
            place = ", ".join(_full_disks())
        return f"{place}: {_PLAIN[number]}" if place else _PLAIN[number]
    if number not in _NAMED or not isinstance(name, str | bytes):
        return None
    if number == errno.EEXIST and Path(os.fsdecode(name)).is_dir():
        return None
    return f"{os.fsdecode(name)}: {_NAMED[number]}"


def _full_disks() -> Iterator[str]:
    """Mount points of writable disks that have no block or no inode left. Linux alone lists them."""
    mounts = Path("/proc/self/mounts")
    for line in mounts.read_text().splitlines() if mounts.is_file() else ():
        place = line.split()[1].encode().decode("unicode_escape")  # \040 is a space
        try:
            disk = os.statvfs(place)
        except OSError:  # a mount of another user's
            continue
        is_written = disk.f_blocks and not disk.f_flag & os.ST_RDONLY
        if is_written and (disk.f_bavail == 0 or (disk.f_files and disk.f_favail == 0)):
            yield place
