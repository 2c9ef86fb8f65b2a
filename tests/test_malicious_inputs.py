"""Files made to do harm: each is refused with one line that names it, and nothing of what it wants happens."""

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.data.annotations.manifest import ManifestError, check_manifest, read_manifest
from lightning_apollo.data.conversation import RowError
from lightning_apollo.data.media.video import MAX_FRAME_PIXELS, decode, load_image, probe
from lightning_apollo.data.storage.roots import open_root
from lightning_apollo.models.llm import load_llm, load_tokenizer
from lightning_apollo.recipe.conf import conf_folder
from lightning_apollo.recipe.schema import RecipeError, load_recipe
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.structures import MediaError, WeightsError
from lightning_apollo.training.callbacks.export import WEIGHTS
from tests.media_files import ffmpeg
from tests.small_data import turns, write_rows
from tests.weights import stages

FIT = ["--stage", "adapt"]


class Malicious:
    """Unpickled, it makes a folder."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.proof),)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage's folder, with its run around it."""
    recipe = stages.videollama3(tmp_path_factory.mktemp("run"))
    return stage_folder(recipe, "videos")


@pytest.fixture
def stage(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def refusal(*words: object) -> str:
    """The one line with which a command refuses."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.strip() and "━" not in line]  # no progress bar
    return line


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG of a few bytes that claims these sides, with further chunks behind its header."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes((1 + 3 * min(width, 100)) * min(height, 100)))
    parts = (header, *chunks, pixels, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts
    )


@pytest.mark.parametrize("name", ["weights.bin", "weights.pt", "weights.safetensors"])
def test_a_pickle_is_refused_wherever_weights_are_read(name: str, stage: Path, tmp_path: Path) -> None:
    evil, proof = tmp_path / name, tmp_path / "proof"
    evil.write_bytes(pickle.dumps({"llm.weight": Malicious(proof)}, protocol=2))
    why = "not a whole safetensors file" if evil.suffix == ".safetensors" else "refused: it calls posix.mkdir"
    assert refusal("import", evil, tmp_path / "out.safetensors").startswith(f"{evil}: {why}")
    run = [stage / "recipe.yaml", f"output={tmp_path / 'run'}", *FIT]
    assert str(evil) in refusal("fit", *run, f"stages.adapt.init={evil}")
    rows = write_rows(tmp_path / "rows.jsonl", [{"conversations": turns("Why?", "So.")}])
    assert str(evil) in refusal("new", "task", "--data", rows, "--from", evil, "--output", tmp_path / "task.yaml")
    shutil.copy(evil, stage / WEIGHTS)
    assert str(stage / WEIGHTS) in refusal("generate", stage, "--prompt", "Why?")
    assert not proof.exists()


def safetensors(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(8)


def tensor(shape: list[int], end: int) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        safetensors(b"{}", length=2**62),
        safetensors(b"{}", length=90_000_000),
        safetensors(tensor([2**40], 2**42)),  # four terabytes that the file does not have
        safetensors(tensor([2**63, 2], 8)),  # more than a number holds
        safetensors(tensor([2], 8).replace(b"F32", b"F99")),
        safetensors(b'{"a":' * 50_000),
        b"",
    ],
    ids=["length", "long_header", "terabytes", "overflow", "dtype", "depth", "empty"],
)
def test_an_absurd_safetensors_header_is_refused(content: bytes, stage: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(content)
    assert str(weights) in refusal("import", weights, tmp_path / "out.safetensors")
    shutil.copy(weights, stage / WEIGHTS)
    assert str(stage / WEIGHTS) in refusal("generate", stage, "--prompt", "Why?")


def load_llm_of_recipe(folder: str) -> None:
    load_llm(load_recipe("videollama3-tiny", [f"model.llm.weights={folder}"]).model.llm)


@pytest.mark.parametrize("load", [load_tokenizer, load_llm_of_recipe])
def test_code_beside_a_tokenizer_or_model_is_never_asked_for(
    load: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers would ask on the terminal whether to run it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder, proof = tmp_path / "llm", tmp_path / "proof"
    shutil.copytree(conf_folder() / "model" / "tiny_tokenizer", folder)
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(proof)!r})\nclass Evil: ...\n")
    custom = {
        "AutoTokenizer": ["evil.Evil", "evil.Evil"],
        "AutoConfig": "evil.Evil",
        "AutoModelForCausalLM": "evil.Evil",
    }
    for name in ("tokenizer_config.json", "config.json"):
        (folder / name).write_text(json.dumps({"auto_map": custom, "model_type": "evil", "tokenizer_class": "Evil"}))
    with pytest.raises(WeightsError, match=r"^\S+llm: [^\n]*code[^\n]*$"):
        load(str(folder))
    assert not proof.exists()


def test_an_image_bomb_is_refused(stage: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(30_000, 30_000))
    assert bomb.stat().st_size < 5000
    line = f"{bomb}: a picture of more than 134217728 pixels, the limit: make it smaller"
    assert refusal("generate", stage, "--image", bomb, "--prompt", "Why?") == line
    rows = write_rows(tmp_path / "rows.jsonl", [{"image": bomb.name, "conversations": turns("Why?", "So.")}])
    words = ("--data", rows, "--from", stage, "--output", tmp_path / "task.yaml")
    assert refusal("new", "task", *words) == f"{rows}: none of the 1 rows can be used; the first: {line}"


@pytest.mark.parametrize(
    ("chunk", "is_readable"),
    [
        (b"zTXtcomment\0\0" + zlib.compress(bytes(10**8)), False),
        (b"iTXtcomment\0\1\0\0\0" + zlib.compress(bytes(10**8)), False),
        (b"iCCPprofile\0\0" + zlib.compress(bytes(10**8)), False),
        (b"iCCPprofile\0\0" + b"no stream of zlib", True),
        (b"eXIf" + b"MM\0*" + b"\xff" * 40, True),
        (b"acTL" + struct.pack(">II", 2**32 - 1, 0), True),
    ],
    ids=["text", "unicode_text", "profile", "no_profile", "exif", "frames"],
)
def test_what_stands_beside_the_pixels_does_no_harm(chunk: bytes, is_readable: bool, tmp_path: Path) -> None:
    """100 MB of text or of a colour profile in 100 kB, broken EXIF, four billion frames."""
    path = tmp_path / "picture.png"
    path.write_bytes(png(8, 6, chunk))
    if is_readable:
        assert load_image(path, (6, 8)).pixels.shape == (1, 3, 6, 8)
    else:
        with pytest.raises(MediaError, match=rf"^{path}: [^\n]+$"):
            load_image(path, (6, 8))


def orientation(kind: int, count: int, value: bytes) -> bytes:
    """An EXIF with one entry, called the orientation."""
    entry = struct.pack(">HHI", 0x0112, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [
        orientation(2, 4, b"abc"),  # text
        orientation(3, 1, b"\0\x63"),
        orientation(3, 0, b""),
        orientation(5, 1, b"\0\0\0\0"),
        orientation(3, 2**32 - 1, b"\0\6"),
        b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 500) + b"\0\1",
    ],
    ids=["text", "99", "nothing", "a_fraction_that_lies_nowhere", "four_billion", "cut_short"],
)
def test_an_odd_orientation_counts_as_upright(exif: bytes, form: str, tmp_path: Path) -> None:
    picture = Image.effect_noise((40, 30), 50).convert("RGB")
    for name, extra in (("plain", {}), ("odd", {"exif": exif})):
        picture.save(tmp_path / name, form, **extra)
    info = probe(tmp_path / "odd", "image")
    assert (info.width, info.height, info.rotation_degrees) == (40, 30, 0)
    plain, odd = (load_image(tmp_path / name, (30, 40)).pixels for name in ("plain", "odd"))
    assert torch.equal(odd, plain)


def small_video(path: Path, inside: tuple[int, int], outside: tuple[int, int]) -> Path:
    """A video of a kilobyte that claims these sides (width, height): in each frame, and in the container's header."""
    ffmpeg("-f", "lavfi", "-i", "color=s=64x64:r=5:d=1", "-c:v", "png", path)
    content = path.read_bytes()
    content = content.replace(b"IHDR" + struct.pack(">II", 64, 64), b"IHDR" + struct.pack(">II", *inside))
    sides = content.index(b"png ", content.index(b"stsd")) + 28  # in the entry of the track
    assert content[sides : sides + 4] == struct.pack(">HH", 64, 64)
    path.write_bytes(content[:sides] + struct.pack(">HH", *outside) + content[sides + 4 :])
    return path


@pytest.mark.parametrize(
    ("inside", "outside", "reason"),
    [
        ((9000, 9000), (9000, 9000), f" {MAX_FRAME_PIXELS} pixels"),
        ((30_000, 30_000), (30_000, 30_000), "FFmpeg"),
        ((30_000, 30_000), (64, 64), "corrupt"),  # found when a frame is asked for
    ],
)
def test_a_video_of_enormous_frames_is_refused(
    inside: tuple[int, int], outside: tuple[int, int], reason: str, stage: Path, tmp_path: Path
) -> None:
    path = small_video(tmp_path / "bomb.mov", inside, outside)
    assert path.stat().st_size < 5000
    with pytest.raises(MediaError, match=reason):
        decode(probe(path), torch.zeros(1), (28, 28))
    assert reason in refusal("generate", stage, "--video", path, "--prompt", "Why?")


@pytest.mark.parametrize(
    "path", ["../outside.png", "inside/../../outside.png", "/etc/passwd", "link.png", "folder/outside.png"]
)
def test_a_row_cannot_name_what_lies_outside_the_root(path: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "folder").symlink_to(tmp_path)
    rows = write_rows(root / "rows.jsonl", [{"image": path, "conversations": turns("Why?", "So.")}])
    (error,) = check_manifest(read_manifest(rows, "source", root))
    assert str(error).startswith(
        f"{rows}, line 1: media path {path!r} leaves the data root {root}: move the file there"
    )


def test_tar_members_with_tricks_stay_in_their_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is extracted: a member is bytes of the shard, and links are no members."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "secret.txt").write_text("secret")
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for name in ("good.png", "../escaped.png", "/absolute.png", "a/../../too.png"):
            header = tarfile.TarInfo(name)
            header.size = len(data.getvalue())
            shard.addfile(header, io.BytesIO(data.getvalue()))
        for name, kind in (("symbolic.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, str(tmp_path / "secret.txt")
            shard.addfile(header)
    root = open_root(str(tmp_path / "shard.tar"))
    assert probe(root.address("good.png"), "image").width == 8
    for path in ("../escaped.png", "/absolute.png", "a/../../too.png"):
        with pytest.raises(RowError, match=r"media path '.*root"):
            root.check(path)
    for path in ("symbolic.png", "hard.png"):
        with pytest.raises(MediaError, match="member"):
            probe(root.address(path), "image")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "secret.txt", "shard.tar"]


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"name: !!python/object/apply:os.mkdir [PROOF]\n", "line 1: could not determine a constructor for the tag"),
        (b"name: x\nseed: !!python/name:os.mkdir\n", "line 2: could not determine a constructor for the tag"),
        (
            ALIASES.encode(),
            "more than 10,000 entries, with every alias written out",
        ),  # 9^9 entries, were they written out
        (b"name: x\ndata: &a {b: *a}\n", "line 2: more than 10,000 entries"),
        (b"name: " + b"[" * 20_000, "line 1: exceeded maximum nesting depth"),
        (b"name: \xff\n", "no YAML in UTF-8"),
        (b"name: \0\n", "no YAML in UTF-8"),
    ],
)
def test_a_recipe_with_tricks_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path, proof = tmp_path / "task.yaml", tmp_path / "proof"
    path.write_bytes(content.replace(b"PROOF", str(proof).encode()))
    assert refusal("explain", path).startswith(f"{path}: ")
    assert reason in refusal("explain", path)
    with pytest.raises(RecipeError, match=r"\bYAML\b"):
        load_recipe("videollama3-tiny", [f"seed=!!python/object/apply:os.mkdir [{proof}]"])
    assert not proof.exists()


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 100_000, '{"start_time": %s}' % ("9" * 5000)], ids=["list", "object", "number"]
)
def test_json_that_python_cannot_read_is_a_wrong_row(content: str, tmp_path: Path) -> None:
    lines, rows = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    lines.write_text(content + "\n")
    (error,) = check_manifest(read_manifest(lines, "source", tmp_path))
    assert str(error).startswith(f"{lines}, line 1: nested too deeply, or with a number too long")
    rows.write_text(f"[{content}")
    with pytest.raises(ManifestError, match=r"\brow 1: .*nested"):
        read_manifest(rows, "source", tmp_path)
