"""Chat page in a process of its own, started by its command and requested over plain HTTP."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

BOUNDARY = "boundary"
COMMAND = "import typer; from lightning_apollo.cli.generate import chat_command; typer.run(chat_command)"


class Answer(NamedTuple):
    status: int
    body: bytes

    @property
    def said(self) -> str:
        """Error of a refused request."""
        return json.loads(self.body)["detail"]


class ChatServer:
    def __init__(self, address: str) -> None:
        self.address = address
        (path,) = self.uploaded("first.txt", b"")
        self.folder = path.parents[1]
        settings = json.loads(self.ask("GET", "/config").body)
        self.settings: dict[str, Any] = settings
        (self.question,) = (  # the number of the event that asks: the only one that the box submits
            event["id"] for event in settings["dependencies"] if any(name == "submit" for _, name in event["targets"])
        )

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """The path goes out as it is: no client puts it in order."""
        connection = http.client.HTTPConnection(self.address.removeprefix("http://").rstrip("/"), timeout=60)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()

    def file(self, path: Path | str) -> Answer:
        return self.ask("GET", f"/gradio_api/file={path}")

    def upload(self, name: str, content: bytes) -> Answer:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
        return self.ask("POST", "/gradio_api/upload", body, content_type=f"multipart/form-data; boundary={BOUNDARY}")

    def uploaded(self, name: str, content: bytes) -> list[Path]:
        return [Path(path) for path in json.loads(self.upload(name, content).body)]

    def join(self, box: object = None, body: bytes | None = None) -> Answer:
        """Put a question into the queue, as the page does; or any body in its place."""
        event = {"data": [box, None], "fn_index": self.question, "session_hash": "session"}
        content = json.dumps(event).encode() if body is None else body
        return self.ask("POST", "/gradio_api/queue/join", content, content_type="application/json")

    def heard(self) -> str:
        """Messages of the queue to this session until the event is over."""
        return self.ask("GET", "/gradio_api/queue/data?session_hash=session").body.decode()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}


@contextmanager
def served(checkpoint: Path, *words: object) -> Iterator[ChatServer]:
    command = [sys.executable, "-c", COMMAND, str(checkpoint), *map(str, words)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield ChatServer(process.stdout.readline().split()[0])
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stdout.close()
