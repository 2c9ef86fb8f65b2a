"""Parse the choice that a free-text answer names.

Every label ("B", "(b)", "option B") and every text of a choice that the answer mentions is read with what stands around it:
mentions that "and", "or" and commas join are one group, a group may be denied ("not A", "A is wrong"), asked ("A?"), or said
to be the answer. What is left must be one choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lightning_apollo.inference.parsers import cues
from lightning_apollo.inference.parsers.wrapping import final_answer

_LISTED, _NAMED, _ALONE, _OPENS, _SAID, _CONCLUDED = range(6)  # how surely a mention is the answer
_YES_NO = {"yes", "no"}
_FEW_WORDS = 5
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


class Choice(NamedTuple):
    """One of the answers that a prompt offers."""

    label: str  # how the prompt calls it: "A"; "" where it is offered by its text alone
    text: str


class _Mention(NamedTuple):
    """One place where an answer names a choice, by its label with the text behind it or by its text."""

    begin: int
    end: int
    choice: int
    is_listed: bool  # heads a line or sentence, as the choices of a prompt do


@dataclass(frozen=True)
class _Group:
    """Mentions that stand side by side and share what is said of them."""

    begin: int
    end: int
    indices: frozenset[int]
    weight: int  # _LISTED to _CONCLUDED
    is_denied: bool


def find_choice(answer: str, choices: Sequence[Choice]) -> int | None:
    """The position of the choice that the answer names; None where it names none, or several.

    Labels count in any case where they are all of the answer, in brackets, or behind a word such as "answer" or 答案; a
    capital alone counts where a sentence can name it ("so it is B"). In "A man walks" A is an article. Where no label is
    named, the text of a choice counts, of texts inside each other the longest; yes and no count as answers alone, not in
    "There is no way to tell". A later correction ("wait, B") replaces what stands before it.
    """
    text = final_answer(answer)
    whole = _find_whole(text, choices)
    if whole is not None:
        return whole
    groups = _label_groups(text, choices)
    if any(not group.is_denied for group in groups):
        return _decide(text, groups)
    denied = frozenset(index for group in groups for index in group.indices)
    found = _decide(text, _text_groups(text, choices))
    return None if found in denied else found


def _find_whole(text: str, choices: Sequence[Choice]) -> int | None:
    """The choice that is the whole of the answer: its label, its text or both; labels go before texts."""
    said = cues.yes_or_no_in_chinese(text) or _plain(text)
    if not said:
        return None
    forms = (
        [_plain(choice.label) for choice in choices],
        [_plain(choice.text) for choice in choices],
        [_plain(f"{choice.label} {choice.text}") for choice in choices],
        [_in_digits(_plain(choice.text)) for choice in choices],
    )
    for form in forms:
        wanted = _in_digits(said) if form is forms[-1] else said
        same = [index for index, value in enumerate(form) if value and value == wanted]
        if same:
            return same[0] if len(same) == 1 else None
    return None


def _plain(text: str) -> str:
    """Lower case, words alone: without punctuation at their ends and with one space between them."""
    return " ".join(
        word for word in (word.strip(".,;:!?()[]{}\"'“”‘’「」《》。、") for word in text.lower().split()) if word
    )


def _in_digits(plain: str) -> str:
    return str(_WORDS.index(plain)) if plain in _WORDS else plain


def _label_groups(text: str, choices: Sequence[Choice]) -> list[_Group]:
    labels = {choice.label.lower(): index for index, choice in enumerate(choices) if choice.label}
    if not labels:
        return []
    either = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    is_all_small = text == text.lower() and len(text.split()) <= _FEW_WORDS  # "not a but b"
    mentions: list[_Mention] = []
    for match in cues.label_pattern(either).finditer(text):
        index = labels[match["label"].lower()]
        if mentions and match.start() < mentions[-1].end:
            continue  # inside the text of the choice before
        is_exact = is_all_small or match["label"] == choices[index].label
        is_joined = bool(mentions) and cues.JOINT.fullmatch(text, mentions[-1].end, match.start()) is not None
        if cues.is_label(text, match, is_exact, is_joined):
            end = _behind_own_text(text, match.end(), choices[index].text)
            mentions.append(_Mention(match.start(), end, index, cues.is_listed(text, match.start(), match.end())))
    return _grouped(text, mentions)


def _behind_own_text(text: str, end: int, own: str) -> int:
    """The place behind a label's own text, where that follows it: "B. A man and a dog" mentions no A."""
    match = re.compile(rf"\s*[.):,\-–—]*\s*[\"']?{re.escape(own.strip().rstrip('.'))}(?!\w)", re.IGNORECASE).match(
        text, end
    )
    return match.end() if match and own.strip() else end


