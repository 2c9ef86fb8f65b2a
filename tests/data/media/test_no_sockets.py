"""Reading media never reaches for a network: an audit hook for Python's sockets, a namespace without any for C's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lightning_apollo.data.media.media_check import probe_and_decode
from lightning_apollo.structures import MediaError
from tests.odd_files import write_odd_files
from tests.places import ROOT

SCRIPT = """
import json, sys
from lightning_apollo.data.media.media_check import probe_and_decode
from tests.data.media.test_no_sockets import verdict
events = []
sys.addaudithook(lambda event, arguments: events.append(event) if event.startswith("socket.") else None)
print(json.dumps([[verdict(path) for path in sys.argv[1:]], events]))
"""


def verdict(path: str) -> str:
    """The number of frames, or why the file is refused."""
    try:
        return str(probe_and_decode(path, "video").num_frames)
    except MediaError as error:
        return error.reason


def test_reading_media_opens_no_socket(tmp_path: Path) -> None:
    paths = sorted(str(path) for path in write_odd_files(tmp_path).iterdir())
    root = ROOT
    words = ["unshare", "-rn", sys.executable, "-c", SCRIPT, *paths]
    done = subprocess.run(words, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    verdicts, events = json.loads(done.stdout)
    assert events == []
    assert verdicts == [verdict(path) for path in paths]
    assert [verdict.isdecimal() for verdict in verdicts].count(True) > 15  # else nothing was read
