"""Triton's interpreter as these tests need it: in use where no GPU is, and exact in bfloat16."""

import pytest
import torch
import triton

from verification import faithful_bfloat16
from verification.sanitizer import is_interpreting

assert torch.cuda.is_available() or is_interpreting(), (
    "triton was imported before tests/conftest.py set TRITON_INTERPRET=1"
)
faithful_bfloat16.install()

# What is about the interpreter itself has nothing to test where kernels are compiled.
NEED_INTERPRETER = ["sanitizer", "faithful_bfloat16", "traffic", "verification_example"]
collect_ignore = [] if is_interpreting() else [f"test_{name}.py" for name in NEED_INTERPRETER]

# Budgets are of one compiler's code; another Triton's is looked at with `python -m verification.codegen`.
BUDGETS_TRITON = "3.8"
if not triton.__version__.startswith(f"{BUDGETS_TRITON}."):
    collect_ignore.append("test_codegen.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only the interpreter can do where kernels are compiled."""
    if is_interpreting():
        return
    interpreted = [item for item in items if item.get_closest_marker("interpreter")]
    config.hook.pytest_deselected(items=interpreted)
    items[:] = [item for item in items if item not in interpreted]
