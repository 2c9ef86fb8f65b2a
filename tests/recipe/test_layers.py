"""Layers of YAML on small dataclasses: precedence, and the exact line for every mistake."""

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lightning_apollo.recipe.layers import RecipeError, apply_word, build, read_layers, with_defaults
from lightning_apollo.recipe.schema import load_recipe
from lightning_apollo.recipe.yaml_text import read_yaml, settle


@dataclass(frozen=True)
class Part:
    width: int
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is at least 1, not {self.width}")


@dataclass(frozen=True)
class Whole:
    name: str
    parts: dict[str, Part] = field(default_factory=dict)
    mixture: dict[str, float] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    extra: Part | None = None
    output: str = "runs/${name}"
    labels: dict[str, str] = field(default_factory=dict)
    comment: str | None = None
    seed: int = 0


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # so that messages name files relative to it


def load(text: str, *words: str, **files: str) -> Whole:
    for name, content in files.items():
        path = Path(f"conf/{name}.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    Path("own.yaml").write_text(text)
    tree = with_defaults(read_layers(Path("own.yaml"), Whole, Path("conf")), Whole)
    for word in words:
        tree = apply_word(tree, Whole, word)
    return build(tree, Whole, "own.yaml")


def test_later_layers_win_key_by_key() -> None:
    whole = load(
        "base: [first, second]\nname: own\nparts: {b: {rate: 3}}\n",
        "parts.b.rate=4.5",
        first="name: first\nparts: {a: {width: 1}, b: {width: 2, rate: 1}}\n",
        second="base: [third]\nparts: {b: {width: 20}}\n",
        third="parts: {b: {width: 10}, c: {width: 3}}\n",
    )
    assert whole == Whole(
        name="own",
        parts={"a": Part(1), "b": Part(20, rate=4.5), "c": Part(3)},
        output="runs/own",
    )
    assert list(whole.parts) == ["a", "b", "c"]  # in the order in which they are first named


def test_a_mixture_is_written_whole_by_file_and_word_but_one_entry_can_be_set() -> None:
    base = "name: x\nmixture: {a: 1, b: 2}\n"
    assert load("base: [first]\n", first=base).mixture == {"a": 1.0, "b": 2.0}
    assert load("base: [first]\nmixture: {c: 3}\n", first=base).mixture == {"c": 3.0}
    assert load("base: [first]\n", "mixture={d: 4}", first=base).mixture == {"d": 4.0}
    assert load("base: [first]\n", "mixture.b=0.5", first=base).mixture == {"a": 1.0, "b": 0.5}


def test_words_take_yaml_values_where_they_are_no_text() -> None:
    whole = load("name: x\n", "extra={width: 3_000}", "extra.rate=1e-5", "parts={a: {width: 010}}")
    assert whole == Whole(name="x", parts={"a": Part(10)}, extra=Part(3000, rate=1e-5), output="runs/x")
    assert load("name: x\nextra: {width: 3}\n", "extra=null").extra is None
    assert load("name: x\n", "extra.width=3").extra == Part(3)  # a section that was off


WRITTEN = ("2024_11_28", "2024-11-28", "yes", "off", "012", "0x10", "1e3", "1:30", "null", "~", ".5", "true", "=", "<<")


@pytest.mark.parametrize("text", WRITTEN)
def test_a_string_of_a_file_or_a_word_is_the_text_that_is_written(text: str) -> None:
    comment = None if text in ("null", "~") else text  # which says nothing, where nothing may be said
    whole = Whole(name=text, names=[text], output=text, comment=comment)
    values = f"name: {text}\nnames: [{text}]\noutput: {text}\ncomment: {text}\n"
    assert load(values) == whole
    words = (f"name={text}", f"names=[{text}]", f"output={text}", f"comment={text}", f"labels.x={text}")
    assert load("name: x\nlabels: {x: y}\n", *words) == replace(whole, labels={"x": text})
    if text != "<<":  # as a key, YAML's merge
        keys = f"parts: {{{text}: {{width: 1}}}}\nlabels: {{{text}: {text}}}\nmixture: {{{text}: 2}}\n"
        entries = {"parts": {text: Part(1)}, "labels": {text: text}, "mixture": {text: 2.0}}
        assert load(values + keys) == replace(whole, **entries)


# All but what docs/runs.md names: quotes around all of it, ${...} and ???
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs"))).filter(
    lambda text: text[:1] not in ("'", '"') and "${" not in text and text.strip() != "???"
)


@settings(max_examples=40, deadline=None)
@given(TEXT)
def test_any_text_of_a_word_comes_back_and_survives_being_saved(text: str) -> None:
    tree = apply_word(with_defaults({"name": "x"}, Whole), Whole, f"name={text}")
    whole = build(tree, Whole, "word")
    assert whole == Whole(name=text, output=f"runs/{text}")
    saved = read_yaml(OmegaConf.to_yaml(OmegaConf.create(asdict(whole))))
    assert build(with_defaults(settle(saved, Whole), Whole), Whole, "saved") == whole


@settings(max_examples=25, deadline=None)
@given(st.lists(TEXT.filter(lambda text: text == text.strip() != "" and not set(text) & set("[]{}(),")), min_size=1))
def test_any_texts_of_a_list_come_back(texts: list[str]) -> None:
    tree = apply_word(with_defaults({"name": "x"}, Whole), Whole, f"names=[{', '.join(texts)}]")
    assert build(tree, Whole, "word").names == texts


