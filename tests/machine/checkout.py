"""A copy of this checkout with an environment of its own, which sees the packages of the one that runs the tests."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.places import ROOT


def make_environment(folder: Path, *paths: Path) -> Path:
    """Make a virtual environment without pip; return its Python. `paths` come before the outer packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    outer = sysconfig.get_path("purelib")
    lines = [*map(str, paths), f"import site; site.addsitedir({outer!r})"]
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "outer.pth").write_text("\n".join(lines) + "\n")
    return folder / "bin/python"


def copy_sources(folder: Path) -> None:
    """Copy all but what git ignores; a checkout need not have git's folder."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", *ignored), dirs_exist_ok=True)


def copy_installed(folder: Path) -> None:
    """A copy in which `make setup` finds the packages installed."""
    copy_sources(folder)
    python = make_environment(folder / ".venv", folder, folder / "kernels")
    program = python.with_name("lightning-apollo")
    program.write_text(f"#!{python}\nfrom lightning_apollo.cli.main import app\napp()\n")
    program.chmod(0o755)
    for stamp in (".created", ".installed"):
        (folder / ".venv" / stamp).touch()
