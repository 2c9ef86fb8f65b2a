"""Parse time spans in a free-text answer, in seconds or as shares of the video.

A moment is a clock time ("1:05", "01:02:03.5"), a number with units ("1m5s", "2 min", "5 seconds", "1分5秒") or a plain number
of seconds.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from lightning_apollo.inference.parsers.numbers import NUMBER, to_float
from lightning_apollo.inference.parsers.wrapping import without_thinking

Span = tuple[float, float]

_UNIT_END = r"(?![A-Za-z])"
_HOURS = rf"(?:h|hrs?|hours?|小时|时){_UNIT_END}"
_MINUTES = rf"(?:(?:m|mins?|minutes?){_UNIT_END}|分钟?|'(?!'))"
_SECONDS = rf"(?:(?:s|secs?|seconds?){_UNIT_END}|秒钟?|\"|'')"
_MILLISECONDS = rf"(?:ms|msecs?|milliseconds?|毫秒){_UNIT_END}"
_MINUTES_BEFORE_DIGIT = r"(?:m|mins?|minutes?|分钟?|'(?!'))"
_AND = r"[\s,]*(?:and\s+)?"
_MOMENT = re.compile(
    r"(?<![A-Za-z0-9_])(?<![A-Za-z0-9_]\.)(?<!\d[,:])(?P<sign>(?<!\d\s)(?<![\w)\]%\"'.:\-])[-−])?(?:"
    r"(?:(?P<clock_h>\d{1,3}):)?(?P<clock_m>\d{1,3}):(?P<clock_s>\d{2}(?:[.,]\d+)?)(?![\d:]|\.\d)"
    rf"|(?P<h>{NUMBER})\s*(?:{_HOURS}|h(?=\d)){_AND}(?:(?P<hm>{NUMBER})\s*(?:{_MINUTES}|{_MINUTES_BEFORE_DIGIT}(?=\d)))?"
    rf"(?:{_AND}(?P<hs>{NUMBER})\s*{_SECONDS})?"
    rf"|(?P<m>{NUMBER})\s*(?:{_MINUTES}|{_MINUTES_BEFORE_DIGIT}(?=\d))(?:{_AND}(?P<ms>{NUMBER})\s*{_SECONDS})?"
    rf"|(?P<thousandths>{NUMBER})\s*{_MILLISECONDS}"
    rf"|(?P<s>{NUMBER})\s*{_SECONDS}"
    rf"|(?P<share>{NUMBER})\s*%"
    rf"|(?P<plain>{NUMBER})(?![A-Za-z0-9_:%])"
    r")(?:\s*(?:seconds?|secs?|s|minutes?|mins?)\b)?"
)
_UNIT_SECONDS = {"h": 3600.0, "hm": 60.0, "hs": 1.0, "m": 60.0, "ms": 1.0, "s": 1.0, "thousandths": 0.001}

_ABOUT = r"(?:the\s+)?(?:(?:about|approximately|approx\.?|around|roughly|nearly|almost|大约|约|第)\s*|[~≈]\s*)?"
_TO = re.compile(
    rf"\s*(?:-+>?|–|—|−|→|⇒|~|to|until|till|through|thru|up\s+to|\.{{2,3}}|…|到|至)\s*(?:the\s+)?{_ABOUT}",
    re.IGNORECASE,
)
_AND_BETWEEN = re.compile(rf"\s*,?\s*(?:and|与|和|及)\s*{_ABOUT}", re.IGNORECASE)
_BETWEEN = re.compile(rf"(?:between|from|在|介于)\s*{_ABOUT}$", re.IGNORECASE)
_COMMA = re.compile(r"\s*[,;]\s*")
_PAIR = re.compile(r"[\[(<{]\s*[\"']?([^\s,;\[\](){}\"']+)[\"']?\s*[,;]\s*[\"']?([^\s,;\[\](){}\"']+)[\"']?\s*[\])>}]")
_BEGIN_WORD = re.compile(r"(?:start|begin|onset|(?<![a-z])from(?=[\"'_]?\s*[:=_]))\w*|开始\w*?|起始\w*?", re.IGNORECASE)
_END_WORD = re.compile(r"(?<![a-z])(?:end|finish|stop|conclud|until|till)\w*|结束\w*?|终止\w*?", re.IGNORECASE)
_LENGTH_WORD = re.compile(
    r"\b(?:for|lasts?|lasting|lasted|duration|long|length|taking|takes?|every|within|first|last)\b|持续|时长",
    re.IGNORECASE,
)


class _Moment(NamedTuple):
    begin: int  # place in the text
    end: int
    value: float  # seconds, or the share of the video
    kind: str  # clock, unit, minutes, plain, share


def find_span(answer: str, unit: str = "seconds") -> Span | None:
    """Begin and end in `unit`, "seconds" or "fractions" of the video, the smaller one first; None where none is said.

    The first span of an answer counts, as in lmms-eval's charades_sta/eval_tvg.py, which sorts reversed ones as well. Clock
    times are times: "1:05" is 65 s. With fractions, 25 % is 0.25 and a time is no answer; with seconds, a per cent is none.
    """
    spans = find_spans(answer, unit)
    return spans[0] if spans else None


def find_spans(answer: str, unit: str = "seconds") -> list[Span]:
    """All spans that the answer writes as "x - y", "from x to y" or [x, y]; else the one that start and end words, or its
    only two times, make. Empty where that leaves a choice.
    """
    text = _clean(answer)
    moments = _moments(text)
    if moments is None:
        return []
    pairs = _ranges(text, moments) or _said_ends(text, moments) or _only_two(text, moments)
    spans = [_span(first, second, unit) for first, second in pairs]
    return [span for span in spans if span is not None] if None not in spans else []


def _clean(answer: str) -> str:
    text = unicodedata.normalize("NFKC", without_thinking(answer)).replace("′", "'").replace("″", '"').replace("’", "'")
    text = _PAIR.sub(lambda pair: f"[{pair[1]} , {pair[2]}]", text)  # "[1,234]" holds two numbers
    return re.sub(r"[*`$]|\\boxed|\\text", " ", text)


def _moments(text: str) -> list[_Moment] | None:
    """Every time of the text; None where a clock time is none ("1:75")."""
    moments = []
    for match in _MOMENT.finditer(text):
        values = {name: value for name, value in match.groupdict().items() if value is not None and name != "sign"}
        sign = -1.0 if match["sign"] else 1.0
        if "clock_s" in values:
            hours, minutes = int(values.get("clock_h", 0)), int(values["clock_m"])
            seconds = float(values["clock_s"].replace(",", "."))
            if seconds >= 60 or ("clock_h" in values and minutes >= 60):
                return None
            value, kind = 3600 * hours + 60 * minutes + seconds, "clock"
        elif "plain" in values:
            value, kind = to_float(values["plain"]), "plain"
        elif "share" in values:
            value, kind = to_float(values["share"]) / 100, "share"
        else:
            value = sum(to_float(number) * _UNIT_SECONDS[name] for name, number in values.items())
            kind = "minutes" if set(values) == {"m"} else "unit"
        moments.append(_Moment(match.start(), match.end(), sign * value, kind))
    return moments


def _ranges(text: str, moments: list[_Moment]) -> list[tuple[_Moment, _Moment]]:
    """Neighbours with a word or sign of a range between them; no longer chain, such as a date, is one."""
    pairs, place = [], 0
    while place + 1 < len(moments):
        first, second = moments[place], moments[place + 1]
        if _is_range(text, first, second):
            follows = place + 2 < len(moments) and _is_range(text, second, moments[place + 2])
            if follows:
                return []
            pairs.append((first, second))
            place += 1
        place += 1
    return pairs


def _is_range(text: str, first: _Moment, second: _Moment) -> bool:
    between = text[first.end : second.begin]
    if _TO.fullmatch(between):
        return True
    if _AND_BETWEEN.fullmatch(between):
        return _BETWEEN.search(text[: first.begin]) is not None
    brackets = text[: first.begin].rstrip(" \"'")[-1:], text[second.end :].lstrip(" \"'")[:1]
    return bool(_COMMA.fullmatch(re.sub(r"[\"']", "", between))) and brackets in {("[", "]"), ("(", ")"), ("<", ">")}


def _said_ends(text: str, moments: list[_Moment]) -> list[tuple[_Moment, _Moment]]:
    """The first time behind a word of beginning and the first behind a word of ending, however they are ordered."""
    begin, end = (_first_behind(text, moments, word) for word in (_BEGIN_WORD, _END_WORD))
    return [(begin, end)] if begin and end and begin != end else []


def _first_behind(text: str, moments: list[_Moment], word: re.Pattern[str]) -> _Moment | None:
    for match in word.finditer(text):
        behind = [moment for moment in moments if moment.begin >= match.end()]
        if behind and not re.search(r"[.;\n]\s", text[match.end() : behind[0].begin]):
            return behind[0]
    return None


def _only_two(text: str, moments: list[_Moment]) -> list[tuple[_Moment, _Moment]]:
    """The only two times, where they are surely times and neither of them is a length."""
    if len(moments) != 2 or _LENGTH_WORD.search(text):
        return []
    first, second = moments
    if (first.kind == "plain") != (second.kind == "plain"):
        return []
    if (
        first.kind != "plain"
        or not re.search(r"[^\W\d_]", text)
        or _BEGIN_WORD.search(text)
        or re.search("timestamp|时间", text)
    ):
        return [(first, second)]
    return []


def _span(first: _Moment, second: _Moment, unit: str) -> Span | None:
    """The pair in the unit; None where one of the two is in another."""
    kinds = {first.kind, second.kind}
    if unit == "fractions":
        values = [moment.value / 100 if kinds == {"plain", "share"} and moment.kind == "plain" else moment.value
                  for moment in (first, second)]  # fmt: skip
        if not kinds <= {"plain", "share"}:
            return None
    elif "share" in kinds or kinds == {"plain", "clock"}:
        return None
    else:
        scale = 60.0 if first.kind == "plain" and second.kind == "minutes" else 1.0  # "1 to 2 minutes"
        values = [first.value * scale, second.value]
    return min(values), max(values)
