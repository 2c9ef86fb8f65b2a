"""Kinds and words of the faults of stores, and repeated requests.

Libraries of stores raise errors of many classes, so what counts is the HTTP status that an error, or one behind it, brings,
then its class.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from random import SystemRandom
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from lightning_apollo.data.storage.protocols import LIBRARIES, protocol_of, shown
from lightning_apollo.errors import BROKEN, FORBIDDEN, MISSING, SLOW, UNAVAILABLE, MediaError, UserError

ATTEMPTS = 4
SECONDS_EACH = 20.0  # that one attempt may take
SECONDS_ALL = 50.0  # for all attempts together; less than data.supervision.deadline_seconds
FIRST_WAIT_SECONDS = 0.25  # doubled each time, times 0.5 to 1.5 by chance, so that processes do not come back at once

_NO_RIGHTS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ClientAuthenticationError"}
_CUT_SHORT = {
    "ClientPayloadError",
    "IncompleteReadError",
    "IncompleteRead",
    "ResponseStreamingError",
    "RemoteProtocolError",
}
_CHANCE = SystemRandom()  # not the generator that a run restores

T = TypeVar("T")


class RequestFault(NamedTuple):
    """Fault of a request."""

    kind: str  # one of errors.FAULTS
    reason: str
    may_pass: bool  # a second try may succeed


class StoreFault(UserError):
    """A fault that is known where it is raised, of no library."""

    def __init__(self, kind: str, reason: str, may_pass: bool = False) -> None:
        super().__init__(kind, reason, may_pass)
        self.fault = RequestFault(kind, reason, may_pass)


def persist(address: str, request: Callable[[], T]) -> T:
    """The answer, after as many attempts as it takes; a MediaError with the kind of the last fault where none succeeds.

    Each runs in a thread of its own, which is left behind where the answer does not come: no library of a store can make
    this process wait longer than SECONDS_ALL.
    """
    due = time.monotonic() + SECONDS_ALL
    for attempt in range(ATTEMPTS):
        try:
            return _within(min(SECONDS_EACH, due - time.monotonic()), request)
        except MediaError:
            raise
        except Exception as error:
            fault = fault_of(error, address)
            wait = FIRST_WAIT_SECONDS * 2**attempt * _CHANCE.uniform(0.5, 1.5)
            if not fault.may_pass or attempt == ATTEMPTS - 1 or time.monotonic() + wait >= due:
                raise MediaError(address, fault.reason, fault.kind) from error
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def changed(how: str) -> StoreFault:
    """Another object has taken the place of one since it was opened."""
    return StoreFault(BROKEN, f"it changed while it was read {how}")


def cut_short(how: str) -> StoreFault:
    """Fewer bytes came than were asked for."""
    return StoreFault(BROKEN, f"it came cut short {how}", may_pass=True)


def fault_of(error: BaseException, address: str) -> RequestFault:
    """Fault that an error of a store means."""
    if isinstance(error, StoreFault):
        return error.fault
    errors = list(_causes(error))
    names = {base.__name__ for one in errors for base in type(one).__mro__}
    status = next((found for one in errors if (found := _status(one)) is not None), None)
    said = _words(error)
    if names & _CUT_SHORT:
        return cut_short(said).fault
    if status == 412 or "FileExpired" in names:
        return changed(said).fault
    if status in (404, 410):
        return RequestFault(MISSING, "no such object", False)
    if status in (401, 403, 407) or (status is None and "PermissionError" in names):
        return RequestFault(FORBIDDEN, f"access denied {said}: check {_credentials(address)}", False)
    if names & _NO_RIGHTS:
        return RequestFault(FORBIDDEN, f"no credentials {said}: set {_credentials(address)}", False)
    if status in (408, 504):
        return RequestFault(SLOW, f"the store took too long {said}", True)
    if status is not None:
        return RequestFault(UNAVAILABLE, f"the store does not answer {said}", status == 429 or status >= 500)
    if any("Timeout" in name for name in names):
        return RequestFault(SLOW, f"the store took too long {said}", True)
    if "FileNotFoundError" in names:
        return RequestFault(MISSING, "no such object", False)
    if "IsADirectoryError" in names:
        return RequestFault(MISSING, "a folder, not a file", False)
    if names & {"OSError", "ClientError", "BotoCoreError", "TransportError"}:
        return RequestFault(UNAVAILABLE, f"the store does not answer {said}", True)
    return RequestFault(BROKEN, f"cannot be read {said}", False)


def _within(seconds: float, request: Callable[[], T]) -> T:
    """The answer of a request; TimeoutError after so many seconds."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(request())
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=run, name="storage request", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError as error:
        if answer.done():
            raise
        raise TimeoutError(f"no answer in {seconds:.3g} s") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error of aiohttp, gcsfs, Azure, httpx or botocore."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for owner, name in ((error, "status"), (error, "status_code"), (response, "status_code"), (error, "code")):
        number = getattr(owner, name, None)
        if isinstance(number, int) and 400 <= number < 600:
            return number
    return None


def _words(error: BaseException) -> str:
    return f"({type(error).__name__}: {shown(_one_line(error))})"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no reason given"


def _credentials(address: str) -> str:
    library = LIBRARIES.get(protocol_of(address) or "")
    return library.credentials if library else "the rights to read it"
