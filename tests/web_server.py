"""A web server on this machine that gives a folder's files, with faults on request."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from fsspec.implementations.http import HTTPFileSystem


@dataclass
class WebServer:
    """Behaviour of the server and what it was asked for."""

    folder: Path
    has_ranges: bool = True
    has_etags: bool = True
    tells_sizes: bool = True
    seconds: float = 0.0  # before each answer
    user: str = ""  # "name:password" that every request needs
    # For the next requests: a status, "cut" (half the body), "redirect" (to the same with ?signature=...) or None
    answers: list[int | str | None] = field(default_factory=list)
    every_answer: int | str | None = None  # for those after them
    requests: list[tuple[str, str]] = field(default_factory=list)  # path and range of each
    url: str = ""

    @property
    def num_bytes(self) -> int:
        """Bytes that were asked for in parts."""
        spans = [re.fullmatch(r"bytes=(\d+)-(\d+)", span) for _, span in self.requests]
        return sum(int(span[2]) - int(span[1]) + 1 for span in spans if span)


@contextmanager
def web_server(folder: Path, **behaviour: object) -> Iterator[WebServer]:
    """The server, until the end of the block; no proxy stands between."""
    web = WebServer(folder, **behaviour)  # pyright: ignore[reportArgumentType] (fields by their names)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(web))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        yield web
    HTTPFileSystem.clear_instance_cache()  # with the connections that it keeps open
    server.shutdown()
    thread.join()
    server.server_close()


def _handler(web: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            span = self.headers.get("Range", "")
            web.requests.append((self.path, span))
            answer = web.answers.pop(0) if web.answers else web.every_answer
            time.sleep(web.seconds)
            path, _, query = self.path.partition("?")
            if answer == "redirect" and not query:
                self.send_response(302)
                self.send_header("Location", f"{path}?signature=hunter2")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif web.user and self.headers.get("Authorization") != _basic(web.user):
                self.send_error(401)
            elif isinstance(answer, int):
                self.send_error(answer)
            elif not (file := web.folder / unquote(path).lstrip("/")).is_file():
                self.send_error(404)
            else:
                self._send(file.read_bytes(), span, answer == "cut")

        def _send(self, content: bytes, span: str, is_cut: bool) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", span) if web.has_ranges else None
            begin, end = (int(asked[1]), min(int(asked[2]) + 1, len(content))) if asked else (0, len(content))
            if asked and begin >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
            if web.has_etags:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()[:16]}"')
            if web.tells_sizes:
                self.send_header("Content-Length", str(end - begin))
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            body = content[begin : end - (end - begin + 1) // 2 if is_cut else end]
            self.wfile.write(body)
            self.close_connection |= is_cut

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:  # a reader that has seen enough
                self.close_connection = True

    return Handler


def _basic(user: str) -> str:
    return f"Basic {base64.b64encode(user.encode()).decode()}"
