"""Golden fixture of an export: two small files and the exported model's outputs for them.

clip.mp4 picture.png   shown with a question each
expected.json          for each: the messages, token ids, grid, merge size, a checksum of the pixels, the greedy answer
logits.safetensors     for each: the logits (vocabulary,) of the answer's first token, float32
check.py               for exports to transformers: runs them there and compares; needs none of our code
"""

import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from apollo_kernels import pack_patches
from lightning_apollo.data.collate import collate
from lightning_apollo.data.conversation import Conversation, MediaPart, Message, TextPart
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.prompt.template import IM_END
from lightning_apollo.data.sampling.budget import max_frames_in_budget
from lightning_apollo.inference.generate import generate
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.machine.video_libraries import encoding
from lightning_apollo.models.checkpoint.load import write_weights
from lightning_apollo.models.llm import predict
from lightning_apollo.models.reduce import layout_of
from lightning_apollo.structures import Modality, Sample
from lightning_apollo.weights import check_fixture
from lightning_apollo.weights.port import as_port, token_id

FOLDER, EXPECTED, LOGITS, CHECK = "fixture", "expected.json", "logits.safetensors", "check.py"
TOLERANCE = 1e-4  # of a logit, absolute and relative
NUM_ANSWER_TOKENS = 16
_FILES: dict[Modality, str] = {"video": "clip.mp4", "image": "picture.png"}
_QUESTION = "What do you see?"
_STEP = 4  # frames of the clip for each that is sampled


@dataclass(frozen=True)
class Case:
    """Outputs of the model for one file and the question."""

    modality: str
    file: str
    question: str
    input_ids: list[int]  # with the placeholders that reduction leaves
    grid_thw: list[int]  # frames, rows, columns in patches
    merge_size: int
    pixels_sha256: str  # of the bytes that the encoder is shown, uint8 in the order of the patches
    answer_ids: list[int]  # greedy, without the end token, at most NUM_ANSWER_TOKENS


