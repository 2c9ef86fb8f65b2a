"""The direction of imports: the table of who may import whom, read from the source without importing it."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = "lightning_apollo"

# Package or file -> what it may import besides torch, the standard library and itself.
ALLOWED = {
    "kernels/apollo_kernels": {"triton"},
    "lightning_apollo/errors.py": set(),
    "lightning_apollo/files.py": {f"{OURS}.errors"},
    "lightning_apollo/side_file.py": set(),
    "lightning_apollo/runs/launch.py": {f"{OURS}.errors", f"{OURS}.runs.agreement", "lightning"},
    "lightning_apollo/runs/signals.py": set(),
    "lightning_apollo/runs/agreement.py": {f"{OURS}.errors", f"{OURS}.runs.launch"},
    "lightning_apollo/structures.py": {f"{OURS}.errors"},
    "lightning_apollo/machine/ffmpeg.py": set(),
    "lightning_apollo/machine/packages.py": {"packaging"},
    "lightning_apollo/machine/video_libraries.py": {
        f"{OURS}.errors",
        f"{OURS}.machine",
        "packaging",
        "torchcodec",
    },
    "lightning_apollo/paths.py": {f"{OURS}.errors"},
    "lightning_apollo/data": {
        f"{OURS}.errors",
        f"{OURS}.side_file",
        f"{OURS}.files",
        f"{OURS}.structures",
        f"{OURS}.machine.packages",
        f"{OURS}.machine.video_libraries",
        "torchcodec",
        "torchvision",
        "pyarrow",
        "numpy",
    },
    "lightning_apollo/models": {
        f"{OURS}.errors",
        f"{OURS}.files",
        f"{OURS}.structures",
        f"{OURS}.machine.packages",
        "apollo_kernels",
        "safetensors",
        "huggingface_hub",
    },
    "lightning_apollo/training": {
        f"{OURS}.errors",
        f"{OURS}.side_file",
        f"{OURS}.files",
        f"{OURS}.structures",
        f"{OURS}.runs.agreement",
        f"{OURS}.runs.signals",
        f"{OURS}.models",
        "lightning",
    },
    "lightning_apollo/stages": {
        f"{OURS}.errors",
        f"{OURS}.files",
        f"{OURS}.structures",
        f"{OURS}.models",
        f"{OURS}.training",
        "lightning",
    },
}
# Single files that may import more than their package.
ALSO = {
    "lightning_apollo/data/datamodule.py": {"lightning"},
    "lightning_apollo/data/clip_text.py": {"num2words"},
    "lightning_apollo/data/object_store.py": {"s3fs", "botocore", "aiohttp"},
    "lightning_apollo/data/picture.py": {"PIL"},
    "lightning_apollo/data/rgb.py": {"PIL"},
    "lightning_apollo/data/tokenizer.py": {"tokenizers"},
    "lightning_apollo/models/llm.py": {"transformers"},
    "lightning_apollo/models/towers.py": {"transformers"},
    "lightning_apollo/models/checkpoints.py": {"transformers"},
    "lightning_apollo/models/lora.py": {"peft", "bitsandbytes"},
    "lightning_apollo/training/callbacks/progress.py": {"rich"},
    "lightning_apollo/training/callbacks/resume.py": {"numpy"},
}
SOURCES = sorted(
    path.relative_to(ROOT).as_posix() for folder in (OURS, "kernels") for path in (ROOT / folder).rglob("*.py")
)


def imported_modules(source: str) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    modules = set()
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno} imports relatively"
            module = str(node.module)
            modules |= {f"{module}.{alias.name}" if module == OURS else module for alias in node.names}
    return modules


def is_below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("source", SOURCES)
def test_a_file_imports_only_what_its_package_may(source: str) -> None:
    package = next((name for name in ALLOWED if source == name or source.startswith(f"{name}/")), None)
    modules = imported_modules(source)
    assert not [module for module in modules if module.split(".")[0] in ("tests", "benchmarks", "pytorch_lightning")]
    if package is None:  # config, command line, inference and evaluation stand on top of everything
        return
    itself = package.removeprefix("kernels/").removesuffix(".py").replace("/", ".")
    allowed = ALLOWED[package] | ALSO.get(source, set()) | {itself, "torch"}
    wrong = {
        module
        for module in modules
        if module.split(".")[0] not in sys.stdlib_module_names and not any(is_below(module, name) for name in allowed)
    }
    assert not wrong, f"{source} imports {', '.join(sorted(wrong))}; see ALLOWED"


def test_no_module_has_the_name_of_one_that_it_would_hide() -> None:
    names = {Path(source).stem for source in SOURCES} - {"__init__"}
    assert not names & {"types", "logging", "random", "dataclasses", "typing", "io"}
    assert not (ROOT / "kernels" / "__init__.py").exists()  # transformers would take it for the package `kernels`
