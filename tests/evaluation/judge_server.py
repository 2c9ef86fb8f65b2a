"""A stand-in for an endpoint that speaks OpenAI's chat completions, on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Endpoint:
    """Received requests and prepared replies."""

    reply: Callable[[str], str]  # to the words of a prompt
    failures: list[int] = field(default_factory=list)  # HTTP codes of the next replies, before it works
    requests: list[dict[str, Any]] = field(default_factory=list)  # body, path and key of each
    url: str = ""

    @property
    def prompts(self) -> list[str]:
        return [request["body"]["messages"][-1]["content"] for request in self.requests]


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # requests that come at once are not refused


@contextmanager
def serve(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Yield the endpoint with its address, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.requests.append({"body": body, "path": self.path, "key": self.headers.get("Authorization")})
            code = endpoint.failures.pop(0) if endpoint.failures else 200
            said = {"choices": [{"message": {"content": endpoint.reply(body["messages"][-1]["content"])}}]}
            data = json.dumps(said if code == 200 else {"error": "no"}).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: what was asked stands in `requests`."""

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
