"""Parser for pages of `inspect`, and recipes to inspect."""

import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

from lightning_apollo.inspection.page import write_inspection_page
from lightning_apollo.inspection.sample import Inspected
from lightning_apollo.recipe.schema import Recipe
from tests.small_recipe import recipe

STAGE = "videos"
_SHOWS_LINE_END = "↵\n"


def videos_recipe(folder: Path, *words: str) -> Recipe:
    """The small recipe with its second stage alone."""
    folder.mkdir(parents=True, exist_ok=True)
    one = recipe(folder, *words)
    return replace(one, stages={STAGE: one.stages[STAGE]})


@dataclass
class Token:
    """A span of the text."""

    classes: set[str]
    hover: str
    text: str = ""

    @property
    def tokenized(self) -> str:
        """The text that the tokenizer gives for it."""
        if "visual" in self.classes:
            name, count = self.text.split(",")[0].split(" ×")
            return name * int(count)
        return self.text.replace(_SHOWS_LINE_END, "\n")

    @property
    def num_kept(self) -> int:
        """Of a run of placeholders, those that reach the LLM: all where nothing else is said."""
        numbers = [int(number) for number in re.findall(r"\d+", self.text)]
        return numbers[-1]


@dataclass
class Page(HTMLParser):
    """Contents of a page: tags, all its text, the spans of the tokens, and the pairs of every list of facts."""

    content: str
    tags: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    facts: dict[str, list[str]] = field(default_factory=dict)
    rows: list[list[str]] = field(default_factory=list)  # of the table
    bar_parts: list[tuple[str, float]] = field(default_factory=list)  # kind and per cent, over all bars

    def __post_init__(self) -> None:
        super().__init__()
        self._is_in_tokens = False
        self._open: list[str] = []
        self.feed(self.content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self._open.append(tag)
        if tag == "div":
            self._is_in_tokens = values.get("class") == "tokens"
        elif tag == "span" and self._is_in_tokens:
            self.tokens.append(Token(set(values["class"].split()), values["title"]))
        elif tag == "img":
            self.pictures.append(values["src"])
        elif tag == "dt":
            self._name = ""
        elif tag == "dd":
            self.facts.setdefault(self._name, []).append("")
        elif tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        elif tag == "i":
            self.bar_parts.append((values["class"], float(values["style"].removeprefix("width:").removesuffix("%"))))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass
        if tag == "div":
            self._is_in_tokens = False

    def handle_data(self, data: str) -> None:
        self.text += data
        inside = self._open[-1] if self._open else ""
        if inside == "span" and self._is_in_tokens:
            self.tokens[-1].text += data
        elif inside == "dt":
            self._name += data
        elif inside == "dd":
            self.facts[self._name][-1] += data
        elif inside == "td":
            self.rows[-1][-1] += data


def page_of(inspected: Inspected, folder: Path) -> Page:
    path = folder / "page.html"
    write_inspection_page(inspected, path)
    return Page(path.read_text())
