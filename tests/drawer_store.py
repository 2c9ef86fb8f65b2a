"""A store of a user's own: files by their absolute paths, under the protocol `drawer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fsspec.spec import AbstractFileSystem


class Drawer(AbstractFileSystem):
    """As little as fsspec asks of a store."""

    protocol = "drawer"

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return self._place(path).open(mode)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        place = self._place(path)
        facts = place.stat()
        kind = "directory" if place.is_dir() else "file"
        return {"name": path, "size": facts.st_size, "mtime": facts.st_mtime_ns, "type": kind}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        names = [f"{self._strip_protocol(path)}/{one.name}" for one in sorted(self._place(path).iterdir())]
        return [self.info(name) for name in names] if detail else names

    def _place(self, path: str) -> Path:
        return Path(self._strip_protocol(path))
