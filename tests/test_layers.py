"""Layers of YAML on small dataclasses: what wins, and the exact line for every mistake."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lightning_apollo.layers import RecipeError, apply_word, build, read_layers, with_defaults


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


def test_words_take_yaml_values() -> None:
    whole = load(
        "name: x\n", "names=[a.json,b.jsonl]", "extra={width: 3}", "extra.rate=1e-5", "name='7'", "output=a=b/${name}"
    )
    assert whole == Whole(name="7", names=["a.json", "b.jsonl"], extra=Part(3, rate=1e-5), output="a=b/7")
    assert load("name: x\nextra: {width: 3}\n", "extra=null").extra is None
    assert load("name: x\n", "extra.width=3").extra == Part(3)  # a section that was off


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("named: x\n", "own.yaml: named: unknown key, did you mean name?"),
        ("name: x\nparts: {a: {widths: 1}}\n", "own.yaml: parts.a.widths: unknown key, did you mean width?"),
        ("zzz: x\n", "own.yaml: zzz: unknown key, known: name, parts, mixture, names, extra, output"),
        (
            "name: x\nparts: {a: {width: wide}}\n",
            "own.yaml: parts.a.width: Value 'wide' of type 'str' could not be converted to Integer",
        ),
        ("name: x\nparts: {a: 3}\n", "own.yaml: parts.a: a mapping of keys to values is expected, not 3"),
        ("name: x\nparts: [3]\n", "own.yaml: parts: a mapping of keys to values is expected, not [3]"),
        ("name: x\nnames: a.json\n", "own.yaml: names: a list is expected, for example [a, b]"),
        ("name: x\nparts: {a: {width: 0}}\n", "own.yaml: parts.a: width is at least 1, not 0"),
        ("name: x\nparts: {a: {rate: 1}}\n", "own.yaml: parts.a.width: required, but no layer of the recipe gives it"),
        ("parts: {a: {rate: 1}}\n", "own.yaml: name: required, but no layer of the recipe gives it"),
        ("name: x\nname: y\n", "own.yaml: line 2: found duplicate key name"),
        ("name: [\n", "own.yaml: line 2: did not find expected node content"),
        ("- name\n", "own.yaml: a mapping of keys to values is expected"),
        ("name: x\noutput: ${named}\n", "own.yaml: output: Interpolation key 'named' not found"),
        ("base: conf\nname: x\n", "own.yaml: base: a list of files is expected, not 'conf'"),
        ("base: [part/smaller]\nname: x\n", "own.yaml: base: no file part/smaller, did you mean part/small?"),
        ("base: [own]\nname: x\n", "own.yaml: base: the files name each other in a circle"),
        ("base: [part/wrong]\nname: x\n", "conf/part/wrong.yaml: named: unknown key, did you mean name?"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(text: str, message: str) -> None:
    files = {"part/small": "name: small\n", "part/wrong": "named: small\n"}
    with pytest.raises(RecipeError) as error:
        load(text, **files)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("name", "name: not an override; write key=value, for example seed=1"),
        ("named=y", "named=y: named: unknown key, did you mean name?"),
        ("parts.b.width=1", "parts.b.width=1: parts.b: unknown key, known: a"),
        ("parts.a.widths=1", "parts.a.widths=1: parts.a.widths: unknown key, did you mean width?"),
        ("parts.a.width.x=1", "parts.a.width.x=1: parts.a.width.x: unknown key"),
        ("mixture.nw=1", "mixture.nw=1: mixture.nw: unknown key, did you mean new?"),
        (
            "parts.a.width=1.5",
            "parts.a.width=1.5: parts.a.width: Value '1.5' of type 'float' could not be converted to Integer",
        ),
        ("extra.widths=1", "extra.widths=1: extra.widths: unknown key, did you mean width?"),
        ("name=[a", "name=[a: [a is not a YAML value"),
        ("mixture={a:1}", "mixture={a:1}: mixture.a:1: a colon needs a space behind it, for example {vision: 1e-5}"),
    ],
)
def test_a_mistake_in_a_word_is_one_line(word: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load("name: x\nparts: {a: {width: 1}}\nmixture: {new: 1}\n", word)
    assert str(error.value) == message
