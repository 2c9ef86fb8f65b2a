"""The page's server over raw HTTP, with paths and links and sizes that must not pass."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from lightning_apollo.cli.generate import chat_command
from lightning_apollo.recipe.schema import load_recipe, save_recipe
from tests.inference.chat_server import BOUNDARY, COMMAND, ChatServer, environment, served
from tests.weights.stages import videollama3_with_clips

FILE_META = {"_type": "gradio.FileData"}
MEGABYTE = 10**6
PAGE = "lightning_apollo.inference.chat.page"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    recipe, stage = videollama3_with_clips(tmp_path_factory.mktemp("runs"))
    with served(stage, "--max-upload-mb", 1, "--examples", Path(recipe.data.root) / "clips") as server:
        yield server
    assert not server.folder.exists()  # all uploads are gone with it


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.mp4"
    path.write_bytes(b"secret")
    return path


def test_an_upload_comes_back(server: ChatServer) -> None:
    (path,) = server.uploaded("clip.mp4", b"content")
    assert path.is_relative_to(server.folder)
    assert server.file(path) == (200, b"content")


def test_no_file_from_elsewhere_is_served(server: ChatServer, secret: Path) -> None:
    outside = server.folder.parent / "outside_of_the_page.txt"
    link, linked = server.folder / "link.mp4", server.folder / "linked"
    link.symlink_to(secret)
    linked.symlink_to(secret.parent)
    outside.write_text("secret")
    try:
        up = "/".join([".."] * 20)
        for path in (
            *(
                secret,
                outside,
                "/etc/passwd",
                "etc/passwd",
                f"{server.folder}/../{outside.name}",
                link,
                linked / "secret.mp4",
            ),
            *(f"{server.folder}/%2e%2e/{outside.name}", f"{server.folder}/..%2f{outside.name}", f"{up}/etc/passwd"),
            *("/proc/self/environ", "README.md", "pyproject.toml", server.folder, ""),
            *("http://127.0.0.1:1/a.png", "https://example.com/a.png", "file:///etc/passwd"),
        ):
            answer = server.file(path)
            assert (answer.status, answer.said) == (403, "no uploaded file"), path
    finally:
        outside.unlink()


def test_a_question_names_no_file_from_elsewhere(server: ChatServer, secret: Path) -> None:
    """Behind the guard the session checks again: see test_chat_session.py."""
    link = server.folder / "question.mp4"
    link.symlink_to(secret)
    for path in (str(secret), "/etc/passwd", str(link), f"{server.folder}/../x", "https://example.com/a.mp4", None, {}):
        for file in ({"path": path, "meta": FILE_META}, {"meta": FILE_META, "deeper": [{"path": path}]}):
            answer = server.join({"text": "What?", "files": [file]})
            assert (answer.status, answer.said) == (403, "a file that was not uploaded here"), path
    assert server.join(body=b"{").status == 400
    assert server.join(body=b"[" * 100_000).status == 400
    assert server.join({"text": "a" * 2**20, "files": []}).status == 413


def test_the_name_of_an_upload_leads_nowhere(server: ChatServer) -> None:
    names = ["../../../escaped.mp4", "/tmp/escaped.mp4", "..\\\\..\\\\escaped.mp4", "..", "%2e%2e%2fescaped.mp4"]
    for name in names:
        answer = server.upload(name, name.encode())
        if answer.status == 200:
            (path,) = json.loads(answer.body)
            assert Path(path).resolve().is_relative_to(server.folder)
            assert Path(path).read_bytes() == name.encode()
    assert not [*server.folder.parent.glob("*escaped*"), *Path("/tmp").glob("escaped*")]


def test_uploads_above_the_limit_are_refused(server: ChatServer) -> None:
    before = set(server.folder.rglob("*"))
    assert server.upload("fits.mp4", b"0" * MEGABYTE).status == 200
    answer = server.upload("large.mp4", b"0" * (MEGABYTE + 1))
    assert (answer.status, b"1000000" in answer.body) == (413, True)
    answer = server.upload("larger.mp4", b"0" * (MEGABYTE + 2**17))
    assert (answer.status, answer.said) == (413, "more than 1 MB at once, the limit: cut or compress it")
    new = {path.name for path in set(server.folder.rglob("*")) - before if path.is_file()}
    assert "fits.mp4" in new
    assert not new & {"large.mp4", "larger.mp4"}
    headers = {"content_type": f"multipart/form-data; boundary={BOUNDARY}", "transfer_encoding": "chunked"}
    assert server.ask("POST", "/gradio_api/upload", b"0\r\n\r\n", **headers).status == 411


def test_a_broken_upload_is_answered_by_one_message(server: ChatServer) -> None:
    """An archive, and a playlist of a file elsewhere; the second is one that FFmpeg would open."""
    for name, content in (
        ("archive.mp4", b"PK\x03\x04" + b"0" * 100),
        ("list.mp4", b"ffconcat version 1.0\nfile a.mp4"),
    ):
        (path,) = server.uploaded(name, content)
        assert server.join({"text": "What?", "files": [{"path": str(path), "meta": FILE_META}]}).status == 200
        heard = server.heard()
        assert f"{name}: neither a video" in heard
        assert "Traceback" not in heard


def test_routes_that_the_page_does_not_use_are_closed(server: ChatServer) -> None:
    for path in ("proxy=https://x.hf.space/a", "stream/a/b/1/playlist.m3u8", "call/ask", "run/ask", "runs", "file/etc"):
        assert server.ask("GET", f"/gradio_api/{path}").said == "the page has no such address", path
    for path in ("/gradio_api/process_recording", "/gradio_api/call/ask", "/login", "/"):
        assert server.ask("POST", path, b"{}").status == 403, path


def test_no_question_passes_the_queue_by(server: ChatServer) -> None:
    """One answer at a time is a promise to the machine's memory."""
    event = {"data": [{"text": "What?", "files": []}, None], "fn_index": server.question, "session_hash": "other"}
    answer = server.ask("POST", "/gradio_api/run/predict", json.dumps(event).encode(), content_type="application/json")
    assert answer.status == 404
    events = server.settings["dependencies"]
    assert [event["queue"] for event in events if event["id"] == server.question] == [True]


