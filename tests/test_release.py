"""Agreement of version, changelog and citation."""

import re
import tomllib
from datetime import date
from typing import Any

import pytest
import yaml

from lightning_apollo import __version__
from tests.places import ROOT
from tests.plain_schema import problems

GROUPS = ["Added", "Changed", "Fixed", "Removed"]
SECTIONS = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
RELEASES = [section for section in SECTIONS if not section.startswith("Unreleased\n")]
HEADING = re.compile(r"(\d+)\.(\d+)\.(\d+) - (\d{4}-\d\d-\d\d)")
# citation-file-format 1.2.0, schema-guide.md: the part that is used here. Authors are entities: nobody is named
ENTITY = {"name": str}
REFERENCE = {
    "type": re.compile("article"),
    "title": str,
    "authors": [ENTITY],
    "identifiers": [{"type": re.compile("other"), "value": re.compile(r"arXiv:\d{4}\.\d{5}")}],
    "url": re.compile(r"https://arxiv\.org/abs/\d{4}\.\d{5}"),
}
CITATION = {
    "cff-version": re.compile(r"1\.2\.0"),
    "message": str,
    "title": str,
    "abstract?": str,
    "type": re.compile("software"),
    "authors": [ENTITY],
    "version": str,
    "date-released": re.compile(r"\d{4}-\d\d-\d\d"),
    "license": str,
    "keywords?": [str],
    "references": [REFERENCE],
}


@pytest.fixture
def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def heading(section: str) -> re.Match[str]:
    found = HEADING.fullmatch(section.splitlines()[0])
    assert found is not None, section.splitlines()[0]
    return found


def test_one_version_everywhere(citation: dict[str, Any]) -> None:
    newest = heading(RELEASES[0])
    versions = [
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]["version"]
        for folder in (".", "kernels")
    ]
    versions += [citation["version"], newest[0].split()[0]]
    assert versions == [__version__] * 4
    assert citation["date-released"] == newest[4]


def test_the_changelog_begins_with_what_is_unreleased_and_goes_back_in_time() -> None:
    assert SECTIONS[0].startswith("Unreleased\n")
    assert len(RELEASES) == len(SECTIONS) - 1
    found = [heading(section) for section in RELEASES]
    order = [(date.fromisoformat(one[4]), *map(int, one.groups()[:3])) for one in found]
    assert order == sorted(order, reverse=True)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.split("\n")[0])
def test_lines_of_the_changelog_stand_in_groups(section: str) -> None:
    first, *groups = re.split(r"^### ", section, flags=re.MULTILINE)
    names = [group.splitlines()[0] for group in groups]
    assert names == [name for name in GROUPS if name in names]  # each once, in this order
    for group in groups:
        lines = [line for line in group.splitlines()[1:] if line]
        assert lines
        assert all(line.startswith(("- ", "  ")) for line in lines)
    if section in RELEASES:
        assert names
        assert len(first.splitlines()) <= 2  # no line outside a group


def test_the_citation_is_one_that_readers_of_cff_take(citation: dict[str, Any]) -> None:
    assert list(problems(citation, CITATION)) == []
    assert [reference["identifiers"][0]["value"] for reference in citation["references"]] == [
        *("arXiv:2501.13106", "arXiv:2412.10360"),
    ]
    for reference in citation["references"]:
        assert reference["url"].endswith(reference["identifiers"][0]["value"].removeprefix("arXiv:"))
    assert list(problems({**citation, "doi": 1}, CITATION)) == [": unknown key doi"]
