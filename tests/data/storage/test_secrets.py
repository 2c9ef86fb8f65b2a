"""Secrets in addresses and in the environment, which nothing shows or keeps."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.data.config import DataConfig, SourceConfig
from lightning_apollo.data.source import open_source
from lightning_apollo.data.storage import address as storage
from lightning_apollo.data.storage.protocols import shown
from lightning_apollo.errors import MediaError
from lightning_apollo.recipe.schema import RecipeError
from tests.small_data import write_pictures
from tests.small_recipe import recipe
from tests.web_server import web_server

SECRET = "hunter2"
SECRETS = f"""
https://user:{SECRET}@h/p https://{SECRET}@h/p https://h/p?signature={SECRET} https://h/p?{SECRET}
https://h/p#token={SECRET} s3://key:{SECRET}@bucket/p s3://key:a/{SECRET}'@bucket/p az://c/p?sv=1&sig={SECRET}
abfs://c:{SECRET}@account/p sftp://user:{SECRET}@h/p simplecache::https://user:{SECRET}@h/p?a={SECRET} memory://{SECRET}@h
""".split()


@pytest.mark.parametrize("place", SECRETS)
def test_an_address_with_a_secret_is_refused_without_showing_it(place: str) -> None:
    for config in (
        {"manifests": [place]},
        {"manifests": ["a.jsonl"], "root": place},
        {"manifests": [f"{place}/a.tar"]},
    ):
        for kind in (SourceConfig, DataConfig):
            with pytest.raises(ValueError, match=r"leave it out|addresses inside") as caught:
                kind(**config)
            assert SECRET not in repr(caught.value)


def test_no_command_writes_a_secret_that_its_user_has_put_into_an_address(tmp_path: Path) -> None:
    place = f"https://user:{SECRET}@h/p?signature={SECRET}"
    said = []
    for words in ([f"data.root={place}", "data.manifests=[a.jsonl]"], [f"data.sources.text.root={place}"]):
        with pytest.raises(RecipeError, match="leave it out") as caught:
            recipe(tmp_path, *words)
        said.append(f"{caught.value!r} {caught.value}")
    (tmp_path / "bad.yaml").write_text(f"name: bad\nbase: [{tmp_path}/test.yaml]\ndata: {{root: '{place}'}}\n")
    commands = [
        ["data", "index", "a.jsonl", "--root", place],
        ["data", "scan", f"{place}/a.jsonl"],
        ["fit", f"{tmp_path}/bad.yaml"],
        ["fit", f"{tmp_path}/test.yaml", f"data.manifests=[{place}]"],
    ]
    for words in commands:
        result = CliRunner().invoke(app, words)
        assert result.exit_code != 0
        said.append(result.output)
    (tmp_path / "bad.yaml").unlink()
    said += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in said if SECRET in text]


def test_credentials_of_the_environment_are_used_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By an index and a scan of a store that asks for them, of which one file is forbidden and one redirected to a signed URL."""
    media, written = tmp_path / "media", tmp_path / "written"
    written.mkdir()
    write_pictures(media, 3)
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login user password {SECRET}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(written / "cache"))
    monkeypatch.chdir(written)
    with web_server(media, user=f"user:{SECRET}") as server:
        source = open_source("pictures", SourceConfig(["pictures.jsonl"], server.url))
        pickled = pickle.dumps(source)
        said = [
            CliRunner()
            .invoke(app, ["data", "index", "pictures.jsonl", "--root", server.url, "--output", "index", "--jobs", "0"])
            .output
        ]
        assert "3 files" in said[0]
        (media / "000.png").unlink()
        server.every_answer = "redirect"
        server.user = "user:another"
        with pytest.raises(MediaError) as caught:
            storage.open_address(f"{server.url}/001.png")
        assert caught.value.kind == "forbidden"
    captured = capfd.readouterr()
    said += [str(caught.value), repr(caught.value), captured.out, captured.err]
    assert "signature" not in said[1]
    files = [path for path in written.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert not [text for text in said if SECRET in text]
    assert SECRET.encode() not in pickled


def test_addresses_are_shown_without_user_and_query() -> None:
    text = f"403, url='https://u:{SECRET}@h:80/a.mp4?X-Signature={SECRET}&b=1' (s3://b/t-?.jsonl) https://{SECRET}@h/a"
    assert shown(text) == "403, url='https://h:80/a.mp4' (s3://b/t-?.jsonl) https://h/a"
