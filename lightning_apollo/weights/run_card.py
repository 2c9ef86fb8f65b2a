"""README.md of an export: origin of the model and an example of its use."""

import hashlib
import json
import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from lightning_apollo import __version__
from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.data.index.build import fingerprint_of_manifests
from lightning_apollo.data.source import open_sources
from lightning_apollo.inference.exported import PORT, ExportedConfig
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.weights.port import chat_template, processor_differences

_PACKAGES = ("torch", "transformers", "lightning")

_ASK_PORT = """\
```python
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained(FOLDER)
model = AutoModelForImageTextToText.from_pretrained(FOLDER)
content = [{"type": "video", "path": "clip.mp4"}, {"type": "text", "text": "What happens?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
)
output = model.generate(**inputs, max_new_tokens=64)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

`python fixture/check.py` compares pixels, token ids, logits and answers there with those of the trainer."""
_ASK_OWN = """\
transformers has no class for this model; ours reads the folder:

```python
from pathlib import Path

from lightning_apollo.inference.exported import load_exported

trained = load_exported(Path(FOLDER))
```"""


def run_card(recipe: Recipe, stage: str, config: ExportedConfig, folder: Path) -> str:
    """The text; `folder` is the stage's own, where done.json says what training came to."""
    is_port = config.format == PORT
    rows = {
        "stage": f"`{stage}`, after {_steps(folder)}",
        "data": f"`{_data_fingerprint(recipe, stage)}`",
        "code": f"lightning-apollo {__version__}, commit {_commit()}; "
        + ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        "sampling": _settings(asdict(config.sampling)),
        "budget": _settings(asdict(config.budget)),
        "merge size": f"images {config.image_merge_size}, videos {config.video_merge_size}",
        "reducer": _settings(asdict(config.reducer)),
        "prompt": f"sha256 `{prompt_hash(config)}`",
    }
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])
    recipe_text = yaml.safe_dump(_without_folders(asdict(recipe)), sort_keys=False, allow_unicode=True)
    parts = [
        f"# {recipe.name}",
        "Trained with lightning_apollo and exported by `lightning-apollo export`.",
        table,
        f"## Ask it\n\n{_ASK_PORT if is_port else _ASK_OWN}",
        *([f"## Where transformers differs\n\n{_listed(processor_differences(config.sampling))}"] if is_port else []),
        f"## Recipe\n\nFolders are left out.\n\n```yaml\n{recipe_text}```",
    ]
    return "\n\n".join(parts) + "\n"


def prompt_hash(config: ExportedConfig) -> str:
    """sha256 of what makes a prompt of a question: the chat template with the system prompt, and the text between clips."""
    text = json.dumps([chat_template(config.system_prompt), asdict(config.clip_text)])
    return hashlib.sha256(text.encode()).hexdigest()


def _data_fingerprint(recipe: Recipe, stage: str) -> str:
    """A hash over the manifests of the stage's mixture, or why there is none."""
    mixture = recipe.stages[stage].mixture
    wanted = {name: source for name, source in recipe.data.sources.items() if mixture.get(name)}
    try:
        data = recipe.data
        return fingerprint_of_manifests(
            open_sources(wanted, data.outside_root, data.unknown_keys, data.storage.protocols)
        )
    except (OSError, ManifestError):
        return "not known: the manifests could not be read where the model was exported"


def _steps(folder: Path) -> str:
    done = folder / "done.json"
    if not done.is_file():
        return "an unknown number of steps"
    facts = json.loads(done.read_text())
    return f"{facts['steps']} steps, loss {facts['loss']:.4f}"


def _commit() -> str:
    """The commit of the checkout that runs, with a plus where tracked files differ from it; unknown for a wheel."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        head = subprocess.run((*git, "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=False)
        changed = subprocess.run((*git, "diff", "--quiet", "HEAD"), capture_output=True, check=False)
    except FileNotFoundError:  # no git here
        return "unknown"
    return head.stdout.strip() + "+" * (changed.returncode == 1) if head.returncode == 0 else "unknown"


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _without_folders(value: Any) -> Any:
    """The tree with absolute paths cut to their last name: a published card tells nothing of the machine."""
    if isinstance(value, dict):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_folders(entry) for entry in value]
    if isinstance(value, str) and value.startswith("/"):
        return f".../{PurePosixPath(value).name}"
    return value
