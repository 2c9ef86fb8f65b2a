"""Fine-tuning templates on a tiny model: a start file, rendered clips and two steps."""

from pathlib import Path

from lightning_apollo.data.shapes import dataset as shapes
from lightning_apollo.models.checkpoint.load import save_weights
from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.recipe.schema import Recipe, load_recipe
from tests.models.clips import randomize

TEMPLATES = ("connector", "lora", "full", "video", "grounding")
STAGE = "fine_tuning"
RECIPE = """
base: [recipe/finetune-{template}, model/tiny]
name: tuned
output: {output}
seed: 1
model:
  vision: {{hidden_size: 64, num_heads: 4, intermediate_size: 64}}
  llm: {{hidden_size: 64, num_layers: 2, intermediate_size: 64}}
data:
  manifests: ["{root}/video_qa.jsonl"]
  root: {root}
  num_workers: 0
  supervision: null
  sampling: {{fps: 2.0, max_frames: 4}}
  budget: {{token_budget: 64, min_tokens: 4, max_length: 512}}
trainer: {{accelerator: cpu, strategy: auto, precision: 32-true, threads: 1, progress_bar: false}}
stages:
  fine_tuning: {{init: "{root}/start.safetensors", max_steps: 2, global_batch_size: 4, micro_batch_size: 2}}
"""


def recipe(template: str, folder: Path, root: Path, *words: str) -> Recipe:
    """The recipe of a user's file in `folder`; clips, rows and start weights lie in `root`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.yaml"
    path.write_text(RECIPE.format(template=template, output=folder, root=root))
    return load_recipe(path, words)


def prepare(root: Path) -> None:
    """Render clips and rows, and write random start weights under which every path matters."""
    shapes.render_shapes(shapes.ShapesConfig(num_clips=6, num_held_out=1, num_images=4), root)
    model = build_model(recipe("full", root, root).model, ReducerConfig())
    randomize(model)
    save_weights(model, root / "start.safetensors")
