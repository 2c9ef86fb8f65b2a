"""Properties of packing that no other implementation is needed for: segments do not see each other, no media is no special case."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_apollo.models.attention import packed_attention
from lightning_apollo.models.config import LLMConfig, ReducerConfig
from lightning_apollo.models.video_lmm import VideoLMM
from lightning_apollo.structures import Frames, VisualBatch, VisualItem, cumulative_lengths
from tests.models.samples import PATCH, image, our_model, pack, port_model, sample, video
from tests.tolerances import MODEL, SUMMATION


@pytest.fixture(scope="module")
def model() -> VideoLMM:
    return our_model(port_model(), ReducerConfig(kind="diff_fp"))


def dense_reference(q, k, v, lengths, causal):
    """Softmax attention in float64 over an explicit block mask, head by head."""
    group = q.shape[1] // k.shape[1]
    owner = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    allowed = owner[:, None] == owner[None]
    if causal:
        allowed &= torch.ones_like(allowed).tril()
    out = torch.empty_like(q, dtype=torch.float64)
    for head in range(q.shape[1]):
        scores = q[:, head].double() @ k[:, head // group].double().T / q.shape[2] ** 0.5
        out[:, head] = scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1) @ v[:, head // group].double()
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[1], [3, 3, 3], [5, 1, 7, 7, 2], [17]])
def test_attention_equals_a_dense_mask_in_float64(lengths: list[int], causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    total = sum(lengths)
    q = torch.randn(total, 4, 8, generator=generator)
    k, v = torch.randn(total, 2, 8, generator=generator), torch.randn(total, 2, 8, generator=generator)
    out = packed_attention(q, k, v, cumulative_lengths(lengths), max(lengths), causal=causal)
    assert_close(out.double(), dense_reference(q, k, v, lengths, causal), atol=SUMMATION[q.dtype], rtol=0)


def test_packed_equals_one_by_one(model: VideoLMM) -> None:
    samples = [
        sample(video(3, 28, 56, 1, static=True), seed=1),
        sample(seed=2),
        sample(image(14, 42, 3), video(2, 56, 28, 4), seed=3),
    ]
    packed = model(pack(*samples)).logits
    alone = torch.cat([model(pack(one)).logits for one in samples])
    assert_close(packed, alone, atol=MODEL[torch.float32], rtol=MODEL[torch.float32])


def test_changing_a_frame_leaves_the_features_of_the_others_bit_equal(model: VideoLMM) -> None:
    item = video(4, 28, 56, 1)
    pixels = item.frames.pixels.clone()
    pixels[2] = 255 - pixels[2]
    changed = VisualItem(Frames(pixels, item.frames.pts_seconds), "video", 2)
    features = []
    for one in (item, changed):
        batch = VisualBatch.from_items([image(28, 28, 5), one, image(42, 28, 6)], PATCH)
        features.append(model.encode(batch)[0])
    same = (features[0] == features[1]).all(dim=1)
    frame_of_token = torch.arange(len(same)) - 4  # the first image has 2×2 patches, unmerged
    is_third_frame = (frame_of_token >= 2 * 2) & (frame_of_token < 3 * 2)  # 1×2 tokens a frame
    assert same.tolist() == (~is_third_frame).tolist()


def test_no_gradient_crosses_a_sample(model: VideoLMM) -> None:
    batch = pack(sample(video(2, 28, 28, 1), seed=1), sample(video(2, 28, 28, 2), seed=2))
    spliced = model.splice(batch)
    embeds = spliced.inputs_embeds.detach().requires_grad_()
    hidden = model.decode(embeds, spliced.lengths)
    first = spliced.lengths[0]
    hidden[first:].square().sum().backward()
    assert embeds.grad is not None
    assert embeds.grad[:first].abs().max() == 0
    assert embeds.grad[first:].abs().max() > 0


def test_no_gradient_crosses_a_frame(model: VideoLMM) -> None:
    patches = torch.randn(12, 3 * PATCH**2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    positions = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).repeat(3, 1)
    features = model.vision_encoder(patches, positions, cumulative_lengths([4, 4, 4]), 4)
    features[4:8].square().sum().backward()
    assert patches.grad is not None
    assert patches.grad[:4].abs().max() == 0
    assert patches.grad[8:].abs().max() == 0
    assert patches.grad[4:8].abs().max() > 0


def test_text_only_gives_every_parameter_a_gradient_and_the_vision_parts_zeros(model: VideoLMM) -> None:
    model.zero_grad()
    output = model(pack(sample(seed=1), sample(seed=2)))
    F.cross_entropy(output.logits, output.targets).backward()
    for part in (model.vision_encoder, model.connector):
        assert all(p.grad is not None and not p.grad.any() for p in part.parameters())
    assert all(p.grad is not None for p in model.llm.parameters())
    assert (output.num_visual_tokens, output.num_kept_tokens) == (0, 0)


def test_activation_checkpointing_changes_no_gradient(model: VideoLMM) -> None:
    batch = pack(sample(video(3, 28, 28, 1), image(28, 28, 2), seed=1))
    gradients = []
    model.train()
    for enabled in (False, True):
        model.set_activation_checkpointing(enabled)
        model.zero_grad()
        output = model(batch)
        F.cross_entropy(output.logits, output.targets).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    model.set_activation_checkpointing(False)
    model.eval()
    assert_close(gradients[0], gradients[1], atol=0, rtol=0)


def test_the_rope_tables_stay_in_float32_when_the_model_is_cast() -> None:
    """B16: in bfloat16 the angle at row 100 is off by 0.26 rad; features of a bfloat16 model must not be off by that much."""
    model = our_model(port_model())
    item = VisualBatch.from_items([image(14, 14 * 120, 3)], PATCH)
    exact, _ = model.encode(item)
    rough = model.to(torch.bfloat16).encode(item)[0].float()
    far = slice(100, None)
    error = (rough[far] - exact[far]).norm() / exact[far].norm()
    near_error = (rough[:20] - exact[:20]).norm() / exact[:20].norm()
    assert error < 2 * near_error


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "mistral"])
def test_any_llama_like_model_runs_packed(architecture: str) -> None:
    from lightning_apollo.models.llm import build_llm, run_decoder

    torch.manual_seed(0)
    config = LLMConfig(16, 2, 2, 1, 32, 64, tokenizer="none", architecture=architecture)
    llm = build_llm(config).eval()
    embeds = torch.randn(11, 16)
    packed = run_decoder(llm, embeds, cumulative_lengths([4, 7]), 7)
    llm.set_attn_implementation("sdpa")
    alone = [
        llm.base_model(inputs_embeds=part[None], use_cache=False).last_hidden_state[0] for part in embeds.split([4, 7])
    ]
    assert_close(packed, torch.cat(alone), atol=SUMMATION[torch.float32], rtol=SUMMATION[torch.float32])


ENCODER_MEMORY = """
import re, sys, torch
from lightning_apollo.models.vision_encoder import VisionEncoder
from lightning_apollo.models.config import VisionEncoderConfig
from lightning_apollo.structures import cumulative_lengths

def kib(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

def run(frames):
    patches = torch.zeros(frames * side**2, 48)
    encoder(patches, grid.repeat(frames, 1), cumulative_lengths([side**2] * frames), side**2).sum().backward()

torch.set_num_threads(1)
frames, side = int(sys.argv[1]), 16
encoder = VisionEncoder(VisionEncoderConfig(64, 1, 2, 64, patch_size=4))
grid = torch.cartesian_prod(torch.arange(side), torch.arange(side))
run(1)
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = kib("VmRSS")
run(frames)
print(kib("VmHWM") - before)
"""


@pytest.mark.slow
def test_encoder_memory_grows_linearly_with_frames() -> None:
    """Peak memory over base for 64 and 256 frames of 256 patches: a dense mask would grow 16-fold (to 4 GiB of bool)."""

    def peak(num_frames: int) -> int:
        command = [sys.executable, "-c", ENCODER_MEMORY, str(num_frames)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    small, large = peak(64), peak(256)
    assert 3 < large / small < 5, f"{small} KiB for 64 frames, {large} KiB for 256"
