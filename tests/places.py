"""Places of the checkout that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"  # on PYTHONPATH where a command of `verification` runs
