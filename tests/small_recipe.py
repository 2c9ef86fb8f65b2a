"""A recipe of two stages that trains in seconds on rendered clips."""

from pathlib import Path

from lightning_apollo.recipe.schema import Recipe, load_recipe

RECIPE = """
base: [model/tiny]
name: test
output: {output}
seed: 1
model:
  vision: {{hidden_size: 32, num_heads: 2, intermediate_size: 48}}
  llm: {{hidden_size: 32, num_layers: 2, intermediate_size: 64}}
data:
  root: {output}/shapes
  shapes: {{num_clips: 8, num_held_out: 1, num_images: 16}}
  sources:
    images: {{manifests: [image_captions.jsonl], root: "${{data.root}}"}}
    videos: {{manifests: [video_qa.jsonl], root: "${{data.root}}"}}
    text: {{manifests: [text.jsonl], root: "${{data.root}}"}}
  sampling: {{fps: 2.0, max_frames: 8}}
  supervision: null
  budget: {{token_budget: 64, min_tokens: 4, max_length: 512}}
trainer: {{accelerator: cpu, threads: 1, progress_bar: false}}
stages:
  adapt:
    kind: VisionEncoderAdaptation
    trains: {{vision: 1e-3, connector: 1e-3}}
    mixture: {{images: 1.0}}
    image_merge_size: 2
    video_merge_size: 2
    max_steps: 2
    global_batch_size: 8
    micro_batch_size: 4
  videos:
    kind: VideoCentricFineTuning
    trains: {{vision: 1e-3, connector: 1e-3, llm: 1e-3}}
    mixture: {{videos: 1.0, images: 0.25, text: 0.5}}
    image_merge_size: 2
    video_merge_size: 2
    reducer: {{kind: diff_fp}}
    max_steps: 3
    global_batch_size: 8
    micro_batch_size: 2
    optimizer: {{gradient_clip: 1.0}}
"""


def recipe(folder: Path, *words: str) -> Recipe:
    path = folder / "test.yaml"
    path.write_text(RECIPE.format(output=folder))
    return load_recipe(path, words)
