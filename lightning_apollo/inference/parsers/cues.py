"""Cue words around a label, English and Chinese. Naming, denial, question and retraction."""

from __future__ import annotations

import re

_FLAGS = re.IGNORECASE | re.ASCII  # Chinese signs are no part of English words
_REACH = 200  # characters in front of a mention that say something about it

_NOUN = r"(?:answers?|ans|choice|option|caption|sentence|statement|description|selection|letter|response|label)"
_OFFERED = r"(?:option|choice|caption|sentence|statement|description|选项)"
_MODAL = r"(?:is|was|are|be|being|'s|would\s+be|should\s+be|must\s+be|will\s+be|has\s+to\s+be|might\s+be|could\s+be|may\s+be)"
_ADVERB = (
    r"(?:definitely|clearly|certainly|surely|indeed|probably|likely|most\s+likely|obviously|simply|just|therefore|thus|hence"
    r"|actually|really|then|still)"
)
_RIGHT = r"(?:correct|right|best|true|accurate|appropriate|answer|final|proper|suitable)"
_FILLER = rf"(?:\s*(?:indeed|only|the|to\s+be|to\s+this\s+question|to\s+the\s+question|given|here|{_ADVERB}|(?:most\s+)?{_RIGHT}))*"
_BEFORE_LABEL = rf"(?:\s*(?:the\s+)?(?:letter|number|label|{_OFFERED}))?\s*[\s(\[{{\"'“「《【:=]*$"
_DASH = r"[:=\-–—>→]*"

_SAYS_ENGLISH = (
    rf"\b(?:(?:answers?|ans)\b(?:\s+(?:choice|option|letter))?"
    rf"|(?:{_RIGHT}|chosen|selected|my|preferred|matching)\s+{_NOUN}\b|(?:choice|option|caption|selection|letter|label)\s+{_MODAL})"
    rf"{_FILLER}\s*{_MODAL}?{_FILLER}\s*{_DASH}"
    r"|\bI(?:\s+(?:would|will|'d|'ll|have\s+to|must|shall|can)|'d|'ll)?(?:\s+(?:therefore|thus|hence|definitely|still))?\s+"
    r"(?:choose|chose|pick|picked|select|selected|say|answer|go\s+with|went\s+with|opt\s+for|vote\s+for)"
    r"|^\s*(?:choose|pick|select)"
)
_SAYS_CHINESE = (
    r"(?:答案|(?:正确|最佳|最终|最合适)的?(?:选项|选择)|应选择?|应该选择?|故选择?|所以选择?|因此选择?|我选择?|(?<![不未])选择?)"
    r"\s*(?:应该|应当|应|就|显然)?\s*(?:是|为|选)?\s*[:\-]*"
)
SAYS = re.compile(rf"(?:{_SAYS_ENGLISH}|{_SAYS_CHINESE}){_BEFORE_LABEL}", _FLAGS)
CONCLUDES = re.compile(
    rf"(?:\b(?:final|in\s+conclusion|to\s+conclude|in\s+summary)\b[\s,]*(?:the\s+)?(?:correct\s+|best\s+)?{_NOUN}?"
    rf"(?:\s*{_MODAL})?{_FILLER}\s*{_DASH}|最终(?:的)?(?:答案|选择)\s*(?:应该|应)?(?:是|为|选)?\s*:?){_BEFORE_LABEL}",
    _FLAGS,
)
IS_RIGHT = re.compile(
    rf"[)\]}}\"'”」》】]*\s*(?:选项|项)?\s*(?:(?:is|was|would\s+be|must\s+be|should\s+be|seems|appears|looks)"
    rf"(?:\s+(?:to\s+be|the|only|most|{_ADVERB}))*\s+{_RIGHT}\b|(?:是|为)?(?:正确|对)的?)",
    _FLAGS,
)