def test_commas_inside_quotes_and_brackets_separate_nothing() -> None:
    names = load("name: x\n", "names=['a, b',\"c\",d e,f{1,2}g#h: i=j, it's, ]").names
    assert names == ["a, b", "c", "d e", "f{1,2}g#h: i=j", "it's"]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("name='7'", "7"),
        ('name="a\\tb"', "a\tb"),
        ("name='it''s'", "it's"),
        ("name='a' and 'b'", "'a' and 'b'"),
        ("name=[a", "[a"),
        ("name=a=b/${seed}", "a=b/5"),
    ],
)
def test_quotes_around_all_of_a_text_are_taken_off(word: str, name: str) -> None:
    assert load("name: x\nseed: 5\n", word).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("named: x\n", r"own\.yaml: named: .*\bname\b"),
        ("name: x\nparts: {a: {widths: 1}}\n", r"own\.yaml: parts\.a\.widths: .*\bwidth\b"),
        (
            "zzz: x\n",
            r"own\.yaml: zzz: .*name, parts, mixture, names, extra, output, labels, comment, seed",
        ),
        (
            "name: x\nparts: {a: {width: wide}}\n",
            r"own\.yaml: parts\.a\.width: .*'wide'.*Integer",
        ),
        ("name: x\nparts: {a: 3}\n", r"own\.yaml: parts\.a: .*mapping.*\b3"),
        ("name: x\nparts: [3]\n", r"own\.yaml: parts: .*mapping.*\[3\]"),
        ("name: x\nnames: a.json\n", r"own\.yaml: names: .*list.*\[a, b\]"),
        ("name: x\nparts: {a: {width: 0}}\n", r"own\.yaml: parts\.a: width .*\b1\b.*\b0"),
        ("name: x\nparts: {a: {rate: 1}}\n", r"own\.yaml: parts\.a\.width: .*recipe.*"),
        ("parts: {a: {rate: 1}}\n", r"own\.yaml: name: .*recipe.*"),
        ("name: x\nname: y\n", r"own\.yaml: line 2: .*duplicate.*\bname"),
        ("name: [\n", r"own\.yaml: line 2: .*node content"),
        ("- name\n", r"own\.yaml: .*mapping.*"),
        ("name: x\noutput: ${named}\n", r"own\.yaml: output: .*'named'.*"),
        ("base: conf\nname: x\n", r"own\.yaml: base: .*list.*'conf'"),
        ("base: [part/smaller]\nname: x\n", r"own\.yaml: base: .*part/smaller, .*part/small\b.*"),
        ("base: [own]\nname: x\n", r"own\.yaml: base: .*circle"),
        ("base: [part/wrong]\nname: x\n", r"conf/part/wrong\.yaml: named: .*\bname\b.*"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(text: str, message: str) -> None:
    files = {"part/small": "name: small\n", "part/wrong": "named: small\n"}
    with pytest.raises(RecipeError) as error:
        load(text, **files)
    assert re.fullmatch(rf"{message}.*", str(error.value))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("name", r"name: .*key=value.*seed=1"),
        ("named=y", r"named=y: named: .*\bname\b.*"),
        ("parts.b.width=1", r"parts\.b\.width=1: parts\.b: .*\ba"),
        ("parts.a.widths=1", r"parts\.a\.widths=1: parts\.a\.widths: .*\bwidth\b.*"),
        ("parts.a.width.x=1", r"parts\.a\.width\.x=1: parts\.a\.width\.x: .*key"),
        ("mixture.nw=1", r"mixture\.nw=1: mixture\.nw: .*\bnew\b.*"),
        (
            "parts.a.width=1.5",
            r"parts\.a\.width=1\.5: parts\.a\.width: .*'1\.5'.*Integer",
        ),
        ("extra.widths=1", r"extra\.widths=1: extra\.widths: .*\bwidth\b.*"),
        ("names=[a", r"names=\[a: \[a .*YAML.*"),
        ("names=a.json", r"names=a\.json: names: .*list.*\[a, b\]"),
        (
            "parts.a.width=1:30",  # which YAML 1.1 takes for 90
            r"parts\.a\.width=1:30: parts\.a\.width: .*'1:30'.*Integer",
        ),
        ("mixture={a:1}", r"mixture=\{a:1\}: mixture\.a:1: .*colon.*\{vision: 1e-5\}"),
    ],
)
def test_a_mistake_in_a_word_is_one_line(word: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load("name: x\nparts: {a: {width: 1}}\nmixture: {new: 1}\n", word)
    assert re.fullmatch(rf"{message}.*", str(error.value))


def test_the_recipe_of_a_stage_of_an_earlier_version_is_read_and_no_other_file_has_its_names(tmp_path: Path) -> None:
    text = "base: [recipe/videollama3-tiny]\nname: old\ntrainer: {sight: false}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    (tmp_path / "mine.yaml").write_text(text)
    assert load_recipe(tmp_path / "recipe.yaml").trainer.blank_media_check is False
    with pytest.raises(RecipeError, match=r"trainer\.sight: unknown key"):
        load_recipe(tmp_path / "mine.yaml")
