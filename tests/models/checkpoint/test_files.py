"""Streamed weights against the safetensors library, torch's pickles and counted memory."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_apollo.models.checkpoint.files import open_weights, stored, write_stored
from lightning_apollo.structures import WeightsError


def tensors_of_all_kinds() -> dict[str, Tensor]:
    return {
        "z.weight": torch.randn(3, 5),
        "a.weight": torch.randn(7).to(torch.bfloat16),
        "steps": torch.tensor(12),
        "b.half": torch.randn(2, 1, 3).half(),
        "mask": torch.tensor([True, False, True]),
        "double": torch.randn(2, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "bytes.ü": torch.arange(5, dtype=torch.uint8),
        "transposed": torch.arange(6.0).view(2, 3).t(),
    }


def test_the_file_is_the_librarys_byte_for_byte(tmp_path: Path) -> None:
    tensors = tensors_of_all_kinds()
    write_stored({name: stored(tensor) for name, tensor in tensors.items()}, tmp_path / "ours.safetensors")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_what_is_read_is_what_was_written(ending: str, tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors_of_all_kinds().items()}
    if ending == "safetensors":
        save_file(tensors, tmp_path / "w.safetensors")
    else:
        torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "w.pt")
    found = open_weights(str(tmp_path))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].shape, found[name].dtype) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(found[name].read(), tensor)


def write_shards(folder: Path, sizes: list[int]) -> None:
    """Shards of one tensor each, of so many float32, with the index that transformers writes."""
    names = [f"model-{i + 1:05d}-of-{len(sizes):05d}.safetensors" for i in range(len(sizes))]
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        save_file({f"w{number}": torch.full((size,), float(number))}, folder / name)
    index = {"weight_map": {f"w{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, [3, 3, 3])
    assert list(open_weights(str(tmp_path))) == ["w0", "w1", "w2"]
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-00002-of-00003.safetensors.*model.safetensors.index"):
        open_weights(str(tmp_path))


def test_one_name_in_two_files_is_an_error(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    save_file({"w": torch.ones(2).half()}, tmp_path / "model.fp16.safetensors")
    with pytest.raises(WeightsError, match=r"\bw .*another file"):
        open_weights(str(tmp_path))


def test_a_file_cut_short_is_said(tmp_path: Path) -> None:
    save_file({"w": torch.ones(100)}, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-7])
    with pytest.raises(WeightsError, match=r"safetensors file \("):
        open_weights(str(tmp_path))
    torch.save({"w": torch.ones(100)}, tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:200])
    with pytest.raises(WeightsError, match=r"torch can"):
        open_weights(str(tmp_path / "w.pt"))


class Malicious:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_would_run_code_is_refused(is_zip: bool, tmp_path: Path) -> None:
    proof, checkpoint = tmp_path / "ran", tmp_path / "pytorch_model.bin"
    content = {"state_dict": {"w": torch.ones(2)}, "note": Malicious(proof)}
    torch.save(content, checkpoint, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin: refused.*pickle"):
        open_weights(str(tmp_path))
    assert not proof.exists()
    if not is_zip:
        checkpoint.write_bytes(pickle.dumps(Malicious(proof), protocol=2))
        with pytest.raises(WeightsError, match="refused"):
            open_weights(str(checkpoint))
        assert not proof.exists()


PEAK = """
import re, sys
from pathlib import Path
from lightning_apollo.models.checkpoint.files import open_weights, write_stored
def kib(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
tensors = open_weights(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before = kib("VmRSS")
write_stored(tensors, Path(sys.argv[2]))
print((kib("VmHWM") - before) / 1024)
"""


def test_memory_holds_a_tensor_and_not_the_checkpoint(tmp_path: Path) -> None:
    """Six shards of 16 MiB go through with less than three of them in memory, file pages included."""
    write_shards(tmp_path, [2**22] * 6)
    output = tmp_path / "all" / "model.safetensors"
    output.parent.mkdir()
    command = [sys.executable, "-c", PEAK, str(tmp_path), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 15 < float(done.stdout) < 40  # MiB
    assert {name: float(tensor[-1]) for name, tensor in load_file(output).items()} == {f"w{i}": i for i in range(6)}
