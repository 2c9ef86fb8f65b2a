"""The direction of imports, read from the source without importing it. Down the floors, and in no circle."""

import ast
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

OURS = "lightning_apollo"

# Rooms from the ground up; one may import those of lower floors. A room is a package, or a file that stands beside packages.
FLOORS = (
    ("errors", "progress", "evaluation/bootstrap", "evaluation/figures", "evaluation/ranks"),
    ("files", "machine", "training/processes", "evaluation/judge"),
    ("structures", "evaluation/results"),
    ("pages", "inference/parsers", "data/conversation", "data/plan", "data/sampling", "data/shapes", "data/collate"),
    ("data/storage", "data/prompt", "evaluation/open_answers", "evaluation/curate", "evaluation/question"),
    ("data/annotations", "data/media"),
    ("data/config",),
    ("data/preprocessing", "data/source"),
    ("data/prepare", "data/readiness"),
    ("data/index",),
    ("data/dataset",),
    ("data/quarantine",),
    ("data/loader",),
    ("data/datamodule",),
    ("models",),
    ("training",),
    ("stages",),
    ("recipe",),
    ("runs",),
    ("inference",),
    ("weights", "inspection"),
    ("evaluation",),
    ("demo", "study", "new_task"),
    ("cli",),
    ("__main__",),
)
# Pairs of rooms on lower and higher floors that know nothing of each other.
STRANGERS = (("models", "data"), ("training", "data"), ("stages", "data"))
# Room or file -> packages of others that it alone, and what stands on no row here, may import besides torch and NumPy.
OTHERS = {
    "errors": (),
    "files": (),
    "structures": (),
    "training/processes": ("lightning",),
    "machine": ("packaging", "torchcodec", "rich"),
    "data": ("torchcodec", "torchvision", "pyarrow"),
    "data/datamodule": ("lightning",),
    "data/prompt/clip_text": ("num2words",),
    "data/prompt/tokenizer": ("tokenizers",),
    "data/media/config": ("PIL",),
    "data/storage/remote": ("fsspec",),
    "data/storage/web": ("fsspec", "aiohttp"),
    "data/storage/own_stores": ("fsspec",),
    "data/media/picture": ("PIL",),
    "data/media/rgb": ("PIL",),
    "models": ("apollo_kernels", "safetensors", "huggingface_hub"),
    "models/llm": ("transformers",),
    "models/lora": ("peft", "bitsandbytes"),
    "models/apollo/towers": ("transformers",),
    "models/checkpoint/load": ("transformers",),
    "models/checkpoint/expected": ("transformers",),
    "training": ("lightning",),
    "stages": ("lightning",),
}
# Modules of a command line that answers at once, and of the configuration that it checks before anything is trained or asked:
# with all that they import in turn, they import these libraries and no other, so neither torch nor lightning nor transformers.
LIGHT = ("cli/main", "recipe/schema", "recipe/early_checks", "stages")
LIGHT_LIBRARIES = {"omegaconf", "yaml", "PIL", "typer", "rich", "packaging"}
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = {
    path.relative_to(ROOT / OURS).with_suffix("").as_posix().removesuffix("/__init__"): path
    for path in (ROOT / OURS).rglob("*.py")
    if path.stat().st_size and path != ROOT / OURS / "__init__.py"
}
KERNELS = sorted((ROOT / "kernels" / "apollo_kernels").rglob("*.py"))
VERIFICATION = sorted((ROOT / "kernels" / "verification").rglob("*.py"))


def imported(path: Path, at_top: bool = False) -> set[str]:
    """Every module that a file imports, at its top alone or inside a function too, as dotted names."""
    modules, tree = set[str](), ast.parse(path.read_text())
    for node in tree.body if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def ours(path: Path, at_top: bool = False) -> set[str]:
    """Our own modules among them, as paths below the package."""
    found = set[str]()
    for name in imported(path, at_top):
        words = name.split(".")[1:] if name.split(".")[0] == OURS else []
        while words and "/".join(words) not in SOURCES:  # what is imported from a module
            words = words[:-1]
        if words:
            found.add("/".join(words))
    return found