def write_fixture(trained: TrainedModel, folder: Path, placeholders: dict[Modality, int] | None) -> None:
    """Render the two files and write what the model makes of them.

    `placeholders` are the ids that stand for visual tokens in images and in videos where another program is to compare
    (that gets check.py too); None leaves our own.
    """
    folder.mkdir()
    _render(trained.preparer, folder)
    cases, logits = run_cases(trained, folder, placeholders)
    expected = {
        "tolerance": TOLERANCE,
        "num_answer_tokens": NUM_ANSWER_TOKENS,
        "cases": [asdict(case) for case in cases],
    }
    (folder / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n")
    write_weights(logits, folder / LOGITS)
    if placeholders is not None:
        shutil.copyfile(check_fixture.__file__, folder / CHECK)


def read_fixture(folder: Path) -> tuple[list[Case], dict[str, Tensor]]:
    """The cases, and the first logits of each."""
    expected = json.loads((folder / EXPECTED).read_text())
    return [Case(**case) for case in expected["cases"]], load_file(folder / LOGITS)


@torch.inference_mode()
def run_cases(
    trained: TrainedModel, folder: Path, placeholders: dict[Modality, int] | None
) -> tuple[list[Case], dict[str, Tensor]]:
    """Outputs of the model for each file of the folder, and the first logits (vocabulary,) of each answer."""
    cases, logits = [], {}
    preparer = trained.preparer if placeholders is None else as_port(trained.preparer)
    for modality, file in _FILES.items():
        message = Message("user", (MediaPart(modality, file), TextPart(_QUESTION)))
        sample = preparer.prompt(Conversation(f"fixture/{file}", "fixture", (message,)), folder)
        case, logits[modality] = _run(trained, sample, file, None if placeholders is None else placeholders[modality])
        cases.append(case)
    return cases, logits


def _run(trained: TrainedModel, sample: Sample, file: str, placeholder: int | None) -> tuple[Case, Tensor]:
    item = sample.visuals[0]
    batch = collate([sample], sample.patch_size)
    spliced = trained.model.splice(batch)
    hidden = trained.model.decode(spliced.inputs_embeds, spliced.lengths)  # (U, E)
    end = token_id(trained.tokenizer, IM_END)
    _, reduction = trained.model.encode(batch.visual)
    is_kept = torch.ones_like(sample.is_placeholder)
    if reduction.keep_mask is not None:
        is_kept[sample.is_placeholder] = reduction.keep_mask
    ids = sample.input_ids
    if placeholder is not None:
        ids = ids.masked_fill(sample.is_placeholder, placeholder)
    case = Case(
        modality=item.modality,
        file=file,
        question=_QUESTION,
        input_ids=ids[is_kept].tolist(),
        grid_thw=batch.visual.grid_thw[0].tolist(),
        merge_size=item.merge_size,
        pixels_sha256=hashlib.sha256(_pixel_bytes(sample)).hexdigest(),
        answer_ids=generate(trained.model, [sample], end, NUM_ANSWER_TOKENS)[0],
    )
    return case, predict(trained.model.llm, hidden[-1]).float().cpu()


def _pixel_bytes(sample: Sample) -> bytes:
    """Input of the encoder as bytes: (N, 3·p·p) in the order of the patches, or whole frames of clips."""
    visual = collate([sample], sample.patch_size).visual
    if visual.clip is not None:
        return visual.pixels.numpy().tobytes()
    patches, _, _ = pack_patches(visual.pixels, layout_of(visual), dtype=torch.float32)
    return ((patches * 0.5 + 0.5) * 255).round().to(torch.uint8).numpy().tobytes()


def _render(preparer: Preparer, folder: Path) -> None:
    """Write clip and picture: a square on its way over a pattern that stands still, so that reduction finds both.

    They are a little larger than their target size, so that the resize is compared too. The clip is without loss, or
    nothing would stand still, and is sampled at every _STEP-th of its frames, whoever samples.
    """
    from torchcodec.encoders import PngEncoder, VideoEncoder  # pyright: ignore[reportPrivateImportUsage]  (no __all__)

    num_sampled, num_frames, rate = _clip_timing(preparer)
    height, width = _clip_size(preparer, num_sampled)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pattern = torch.stack([x * 255 // width, y * 255 // height, (x // 8 + y // 8) % 2 * 160 + 40])
    frames = pattern.to(torch.uint8).repeat(num_frames, 1, 1, 1)  # (F, 3, H, W)
    side = max(4, min(height, width) // 4)
    for number, frame in enumerate(frames):
        left = (width - side) * number // max(1, num_frames - 1)
        frame[:, :side, left : left + side] = torch.tensor([250, 20, 60], dtype=torch.uint8)[:, None, None]
    with encoding():
        VideoEncoder(frames, frame_rate=rate).to_file(
            folder / _FILES["video"], codec="libx264", pixel_format="yuv420p", extra_options={"qp": "0"}
        )
    PngEncoder(frames[0].contiguous()).to_file(folder / _FILES["image"])


def _clip_timing(preparer: Preparer) -> tuple[int, int, float]:
    """Frames that are sampled, frames of the clip, and frames of it a second."""
    sampling = preparer.settings.sampling
    if sampling.kind == "uniform":  # one of each part
        num_frames = min(sampling.max_frames, max_frames_in_budget(preparer.settings.budget))
        return num_frames, num_frames, 8.0
    num_sampled = 2 * sampling.clip_frames if sampling.kind == "clips" else min(4, sampling.max_frames)
    return num_sampled, _STEP * num_sampled, _STEP * sampling.fps


def _clip_size(preparer: Preparer, num_sampled: int) -> tuple[int, int]:
    """Height and width in pixels, even, whose target is a grid of the fewest tokens that the budget asks for or more."""
    side = preparer.settings.patch_size * preparer.settings.video_merge_size
    rows = math.ceil(math.sqrt(preparer.settings.budget.min_tokens))
    share = preparer.settings.budget.token_budget // num_sampled
    columns = rows + 1 if rows * (rows + 1) <= share else rows
    return 2 * ((rows * side + side // 4) // 2), 2 * ((columns * side + side // 4) // 2)
