"""Scores by the rules of VideoLLaMA 3's released evaluation, where they differ from the organisers' (`--rule paper`).

A rule gives a score, or the question that a language model has to decide. Judges are asked the same as there, in words of
our own; they answer at temperature 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_apollo.data.conversation import TextPart
from lightning_apollo.evaluation.judge import Judge, JudgeError, ask_missing
from lightning_apollo.evaluation.metrics import is_close, relaxed_number, score_of
from lightning_apollo.evaluation.question import Question
from lightning_apollo.inference.parsers import find_span, find_spans, without_thinking
from lightning_apollo.progress import Progress

OFF_BY = (1, 100, 0.01)  # factors by which a number of ChartQA may be off (evaluation/benchmarks/chartqa.py)

_EQUAL_MEANING = (
    "Decide whether an answer to a question is right. It is right where it says the same as the correct answer, in whatever "
    "words, and wrong where it says less, more or something else.{question}\nCorrect answer: {expected}\nAnswer: {answer}\n"
    "Reply with one word: True or False."
)
_WHICH_CHOICE = (
    "An answer to a question of several choices is given below. Say which of the choices it means.\n"
    "Question: {question}\nAnswer: {answer}\nReply with the label of that choice in brackets, such as (A), or with (Z) where "
    "the answer means none of them or declines to answer."
)


@dataclass(frozen=True)
class Asked:
    """A question to a judge, and the score that its reply means; None where the reply cannot be read."""

    prompt: str
    score: Callable[[str], float | None]


Decision = float | Asked
MaybeScore = Callable[[str, Question], float | None]
PaperRule = Callable[[str, Question], Decision]


def _text(question: Question) -> str:
    return "\n".join(part.text for part in question.parts if isinstance(part, TextPart))


def _same_meaning(answer: str, question: Question, shows_question: bool) -> Asked:
    shown = f"\nQuestion: {_text(question)}" if shows_question else ""
    prompt = _EQUAL_MEANING.format(question=shown, expected=" or ".join(question.answers), answer=answer)
    return Asked(prompt, _true_or_false)


def _true_or_false(reply: str) -> float | None:
    said = {word.lower() for word in re.findall(r"\b(true|false)\b", without_thinking(reply), re.IGNORECASE)}
    return float(said == {"true"}) if len(said) == 1 else None


def chartqa(answer: str, question: Question) -> Decision:
    """Within 5 %, or so after a factor of 100 either way; else the same text, or a judge takes it for the same."""
    answer = answer.strip()
    if any(is_close(answer, expected, OFF_BY) for expected in question.answers):
        return 1.0
    are_numbers = relaxed_number(answer) is not None and all(map(relaxed_number, question.answers))  # zero is a text
    return 0.0 if are_numbers else _same_meaning(answer, question, shows_question=True)


def realworldqa(answer: str, question: Question) -> Decision:
    """The same text but for case and a full stop, or a judge takes it for the same."""
    said = answer.strip().lower().removesuffix(".")
    if said in [expected.strip().lower() for expected in question.answers]:
        return 1.0
    return _same_meaning(said, question, shows_question=False)


def activitynet_qa(answer: str, question: Question) -> Decision:
    """A judge decides every answer (evaluation/benchmarks/activitynet_qa.py)."""
    return _same_meaning(answer, question, shows_question=True)


def blink(answer: str, question: Question) -> Decision:
    """A label alone or one label in brackets; else a judge says which choice is meant (evaluation/benchmarks/blink.py)."""
    labels = [choice.label for choice in question.choices]
    said = answer.strip()
    if said in labels:
        return float(said in question.answers)
    for words in (said.split("\n\n")[-1].split(), said.split()):
        named = {label for label in labels if f"({label})" in words}
        if len(named) == 1:
            return float(named.pop() in question.answers)
    prompt = _WHICH_CHOICE.format(question=_text(question), answer=answer)
    return Asked(prompt, lambda reply: _chosen(reply, [*labels, "Z"], question.answers))


def _chosen(reply: str, labels: Sequence[str], answers: Sequence[str]) -> float | None:
    reply = without_thinking(reply)
    named = {label for label in labels if f"({label})" in reply} or {reply.strip(" .()")} & set(labels)
    return float(named.pop() in answers) if len(named) == 1 else None


def mme(answer: str, question: Question) -> Decision:
    """Yes where "yes" occurs anywhere, else no where "no" does (evaluation/benchmarks/mme.py)."""
    said = next((word for word in ("yes", "no") if word in answer.lower()), "")
    return float(said in question.answers)


def charades_sta(answer: str, question: Question) -> Decision:
    """All spans of the answer together over their union with the expected one (evaluation/benchmarks/base.py)."""
    expected = find_span(question.answers[0])
    assert expected is not None
    spans = find_spans(answer)
    shared = sum(max(0.0, min(end, expected[1]) - max(begin, expected[0])) for begin, end in spans)
    union = expected[1] - expected[0] + sum(end - begin for begin, end in spans) - shared
    return shared / union if union > 0 else 0.0


PAPER_RULES: dict[str, PaperRule] = {
    rule.__name__: rule for rule in (chartqa, realworldqa, activitynet_qa, blink, mme, charades_sta)
}


def decide(benchmark: str, answer: str, question: Question) -> Decision:
    """The score by the paper's rule, or what a judge has to be asked for it."""
    rule = PAPER_RULES.get(benchmark)
    return score_of(answer, question) if rule is None else rule(without_thinking(answer), question)


def paper_score(
    benchmark: str,
    said: Iterable[tuple[str, Question]],
    judge: Judge | None,
    output: Path,
    advance: Progress = lambda done, total: None,
) -> MaybeScore:
    """The score by the paper's rule, the judge having decided what it must of the (answer, question) pairs.

    Replies are kept in `output`; what is there is not asked again. The score of an answer is None where the judge's reply
    says neither that it is right nor that it is wrong.
    """
    asked = [decision.prompt for pair in said if isinstance(decision := decide(benchmark, *pair), Asked)]
    replies: dict[str, str] = {}
    if asked:
        if judge is None:
            raise JudgeError(f"the paper's rule for {benchmark} asks a judge: add --judge-url and --judge-model")
        replies = ask_missing(judge, asked, output, advance)

    def score(answer: str, question: Question) -> float | None:
        decision = decide(benchmark, answer, question)
        return decision.score(replies[decision.prompt]) if isinstance(decision, Asked) else decision

    return score
