"""A line to a server of this machine that counts what the server sends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class CountingProxy:
    def __init__(self, server_port: int) -> None:
        self.num_bytes = 0  # from the server
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):  # wakes the thread that waits in `accept`
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            asking = threading.Thread(target=self._pass_on, args=(client, server, False), daemon=True)
            asking.start()
            self._pass_on(server, client, is_counted=True)
            with suppress(OSError):  # wakes the other thread
                client.shutdown(socket.SHUT_RDWR)
            asking.join()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_counted: bool) -> None:
        with suppress(OSError):  # one end has hung up
            while content := source.recv(2**16):
                if is_counted:
                    with self._lock:
                        self.num_bytes += len(content)
                target.sendall(content)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def counting_proxy(server_port: int) -> Iterator[CountingProxy]:
    proxy = CountingProxy(server_port)
    try:
        yield proxy
    finally:
        proxy.close()
