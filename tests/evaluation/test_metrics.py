import pytest

from lightning_apollo.evaluation.benchmarks import BenchmarkQuestion, Prediction, accuracy
from lightning_apollo.evaluation.metrics import ExactMatch


def test_exact_match_counts_by_hand() -> None:
    metric = ExactMatch()
    for answer, expected in (("red", "red"), (" Red ", "red"), ("red blue", "red"), ("", "red")):
        metric.update(answer, expected)
    assert float(metric.compute()) == 0.5


def test_no_answer_is_no_score() -> None:
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert float(ExactMatch().compute()) == 0.0


@pytest.mark.parametrize(
    ("answers", "expected"), [(("a", "b"), {"order": 1.0, "count": 1.0}), (("b", "b"), {"order": 0.0, "count": 1.0})]
)
def test_accuracy_is_by_kind(answers: tuple[str, str], expected: dict[str, float]) -> None:
    questions = [
        BenchmarkQuestion("1", "v.mp4", "Q?", "a", "order", True, ("a", "b")),
        BenchmarkQuestion("2", "v.mp4", "Q?", "b", "count", True, ("a", "b", "c", "d")),
    ]
    assert [question.chance for question in questions] == [0.5, 0.25]
    predictions = [Prediction(question, answer) for question, answer in zip(questions, answers, strict=True)]
    assert accuracy(predictions) == expected
