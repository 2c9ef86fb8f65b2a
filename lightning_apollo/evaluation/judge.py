"""A language model that judges answers, behind an endpoint that speaks OpenAI's chat completions.

Every verdict is on the disk before the next question is asked (verdicts.jsonl beside the answers): a run that is started
again asks nothing twice. An endpoint that fails ends the run with a UserError; what was judged stays.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lightning_apollo.errors import UserError
from lightning_apollo.progress import Progress

KEY_VARIABLE = "JUDGE_API_KEY"
VERDICTS = "verdicts.jsonl"
RULES = ("organisers", "paper")
JUDGED = ("chartqa", "realworldqa", "activitynet_qa", "blink")  # benchmarks whose rule in the paper asks a judge

_AT_ONCE = 8  # requests under way
_TRIES = 4
_BUSY = (408, 409, 429, 500, 502, 503, 504)  # worth another try
_MAX_TOKENS = 800  # as VideoLLaMA 3's evaluation asks for; a judge that thinks needs them


class JudgeError(UserError):
    """A judge that cannot be asked; the message is one line with what to do."""


@dataclass(frozen=True)
class JudgeReply:
    """Reply of a judge to one prompt."""

    judge: str  # the model that was asked
    prompt: str
    reply: str


@dataclass(frozen=True)
class Judge:
    """A model behind an endpoint."""

    url: str  # up to /v1, or the whole address of chat/completions
    model: str
    timeout_seconds: float = 120.0
    pause_seconds: float = 2.0  # before the second try; twice as long before each following one

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise JudgeError(f"--judge-url is no address: {self.url!r}: write it as https://host/v1")
        if not self.model:
            raise JudgeError("a judge needs the name of its model: add --judge-model")

    def ask(self, prompt: str) -> str:
        """The reply; JudgeError where the endpoint gives none."""
        import urllib.error  # late: `--help` shows at once

        for attempt in range(_TRIES):
            try:
                return self._ask_once(prompt)
            except (TimeoutError, urllib.error.URLError, ConnectionError) as error:
                is_final = isinstance(error, urllib.error.HTTPError) and error.code not in _BUSY
                if isinstance(error, urllib.error.HTTPError):
                    error.close()  # it holds the connection
                if is_final or attempt == _TRIES - 1:
                    raise JudgeError(f"{self.url}: {_reason(error)}: {_advice(error)}") from error
                time.sleep(self.pause_seconds * 2**attempt)
        raise AssertionError("the last try returns or raises")

    def _ask_once(self, prompt: str) -> str:
        import urllib.request

        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": _MAX_TOKENS,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        base = self.url.rstrip("/")
        address = base if base.endswith("/chat/completions") else f"{base}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
            return _content(response.read(), self.url)


def _content(body: bytes, url: str) -> str:
    try:
        return str(json.loads(body)["choices"][0]["message"]["content"] or "")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise JudgeError(
            f"{url}: the reply is no chat completion: name an endpoint that speaks OpenAI's API"
        ) from error


def _reason(error: OSError) -> str:
    import urllib.error

    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(error.reason if isinstance(error, urllib.error.URLError) else error or type(error).__name__)


def _advice(error: OSError) -> str:
    import urllib.error

    if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403):
        return f"set {KEY_VARIABLE} to the endpoint's key"
    if isinstance(error, urllib.error.HTTPError) and error.code in (400, 404, 422):
        return "check --judge-url and --judge-model"
    return "start the same command again: what is answered and judged is kept"


def require_judge(
    rule: str, benchmark: str | None, url: str | None, model: str | None, compares: bool = False
) -> Judge | None:
    """The judge of a run; JudgeError for options that do not go together, before anything heavy is done."""
    if rule not in RULES:
        raise JudgeError(f"there is no rule {rule}: take one of {', '.join(RULES)}")
    if rule == "organisers":
        if url or model:
            raise JudgeError("a judge is for --rule paper: add it, or leave --judge-url and --judge-model out")
        return None
    if benchmark is None:
        raise JudgeError("--rule paper is for benchmarks: name one with --benchmark, or leave it out")
    if compares:
        raise JudgeError("--compare scores as the organisers do: leave it or --rule paper out")
    if url or model:
        return Judge(url or "", model or "")
    if benchmark in JUDGED:
        raise JudgeError(f"the paper's rule for {benchmark} asks a judge: add --judge-url and --judge-model")
    return None


def read_verdicts(output: Path) -> dict[tuple[str, str], str]:
    """The replies of earlier runs by (model, prompt). A last line that was not finished is none."""
    path = output / VERDICTS
    if not path.is_file():
        return {}
    replies = {}
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            verdict = JudgeReply(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise JudgeError(f"{path}:{number}: no verdict: remove the line to have it asked again") from error
        replies[verdict.judge, verdict.prompt] = verdict.reply
    return replies


def ask_missing(
    judge: Judge, prompts: Iterable[str], output: Path, advance: Progress = lambda done, total: None
) -> dict[str, str]:
    """The reply to each prompt; only what no earlier run has asked this model is asked, each prompt once."""
    known = read_verdicts(output)
    wanted = list(dict.fromkeys(prompts))
    missing = [prompt for prompt in wanted if (judge.model, prompt) not in known]
    if missing:
        output.mkdir(parents=True, exist_ok=True)
        _ask_all(judge, missing, output / VERDICTS, known, advance)
    return {prompt: known[judge.model, prompt] for prompt in wanted}


def _ask_all(
    judge: Judge,
    missing: list[str],
    path: Path,
    known: dict[tuple[str, str], str],
    advance: Progress,
) -> None:
    """Ask some at a time and write each reply down before more are asked; none is asked after a failure."""
    with path.open("ab+") as file, ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)  # what a killed run did not finish
        for start in range(0, len(missing), _AT_ONCE):
            batch = missing[start : start + _AT_ONCE]
            replies = [pool.submit(judge.ask, prompt) for prompt in batch]
            errors: list[BaseException] = []
            for prompt, reply in zip(batch, replies, strict=True):
                error = reply.exception()
                if error is not None:
                    errors.append(error)
                    continue
                known[judge.model, prompt] = reply.result()
                line = json.dumps(asdict(JudgeReply(judge.model, prompt, reply.result())))
                file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            if errors:
                raise errors[0]
            advance(min(start + _AT_ONCE, len(missing)), len(missing))