_CLAUSE = re.compile(
    r"[.;:!?,。、\n]|\b(?:but|however|so|therefore|thus|hence|because|since|although|though)\b|而是|但|所以|因此|应该?选",
    _FLAGS,
)
_ALL_BUT = re.compile(r"\b(?:any(?:thing)?|all|every(?:thing)?|none)\s+but\b", _FLAGS)
_DENIES_BEFORE = re.compile(
    r"\b(?:not(?!\s+only\b)|never|neither|nor|cannot|rather\s+than|instead\s+of|except|other\s+than|unlike|exclud\w+|eliminat\w+"
    r"|rul(?:e|es|ed|ing)\s+out|reject\w*|discard\w*|no\s+longer|against)\b|n['’]t\b|n['’]t\s"
    r"|不是|不选|并非|非选|排除|而不|不应|不能|不会|不该|别选|不可能|不为",
    _FLAGS,
)
_DENIED_AFTER = re.compile(
    rf"[)\]}}\"'”」》】]*\s*(?:选项|项|both|all)?\s*(?:"
    rf"(?:(?:is|are|was|were|seems?|looks?|appears?|sounds?)(?:\s+(?:to\s+be|both|also|all|{_ADVERB}))*\s+)"
    r"(?:not\b|wrong|incorrect|false|inaccurate|out\b|ruled\s+out|eliminated|excluded|impossible|implausible|unlikely|invalid"
    r"|never|no\s+longer|less\s+likely|irrelevant|neither)"
    r"|(?:is|are|was|were|does|do|did|can|could|would|should|must|has|have|might|may|will)(?:n['’]t\b|\s+not\b|not\b)"
    r"|(?:can|could|may|should|must)\s+be\s+(?:ruled\s+out|eliminated|excluded|rejected|discarded|dismissed)"
    r"|fails?\b|contradicts?\b|wrong\b|incorrect\b|[✗✘×❌]"
    r"|(?:是|就是|明显|显然)?\s*(?:错误|错|不对|不正确|不符|不是|不成立|不可能|被排除|可以排除|可排除))",
    _FLAGS,
)
CORRECTS = re.compile(
    r"\b(?:wait|however|correction|corrected|on\s+second\s+thoughts?|scratch\s+that|oops|my\s+mistake|i\s+was\s+wrong|i\s+mean(?:t)?"
    r"|i\s+made\s+(?:a|an)\s+(?:mistake|error)|chang(?:e|ed|ing)\s+my\s+(?:mind|answer)|upon\s+(?:reflection|closer\s+inspection)"
    r"|let\s+me\s+(?:re\w+|correct)|sorry|actually)\b|(?<=[\w.,;)!—–-])\s*\bno\s*[,.;:!—–-]|等一下|等等|更正|我错了|重新(?:考虑|看)|改选|改为",
    _FLAGS,
)
OPENING_ENDS = re.compile(r"[\"'”」》】]*\s*(?:[.)\]}:,;。\n]|\s[-–—]\s|[-–—]\s|\($|$|\s+\()")
CLAUSE_ENDS = re.compile(r"[)\]}\"'”」》】]*\s*(?:[.,;:!。、\n)\]]|$|[-–—])")
JOINT = re.compile(
    r"[.)\]}\"'”」》】]*\s*(?:(?:,|/|\\|&|\+|\||、|和|或者?|与|及|以及)+\s*(?:and/or|and|or|nor)?|and/or|and|or|nor|as\s+well\s+as|vs\.?"
    r"|but\s+also)"
    rf"\s*(?:also\s+|either\s+|maybe\s+|possibly\s+|perhaps\s+)?(?:{_OFFERED}\s*)?[(\[{{\"'“「《【]*"
    r"|[)\]}\"'”」》】]*[ \t]+[(\[{\"'“「《【]*",
    _FLAGS,
)

NOTHING_BETWEEN = re.compile(r"[.)\]}\"'”」]*\s+[(\[{\"'“「]*")

