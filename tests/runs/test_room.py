"""Room for a stage's files before it begins; disks that are full for real are in tests/training/test_ending.py."""

from pathlib import Path

import pytest

from lightning_apollo.errors import UserError
from lightning_apollo.runs import room
from lightning_apollo.runs.room import require_room, stage_bytes
from tests.small_recipe import recipe


def test_what_killed_runs_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    one, stage = recipe(tmp_path), tmp_path / "videos"
    unfinished = (f"model.safetensors.{'a1' * 16}.partial", "checkpoints/step-00000004.partial/__0_0.distcp")
    kept = ("mine.partial", "model.safetensors", "checkpoints/step-00000002.ckpt")
    for name in (*unfinished, *kept):
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).write_text("half")
    require_room(one, "videos", pytest.fail)
    assert {str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file()} == set(kept)
    assert not (stage / "checkpoints/step-00000004.partial").exists()


def test_room_for_the_weights_alone_is_said_and_less_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, lines = recipe(tmp_path), list[str]()
    needs = stage_bytes(one, "videos")
    for num_free, num_lines in ((needs.final + 3 * needs.checkpoint, 0), (needs.final + 2 * needs.checkpoint, 1)):
        monkeypatch.setattr(room, "free_bytes", lambda folder, free=num_free: free)
        require_room(one, "videos", lines.append)
        assert len(lines) == num_lines
    assert "each of up to 3 checkpoints about" in lines[0]
    monkeypatch.setattr(room, "free_bytes", lambda folder: needs.final - 1)
    with pytest.raises(UserError, match=r"weights of stage videos\b.*\boutput="):
        require_room(one, "videos", lines.append)


def test_weights_that_train_in_bfloat16_are_counted_as_float32_and_adapters_come_on_top(tmp_path: Path) -> None:
    """The first stage trains encoder and connector; the second all three, or adapters of the LLM."""
    counts = room.count_parameters(recipe(tmp_path))
    trained, rest = counts["vision"] + counts["connector"], counts["llm"]
    narrow = stage_bytes(recipe(tmp_path, "trainer.precision=bf16-true"), "adapt")
    assert narrow.final == 4 * trained + 2 * rest + 2**20
    words = ("stages.videos.kind=Stage", "stages.videos.trains={llm: 1e-3}", "stages.videos.lora={llm: {rank: 1}}")
    adapted = recipe(tmp_path, *words)
    size = room.count_adapters(adapted, adapted.stages["videos"])["llm"].num_parameters
    assert stage_bytes(adapted, "videos").final == 4 * (trained + rest + size) + 2**20
