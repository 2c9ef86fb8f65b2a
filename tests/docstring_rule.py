"""Rule for docstrings: a noun phrase or an imperative, in plain words.

`python -m tests.docstring_rule FILE...` prints one line for each offence, `path:line: sentence`, and exits with 1.
Of each docstring the first sentence is read. Nothing is imported from the files.
"""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_MAX_COMMAS = 1  # in the first sentence of a module
_PREPOSITION = r"(?:about|against|at|by|for|from|in|of|on|since|to|under|until|with|without) "
_QUESTION = r"(?:what|whatever|where|wherever|whether|who|whoever|whom|whose|how|why|when|which|if)\b"
_CLAUSE = re.compile(rf"(?:{_PREPOSITION})?{_QUESTION}", re.IGNORECASE)
_LATER_CLAUSE = re.compile(r"[:;] (?:what|where|whether|who|whom|how|why|when)\b")
_VERB = (
    "(?:adds|asks|begins|brings|builds|calibrates|casts|compares|compiles|decodes|does|encodes|fills|finds|folds|follows|forgets"
    "|freezes|gives|goes|has|hides|holds|imports|keeps|lets|listens|logs|makes|measures|multiplies|opens|packs|pins|plants|prepares"
    "|prints|puts|raises|reads|refuses|remembers|removes|renames|renders|requeues|returns|saves|says|sends|serves|sorts|splits"
    "|stands|starts|takes|tells|uses|waits|watches|writes|yields)"
)
_NO_MEASURE = r"(?!a (?:second|label)\b|one after )"  # "Bytes a second"
_THIRD_PERSON = re.compile(
    rf"(?:{_VERB} (?!of\b)|(?!this |its )[a-z]+[^s\W]s {_NO_MEASURE}(?:the|a|an|every|each|all|one|its|it|them|how)\b)",
    re.IGNORECASE,
)
_NOT_COUNTED = re.compile(r"`[^`]*`|\([^)]*\)|(?<=\d),(?=\d)")  # code, asides and thousands hold commas of their own
_RIDDLES = re.compile(
    r"""(?<![a-z])(?: go(?:es|ing)?[ _]on | went[ _]on | dear(?:est) | numbers?\ that\ (?:are|is)\ n(?:one|o\ number)
    | bad\ days | tak(?:e|es|en|ing)\ apart | ask(?:s|ed|ing)?\ (?:a\ (?:trained\ )?model\ )?a\ benchmark
    | called\ like\ no | another\ one\ than )(?![a-z])""",
    re.IGNORECASE | re.VERBOSE,
)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def is_refused(sentence: str, is_module: bool = True) -> bool:
    """True for a first sentence that is a clause, told in the third person or, of a module, crowded."""
    if _CLAUSE.match(sentence) or _RIDDLES.search(sentence) or _THIRD_PERSON.match(sentence):
        return True
    if not is_module:
        return False
    is_crowded = _NOT_COUNTED.sub("", sentence).count(",") > _MAX_COMMAS
    return is_crowded or bool(_LATER_CLAUSE.search(sentence))


def offences(source: str) -> Iterator[tuple[int, str]]:
    """Lines and sentences of one file that break the rule, riddles in messages and comments too."""
    found = {number: line.strip() for number, line in enumerate(source.splitlines(), start=1) if _RIDDLES.search(line)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and (docstring := ast.get_docstring(node)):
            sentence = first_sentence(docstring)
            if is_refused(sentence, isinstance(node, ast.Module)):
                found[node.body[0].lineno] = sentence
    yield from sorted(found.items())


def first_sentence(docstring: str) -> str:
    """First sentence of a docstring on one line."""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`(])", paragraph)[0]


def main(paths: Sequence[str]) -> int:
    """Print the offences of the files, and return 1 where there are any."""
    lines = [f"{path}:{number}: {text}" for path in paths for number, text in offences(Path(path).read_text("utf-8"))]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