_IN_CHINESE = r"是选择项为案该能对即故而和或与及除到"  # signs behind which a Chinese sentence names a label
_NAMES_LABEL = re.compile(
    rf"(?:^|[^\w\s一-鿿]\s*|\n\s*|[{_IN_CHINESE}]\s*|\b(?:is|be|was|are|it's|that's|choose|chose|pick|select|say|said|think|believe"
    rf"|guess|suppose|so|then|therefore|thus|hence|either|both|neither|between|but|yes|not|than|of\s+course|that|because|since|and"
    rf"|or|nor|mean|meant|match|matches|fits|suits|describes|maybe|perhaps|possibly|(?:go|going|goes|went|stick\w*|agree)\s+with|(?:opt|opting|vote|voting|go|going)\s+for"
    rf"|lean\w*\s+towards?|instead\s+of|rul(?:e|es|ed|ing)\s+out|exclud\w+|eliminat\w+|{_ADVERB}|answers?|responses?|{_OFFERED}s?)\s+)[(\[{{\"'“「《【]*$",
    _FLAGS,
)
_HEADS = re.compile(rf"(?:^|[\n.;!?。]|^\s*[-•])\s*(?:{_OFFERED}\s*)?[(\[]*$", _FLAGS | re.MULTILINE)
_OFFERED_BEFORE = re.compile(rf"(?:\b{_OFFERED}s?|选项)\s*:?\s*[(\[{{\"'“「《【]*$", _FLAGS)
_AT_FIRST = re.compile(r"\b(?:initially|at\s+first|originally|earlier)\b[^.!?;\n]*$", _FLAGS)
_ASIDE = re.compile(
    rf"\b(?:in|of|from|like|to|for|than|as|by|under|about|(?<!go\s)(?<!going\s)(?<!went\s)with)\s+(?:the\s+)?(?:{_OFFERED}\s*)?"
    r"[(\[{\"'“「《【]*$",
    _FLAGS,
)
_LETTER_USE = (  # what may follow A and I where they are labels
    r"(?:is|are|was|isn't|and|or|nor|because|since|as|seems|looks|would|must|should|could|cannot|can't|can|may|might|matches"
    r"|describes|best|fits|which|but|not|does|doesn't|shows|vs|rather|instead|both|then|however|here|fails|contradicts|wrong"
    r"|incorrect|correct|be|will)\b"
)
_ARTICLE = re.compile(rf"[ \t]+(?!{_LETTER_USE})[A-Za-z]", _FLAGS)
_PRONOUN = re.compile(r"[ \t]+[a-z]|'")


def ends_with(cue: re.Pattern[str], text: str, begin: int) -> bool:
    """True if a cue that ends in $ stands directly in front of `begin`."""
    return cue.search(text, max(0, begin - _REACH), begin) is not None


def label_pattern(either: str) -> re.Pattern[str]:
    """The labels where they stand for themselves: no part of a word, of "A-frame", "A's", "B.C." or "C++"."""
    return re.compile(
        rf"(?<![A-Za-z0-9_])(?<![A-Za-z0-9]['’-])(?<![Nn]/)(?<![A-Za-z0-9]\.)(?P<label>{either})"
        r"(?![A-Za-z0-9_#]|['’](?:s|t|m|d|ll|re|ve)\b|-[A-Za-z]|\+\+|\.[A-Za-z]\.|\.\d|%)",
        _FLAGS,
    )


def is_label(text: str, match: re.Match[str], is_exact: bool, is_joined: bool) -> bool:
    """True if a label is meant, by how it is written and what stands beside it; `is_joined`: to a label before it."""
    begin, end, label = match.start(), match.end(), match["label"]
    is_bracketed = _bracketed(text, begin, end)
    is_led = bool(
        ends_with(SAYS, text, begin) or ends_with(CONCLUDES, text, begin) or ends_with(_OFFERED_BEFORE, text, begin)
    )
    opens = not text[:begin].strip() and re.match(r"\s*[.):]", text[end:]) is not None
    if not is_bracketed and not opens and label.lower() in ("a", "i"):
        follows = _ARTICLE if label.lower() == "a" else _PRONOUN
        if follows.match(text, end):
            return False
    if label.isdigit():
        return is_led or is_listed(text, begin, end) or (is_joined and is_bracketed)
    if is_led or is_bracketed or opens:
        return True
    if not is_exact:
        return is_joined and CLAUSE_ENDS.match(text, end) is not None
    return is_joined or ends_with(_NAMES_LABEL, text, begin)