def test_the_page_is_alone_with_its_model(server: ChatServer) -> None:
    """No tunnel, no statistics for others, nothing from elsewhere; it listens to this machine alone."""
    assert server.settings["analytics_enabled"] is False
    assert server.address.startswith("http://127.0.0.1:")
    page = server.ask("GET", "/")
    assert page.status == 200
    assert b"googleapis" not in page.body + server.ask("GET", "/theme.css").body


def test_the_examples_are_offered_by_name(server: ChatServer) -> None:
    (choice,) = [part for part in server.settings["components"] if part["type"] == "dropdown"]
    names = [name for name, _ in choice["props"]["choices"]]
    assert len(names) == 9
    assert all(name.endswith(".mp4") and "/" not in name for name in names)


def test_a_machine_without_gradio_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_recipe(load_recipe("videollama3-tiny"), tmp_path / "recipe.yaml")
    (tmp_path / "model.safetensors").touch()  # not looked into before
    for name in [name for name in sys.modules if name.startswith("gradio") or name == PAGE]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    app = Typer()
    app.command()(chat_command)
    done = CliRunner().invoke(app, [str(tmp_path)], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == 2
    assert done.output.strip() == "the page needs gradio: pip install 'gradio<7,>=6.31'"


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_line(server: ChatServer, tmp_path: Path) -> None:
    stage = videollama3_with_clips(tmp_path)[1]
    port = server.address.rstrip("/").rsplit(":", 1)[1]
    command = [sys.executable, "-c", COMMAND, str(stage), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(), check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("the page cannot listen there, choose another")
    assert "Traceback" not in done.stderr
