"""Judge behind an endpoint: requests and failures."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_apollo.errors import UserError
from lightning_apollo.evaluation.judge import KEY_VARIABLE, VERDICTS, Judge, JudgeError, ask_missing, require_judge
from lightning_apollo.evaluation.registry import BENCHMARKS
from lightning_apollo.evaluation.results import read_results
from lightning_apollo.evaluation.run import EvaluationConfig, EvaluationRun, evaluate
from tests.evaluation import published
from tests.evaluation.judge_server import Endpoint, serve
from tests.evaluation.test_prompting import FRAMES


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Say True to what has "right" in it, False to "wrong", and repeat anything else."""

    def reply(prompt: str) -> str:
        answer = prompt.split("Answer: ")[1].split("\n")[0]
        return "True" if "right" in answer else "False" if "wrong" in answer else answer

    with serve(Endpoint(reply)) as served:
        yield served


def judge_at(endpoint: Endpoint) -> Judge:
    return Judge(endpoint.url, "judge-1", pause_seconds=0.01)


def asked(word: str) -> str:
    return f"Is it?\nAnswer: {word}\nSay."


def test_a_judge_is_asked_as_openai_is(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    assert ask_missing(judge_at(endpoint), [asked("right"), asked("right")], tmp_path) == {asked("right"): "True"}
    (request,) = endpoint.requests
    assert (request["path"], request["key"]) == ("/v1/chat/completions", "Bearer secret")
    assert request["body"]["model"] == "judge-1"
    assert request["body"]["temperature"] == 0
    assert request["body"]["messages"] == [{"role": "user", "content": asked("right")}]
    assert "secret" not in (tmp_path / VERDICTS).read_text()


def test_without_a_key_none_is_sent(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    whole = Judge(f"{endpoint.url}/chat/completions", "judge-1")
    ask_missing(whole, [asked("wrong")], tmp_path)
    assert [(request["path"], request["key"]) for request in endpoint.requests] == [("/v1/chat/completions", None)]


def test_nothing_is_asked_twice(endpoint: Endpoint, tmp_path: Path) -> None:
    words = [f"{number} right" for number in range(20)]
    first = ask_missing(judge_at(endpoint), map(asked, words[:12]), tmp_path)
    with (tmp_path / VERDICTS).open("a") as file:
        file.write('{"judge": "judge-1", "pro')  # as a killed run leaves it
    again = ask_missing(judge_at(endpoint), map(asked, words), tmp_path)
    assert len(first) == 12
    assert len(again) == 20
    assert sorted(endpoint.prompts) == sorted(map(asked, words))
    ask_missing(Judge(endpoint.url, "judge-2"), [asked(words[0])], tmp_path)  # another model is asked anew
    assert len(endpoint.requests) == 21


def test_a_busy_judge_is_asked_again(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.failures = [429, 503]
    assert ask_missing(judge_at(endpoint), [asked("right")], tmp_path) == {asked("right"): "True"}
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    ("code", "num_requests", "message"),
    [
        (401, 1, rf"/v1: HTTP 401 Unauthorized: .*{KEY_VARIABLE}\b"),
        (404, 1, r"/v1: HTTP 404 Not Found: .*--judge-url.*--judge-model$"),
        (
            500,
            4,
            r"/v1: HTTP 500 Internal Server Error: .*command",
        ),
    ],
)
def test_a_judge_that_fails_ends_the_run(
    endpoint: Endpoint, tmp_path: Path, code: int, num_requests: int, message: str
) -> None:
    ask_missing(judge_at(endpoint), [asked("right")], tmp_path)
    endpoint.failures = [code] * 9
    with pytest.raises(JudgeError, match=message):
        ask_missing(judge_at(endpoint), [asked("right"), asked("wrong")], tmp_path)
    assert len(endpoint.requests) == 1 + num_requests
    assert len((tmp_path / VERDICTS).read_text().splitlines()) == 1


def test_no_endpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^http://127.0.0.1:9/v1: .*refused:"):
        ask_missing(Judge("http://127.0.0.1:9/v1", "m", pause_seconds=0.01), ["?"], tmp_path)


def test_an_endpoint_of_another_kind_is_said() -> None:
    with serve(Endpoint(lambda prompt: "", failures=[202])) as endpoint:  # accepted, and no choices in the body
        judge = judge_at(endpoint)
        with pytest.raises(JudgeError, match="OpenAI's API"):
            judge.ask("?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("gpt", "chartqa", None, None), r"rule gpt: .*organisers, paper$"),
        (("organisers", "chartqa", "http://x/v1", None), r"judge .*--rule paper:"),
        (("paper", None, "http://x/v1", "m"), r"--rule paper .*--benchmark"),
        (
            ("paper", "chartqa", None, None),
            r"chartqa.*--judge-url.*--judge-model$",
        ),
        (("paper", "chartqa", "http://x/v1", None), r"--judge-model$"),
        (("paper", "chartqa", None, "m"), r"--judge-url .*: ''"),
        (
            ("paper", "chartqa", "localhost:8000", "m"),
            r"--judge-url .*: 'localhost:8000': .*https://host/v1$",
        ),
    ],
)
def test_options_that_do_not_go_together(options: tuple[str, str | None, str | None, str | None], message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        require_judge(*options)


def test_rules_that_ask_nobody_need_no_judge() -> None:
    assert require_judge("paper", "mme", None, None) is None
    assert require_judge("organisers", None, None, None) is None
    with pytest.raises(JudgeError, match="--compare"):
        require_judge("paper", "mme", None, None, compares=True)


def run_of(folder: Path, output: Path, rule: str, judge: Judge | None) -> EvaluationRun:
    config = EvaluationConfig(rule=rule, judge=judge)
    return EvaluationRun(BENCHMARKS["chartqa"], folder, output, "tiny", FRAMES, {"weights": "0123"}, config)


def test_one_set_of_answers_by_both_rules(endpoint: Endpoint, tmp_path: Path) -> None:
    """1400 for 14 is off by 100; "right, I see" for Yes needs the judge."""
    published.chartqa(tmp_path / "chartqa")
    said = {"human/0": "1400", "augmented/0": "right, I see"}
    asked_model: list[str] = []

    def answer(prompts) -> list[str]:
        asked_model.extend(prompt.sample_id for prompt in prompts)
        return [said[prompt.sample_id] for prompt in prompts]

    out = tmp_path / "out"
    (table,) = evaluate(run_of(tmp_path / "chartqa", out, "organisers", None), answer)
    assert (table.rows[0].value, len(endpoint.requests)) == (0.0, 0)
    for _ in range(2):
        (table,) = evaluate(run_of(tmp_path / "chartqa", out, "paper", judge_at(endpoint)), answer)
        assert table.rows[0].value == 100.0
    assert len(asked_model) == 2  # the model is not asked again, nor is the judge
    (prompt,) = endpoint.prompts
    assert all(words in prompt for words in ("How many bars?", "Correct answer: Yes", "Answer: right, I see"))
    assert [result.is_right for result in read_results(out / "results.jsonl")] == [False, False]
    assert [result.is_right for result in read_results(out / "results-paper.jsonl")] == [True, True]
    assert "scored by the paper's rule" in (out / "report-paper.md").read_text()
    assert json.loads((out / "scores.json").read_text())[0]["rows"][0]["value"] == 0.0


def test_a_verdict_that_cannot_be_read_counts_for_nothing(endpoint: Endpoint, tmp_path: Path) -> None:
    published.chartqa(tmp_path / "chartqa")
    out, said = tmp_path / "out", {"human/0": "14", "augmented/0": "hm"}
    paper = run_of(tmp_path / "chartqa", out, "paper", judge_at(endpoint))
    (table,) = evaluate(paper, lambda prompts: [said[prompt.sample_id] for prompt in prompts])
    assert (table.rows[0].value, table.rows[0].num_answers, table.num_unjudged) == (100.0, 1, 1)
    assert table.remarks()[0] == "1 answers got no verdict from the judge and count for nothing."
    assert len(read_results(out / "results-paper.jsonl")) == 1


def test_no_verdict_at_all_is_an_error(endpoint: Endpoint, tmp_path: Path) -> None:
    published.chartqa(tmp_path / "chartqa")
    paper = run_of(tmp_path / "chartqa", tmp_path / "out", "paper", judge_at(endpoint))
    with pytest.raises(JudgeError, match=r"judge.*ChartQA.*verdicts\.jsonl"):
        evaluate(paper, lambda prompts: ["hm"] * len(prompts))
