"""Request guard of the web page: no path that a client names leads out of the upload folder.

gradio checks most of this itself. It also follows links, fetches addresses for the client, and has many more routes than this
page uses; here is one place that says what passes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightning_apollo.inference.chat.uploads import is_upload

_API = "/gradio_api/"
_FILE = "file="  # the route that serves a file, followed by its path
_UPLOAD = "upload"
_ROUTES = (  # what the page's own script asks for; a route may have more behind it
    *("queue/join", "queue/data", "run/predict", "cancel", "heartbeat/"),
    *("startup-events", "info", "upload_progress", "theme.css"),
)
_MAX_BODY_BYTES = 2**20  # of an event: text and names of files
_FORM_BYTES = 2**16  # what the form around uploaded files may take
_HEADERS = {
    # Nothing is loaded from elsewhere, whatever an answer of the model links to
    "content-security-policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class UploadGuard:
    """ASGI middleware that refuses with 403 or 413 what the page has no use for, and says so as gradio's errors do."""

    def __init__(self, app: ASGIApp, folder: Path, max_upload_bytes: int) -> None:
        self.app = app
        self.folder = folder
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            raise ValueError(f"the page has no connections of type {scope['type']}")

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in names)]
            await send(message)

        refusal = self._refuse(scope)
        if refusal is None and scope["method"] == "POST" and not scope["path"].endswith(f"/{_UPLOAD}"):
            body = await _read(receive)
            refusal = self._refuse_body(body)
            receive = _replay(body or b"", receive)
        await (refusal or self.app)(scope, receive, send_guarded)

    def _refuse(self, scope: Scope) -> JSONResponse | None:
        path: str = scope["path"]
        if not path.startswith(_API):
            return None if scope["method"] in ("GET", "HEAD") else _refusal(403, "the page has no such address")
        route = path.removeprefix(_API)
        if route.startswith(_FILE):
            return None if is_upload(route.removeprefix(_FILE), self.folder) else _refusal(403, "no uploaded file")
        if route == _UPLOAD:
            return self._refuse_upload(scope)
        return None if route.startswith(_ROUTES) else _refusal(403, "the page has no such address")

    def _refuse_upload(self, scope: Scope) -> JSONResponse | None:
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return _refusal(411, "an upload without its length")
        if int(length) > self.max_upload_bytes + _FORM_BYTES:
            megabytes = self.max_upload_bytes // 10**6
            return _refusal(413, f"more than {megabytes} MB at once, the limit: cut or compress it")
        return None

    def _refuse_body(self, body: bytes | None) -> JSONResponse | None:
        if body is None:
            return _refusal(413, f"more than {_MAX_BODY_BYTES} bytes in one question")
        try:
            paths = list(_named_paths(json.loads(body or b"null")))
        except (ValueError, RecursionError):
            return _refusal(400, "no JSON")
        if all(isinstance(path, str) and is_upload(path, self.folder) for path in paths):
            return None
        return _refusal(403, "a file that was not uploaded here")


def _named_paths(value: Any) -> Iterator[object]:
    """Values under "path" anywhere in JSON: gradio reads files there."""
    if isinstance(value, dict):
        if "path" in value:
            yield value["path"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _named_paths(item)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None above the limit."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more in one piece, then what follows it: that the client is gone."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _refusal(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"detail": reason, "error": reason}, status)