def nearest(source: str, table: dict) -> str | None:
    """The row of a table that is a file itself, or the smallest room around it."""
    words = source.split("/")
    return next((name for size in range(len(words), 0, -1) if (name := "/".join(words[:size])) in table), None)


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_imports_go_down(source: str) -> None:
    room = nearest(source, FLOOR_OF)
    assert room is not None, f"{source} stands in no room: add it to FLOORS"
    for target in ours(SOURCES[source]):
        other = nearest(target, FLOOR_OF)
        assert other is not None, target
        assert room == other or FLOOR_OF[other] < FLOOR_OF[room], (
            f"{source} imports {target}, which stands above or beside"
        )
        assert (room.split("/")[0], other.split("/")[0]) not in STRANGERS, f"{source} imports {target}"


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_a_file_imports_only_the_libraries_of_its_room(source: str) -> None:
    libraries = {name.split(".")[0] for name in imported(SOURCES[source])} - {OURS, "torch", "numpy"}
    assert not libraries & {"tests", "benchmarks", "pytorch_lightning"}
    row = nearest(source, OTHERS)
    if row is not None:
        also = OTHERS.get(row.split("/")[0], ())
        wrong = libraries - set(OTHERS[row]) - set(also) - sys.stdlib_module_names
        assert not wrong, f"{source} imports {', '.join(sorted(wrong))}; see OTHERS"


def loaded(source: str, seen: set[str]) -> set[str]:
    """Files that are read where this one is imported: with their imports, and the packages around each of them."""
    words = source.split("/")
    for name in ("/".join(words[:size]) for size in range(1, len(words) + 1)):
        if name in SOURCES and name not in seen:
            seen.add(name)
            for target in ours(SOURCES[name], at_top=True):
                loaded(target, seen)
    return seen


@pytest.mark.parametrize("source", sorted({*LIGHT, *(name for name in SOURCES if name.split("/")[-1] == "config")}))
def test_what_checks_a_recipe_imports_nothing_heavy(source: str) -> None:
    assert loaded_libraries(source, LIGHT_LIBRARIES) == set(), f"{source} reads them; see LIGHT"


def test_a_merge_of_shards_loads_no_torch() -> None:
    """Torch alone is some 470 MiB of memory."""
    assert loaded_libraries("data/index/merge", LIGHT_LIBRARIES | {"numpy", "pyarrow"}) == set()


def loaded_libraries(source: str, allowed: set[str]) -> set[tuple[str, str]]:
    """Libraries that are loaded where this file is imported, each with the file that does it, without those allowed."""
    return {
        (file, library)
        for file in loaded(source, set())
        for name in imported(SOURCES[file], at_top=True)
        if (library := name.split(".")[0]) not in allowed | sys.stdlib_module_names | {OURS}
    }


def test_no_file_imports_itself_in_a_circle() -> None:
    graph = {source: ours(path, at_top=True) - {source} for source, path in SOURCES.items()}
    done, path = set[str](), list[str]()

    def visit(source: str) -> None:
        assert source not in path, " imports ".join([*path[path.index(source) :], source])
        if source not in done:
            path.append(source)
            for target in graph[source]:
                visit(target)
            path.pop()
            done.add(source)

    for source in graph:
        visit(source)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_the_kernels_import_triton_and_torch_alone(path: Path) -> None:
    libraries = {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names
    assert libraries <= {"torch", "triton", "apollo_kernels"}


@pytest.mark.parametrize("path", VERIFICATION, ids=lambda path: path.stem)
def test_the_verification_tools_import_nothing_of_ours(path: Path) -> None:
    """Anyone's kernels can be verified: hypothesis is for those whose tests have it, row_softmax is the example."""
    libraries = {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names
    allowed = {"torch", "triton", "numpy", "pytest", "hypothesis", "verification"}
    assert libraries <= (allowed | {"row_softmax"} if "example" in path.parts else allowed)


def test_the_root_is_kept_clear() -> None:
    assert {source for source in SOURCES if "/" not in source and SOURCES[source].name != "__init__.py"} == {
        *("__main__", "demo", "errors", "files", "progress", "structures"),
    }


def test_no_module_has_the_name_of_one_that_it_would_hide() -> None:
    names = {path.stem for path in [*SOURCES.values(), *KERNELS]} - {"__init__"}
    assert not names & {"types", "logging", "random", "dataclasses", "typing", "io"}
    assert not (ROOT / "kernels" / "__init__.py").exists()  # transformers would take it for the package `kernels`