def _text_groups(text: str, choices: Sequence[Choice]) -> list[_Group]:
    """The texts of choices that occur as words, those inside a longer one aside."""
    found: list[_Mention] = []
    for index, choice in enumerate(choices):
        wanted = " ".join(choice.text.split()).rstrip(".")
        if not wanted:
            continue
        for match in re.finditer(cues.as_words(wanted), text, re.IGNORECASE):
            if wanted.lower() not in _YES_NO or cues.is_answer_word(text, match.start(), match.end()):
                found.append(_Mention(match.start(), match.end(), index, False))
    outer = [mention for mention in found if not any(_is_inside(mention, other) for other in found)]
    return _grouped(text, sorted(outer))


def _is_inside(mention: _Mention, other: _Mention) -> bool:
    longer = other.end - other.begin > mention.end - mention.begin
    return longer and other.begin <= mention.begin and mention.end <= other.end


def _grouped(text: str, mentions: Sequence[_Mention]) -> list[_Group]:
    """Neighbours that only "and", "or", commas and the like part, as one group with one meaning."""
    runs: list[list[_Mention]] = []
    for mention in mentions:
        if runs and _is_joined(text, runs[-1], mention):
            runs[-1].append(mention)
        else:
            runs.append([mention])
    repeats_choices = sum(run[0].is_listed for run in runs) > 1
    groups = []
    for run in runs:
        begin, end = run[0].begin, run[-1].end
        weight = _weight(text, begin, end)
        if weight < _SAID and run[0].is_listed and repeats_choices:
            weight = _LISTED
        indices = frozenset(mention.choice for mention in run)
        groups.append(_Group(begin, end, indices, weight, cues.is_denied(text, begin, end)))
    return groups


def _is_joined(text: str, run: list[_Mention], mention: _Mention) -> bool:
    """True if a mention continues a run: behind "and", or alone at the end of the answer ("A. B.")."""
    if cues.JOINT.fullmatch(text, run[-1].end, mention.begin):
        return True
    stands_apart = cues.is_denied(text, run[0].begin, run[-1].end) or text[mention.end :].strip(" .)]}\"'”」\n")
    return not stands_apart and cues.NOTHING_BETWEEN.fullmatch(text, run[-1].end, mention.begin) is not None


def _weight(text: str, begin: int, end: int) -> int:
    if cues.is_asked(text, end) or cues.is_past(text, begin):
        return _LISTED
    if cues.ends_with(cues.CONCLUDES, text, begin):
        return _CONCLUDED
    if cues.ends_with(cues.SAYS, text, begin) or cues.IS_RIGHT.match(text, end):
        return _SAID
    if cues.is_aside(text, begin):
        return _LISTED
    if not text[:begin].strip(" \n\t([{\"'“「《-•") and cues.OPENING_ENDS.match(text, end):
        return _OPENS
    return _ALONE if cues.CLAUSE_ENDS.match(text, end) else _NAMED


def _decide(text: str, groups: Sequence[_Group]) -> int | None:
    """The one choice that the groups leave; None for none or several."""
    said = [group for group in groups if not group.is_denied]
    corrections = [match.end() for match in cues.CORRECTS.finditer(text)]
    behind = [
        [group for group in said if group.begin >= place and group.weight >= _ALONE]
        for place in corrections
        if any(group.end <= place for group in groups)
    ]
    corrected = next((late for late in reversed(behind) if late), None)
    if corrected is not None:
        said = corrected
    for least in (_CONCLUDED, _SAID):
        surely = [group for group in said if group.weight >= least]
        if surely:
            opening = [group for group in said if group.weight == _OPENS] if least == _SAID else []
            return _only(surely + opening)
    if any(group.weight == _OPENS for group in said):
        return _only([group for group in said if group.weight >= _ALONE])
    return _only([group for group in said if group.weight > _LISTED])


def _only(groups: Sequence[_Group]) -> int | None:
    indices = frozenset(index for group in groups for index in group.indices)
    return next(iter(indices)) if len(indices) == 1 else None
