"""Check of this checkpoint in plain transformers against the exported model: python fixture/check.py

Needs torch, transformers and torchcodec, and none of the code that the model was trained with. Writes one line of JSON:
the problems, of which a good checkpoint has none, and how far the logits are apart at most. Exit code 1 with problems.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

FORBIDDEN = ("lightning_apollo", "apollo_kernels")  # modules of the trainer
PIXELS = {"video": "pixel_values_videos", "image": "pixel_values"}


@torch.inference_mode()
def fixture_problems(fixture: Path) -> dict[str, Any]:
    """The problems of the checkpoint that the fixture lies in, and the largest difference of a logit."""
    expected = json.loads((fixture / "expected.json").read_text())
    logits = load_file(fixture / "logits.safetensors")
    processor = AutoProcessor.from_pretrained(fixture.parent, local_files_only=True)
    model: Any = AutoModelForImageTextToText.from_pretrained(fixture.parent, local_files_only=True, dtype=torch.float32)
    problems: list[str] = []
    largest = 0.0
    for case in expected["cases"]:
        modality = case["modality"]
        part = {"type": modality, "path": str(fixture / case["file"])}
        messages = [{"role": "user", "content": [part, {"type": "text", "text": case["question"]}]}]
        inputs = processor.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        found = _compared_inputs(inputs, case)
        problems += found
        if found:  # with other inputs, other logits are no news
            continue
        difference = model(**inputs).logits[0, -1] - logits[modality]
        largest = max(largest, difference.abs().max().item())
        if (difference.abs() > expected["tolerance"] * (1 + logits[modality].abs())).any():
            problems.append(f"{modality}: logits differ by up to {difference.abs().max().item():.2e}")
        output = model.generate(**inputs, max_new_tokens=expected["num_answer_tokens"], do_sample=False)
        answer = output[0, inputs["input_ids"].shape[1] :].tolist()
        answer = [token for token in answer if token != model.generation_config.eos_token_id]
        if answer != case["answer_ids"]:
            problems.append(f"{modality}: answers {answer}, not {case['answer_ids']}")
    problems += [f"{name} was imported" for name in FORBIDDEN if name in sys.modules]
    return {"problems": problems, "max_logit_difference": largest, "transformers": transformers.__version__}


def _compared_inputs(inputs: dict[str, Tensor], case: dict[str, Any]) -> list[str]:
    modality, problems = case["modality"], []
    grid = inputs[f"{modality}_grid_thw"][0].tolist()
    if grid != case["grid_thw"]:
        problems.append(f"{modality}: the grid is {grid}, not {case['grid_thw']}")
    pixels = ((inputs[PIXELS[modality]] * 0.5 + 0.5) * 255).round().to(torch.uint8)
    if hashlib.sha256(pixels.numpy().tobytes()).hexdigest() != case["pixels_sha256"]:
        problems.append(f"{modality}: other pixels")
    ids = inputs["input_ids"][0].tolist()
    if ids != case["input_ids"]:
        problems.append(f"{modality}: token ids {ids}, not {case['input_ids']}")
    return problems


def main() -> None:
    result = fixture_problems(Path(__file__).resolve().parent)
    sys.stdout.write(json.dumps(result) + "\n")
    raise SystemExit(1 if result["problems"] else 0)


if __name__ == "__main__":
    main()
