"""The loopback interface, over which tests talk to servers of their own."""

import fcntl
import socket
import struct
import sys
from contextlib import suppress

_GET_FLAGS, _SET_FLAGS, _IS_UP = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP


def bring_up() -> None:
    """Start the loopback of a new network namespace (`unshare -rn`), where even that is down and we may do so."""
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        name, flags = struct.unpack("16sh", fcntl.ioctl(control, _GET_FLAGS, struct.pack("16sh", b"lo", 0)))
        if not flags & _IS_UP:
            fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh", name, flags | _IS_UP))