def _bracketed(text: str, begin: int, end: int) -> bool:
    pairs = ("()", "[]", "{}", '""', "''", "“”", "「」", "《》", "【】", "<>")
    return text[begin - 1 : begin] + text[end : end + 1] in pairs and not text[max(0, begin - 2) : begin - 1].isalnum()


def is_listed(text: str, begin: int, end: int) -> bool:
    """True if a label heads a line or sentence, as the choices of a prompt do: "A. ", "(B) ", "Option C: "."""
    return ends_with(_HEADS, text, begin) and re.match(r"\s*[.):\]、]", text[end:]) is not None


def is_denied(text: str, begin: int, end: int) -> bool:
    """True if the clause in front of the mention or the words behind it deny it."""
    before = re.sub(r"\bnot\s+only\b", " ", text[max(0, begin - _REACH) : begin], flags=_FLAGS)
    clause = _CLAUSE.split(_ALL_BUT.sub("not ", before))[-1]
    return _DENIES_BEFORE.search(clause) is not None or _DENIED_AFTER.match(text, end) is not None


def is_asked(text: str, end: int) -> bool:
    return re.match(r"[)\]\"'”」]*\s*\?", text[end:]) is not None


def is_aside(text: str, begin: int) -> bool:
    """True if the mention only tells where something is ("the man in option A"), and is not said to be the answer."""
    return ends_with(_ASIDE, text, begin)


def is_past(text: str, begin: int) -> bool:
    """True if the mention is what was thought before: "At first I chose A"."""
    return ends_with(_AT_FIRST, text, begin)


def as_words(text: str) -> str:
    """A pattern of a text as whole words, any white space between them."""
    words = r"\s+".join(map(re.escape, text.split()))
    left = r"(?<![A-Za-z0-9_])(?<!\d\.)" if re.match(r"[A-Za-z0-9_]", text) else ""
    right = r"(?![A-Za-z0-9_])(?!\.\d)" if re.search(r"[A-Za-z0-9_]$", text) else ""
    return left + words + right


_ANSWER_WORD_FOLLOWS = re.compile(
    r"[\"'”」]*\s*(?:[.,;:!\n—–-]|$|(?:it|he|she|they|there|this|that|these|those|the|we|you|i|his|her|because|since|as|indeed"
    r"|definitely|sir)\b)",
    _FLAGS,
)
_ANSWER_WORD_ENDS = re.compile(
    rf"(?:,|\b(?:{_ADVERB}|so|but|(?:it|that)(?:'s|\s+is)(?:\s+an?)?))\s+[\"'“「(]*$|,[\"'“「(]*$", _FLAGS
)  # in front of a word that ends a clause
_ANSWER_WORD_LEADS = re.compile(
    r"(?:^|[.!?\n:]\s*)(?:well|so|hmm|oh|um|sure|then|ok|okay|i\s+(?:think|believe|say)|i'd\s+say)?[\s,]*[\"'“「(]*$",
    _FLAGS,
)


def is_answer_word(text: str, begin: int, end: int) -> bool:
    """True if yes or no answers here: it opens a sentence, ends one, or follows "the answer is", and no noun follows."""
    if any(ends_with(lead, text, begin) for lead in (SAYS, CONCLUDES, _ANSWER_WORD_ENDS)):
        return CLAUSE_ENDS.match(text, end) is not None
    return bool(ends_with(_ANSWER_WORD_LEADS, text, begin) and _ANSWER_WORD_FOLLOWS.match(text, end))


_YES_NO_CHINESE = re.compile(
    r"(?:答案)?(?:应该|应)?[是为]?[\s:]*(?:(?P<no>否|没有|不(?:是|对|正确)?(?:的)?|错(?:误|的)?)|(?P<yes>是(?:的)?|对(?:的)?|正确(?:的)?|有))"
    r"(?:[.,!。].*)?",
    re.DOTALL,
)


def yes_or_no_in_chinese(text: str) -> str:
    """ "yes" or "no" where the answer begins with the Chinese word for it, else nothing."""
    match = _YES_NO_CHINESE.fullmatch(text)
    return "" if match is None else "no" if match["no"] else "yes"
