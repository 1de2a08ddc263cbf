"""Talking to the Hub: again where it is busy or a connection is cut, and what it refuses as sentences.

huggingface_hub asks again by itself for uploads and downloads, but neither who somebody is, nor for a repository, nor
for a commit, which may have been made although its answer was lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from hfstrat.errors import HfstratError, HubError, Problem, UsageError, shortened
from hfstrat.redact import printable, redact
from hfstrat.runs.events import Observer

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

TRIES = 5
LONGEST_WAIT = 300.0  # seconds; a Hub that wants more than that is left in peace
BUSY = frozenset({408, 429, 500, 502, 503, 504})
LOG_IN = "Log in by `hf auth login`, or set HF_TOKEN"
_ASKED_AGAIN_ALREADY = ("/preupload/", "/info/lfs/")


def is_offline() -> bool:
    """Whether this process was told not to use the network."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def api() -> HfApi:
    """The Hub, asked with the token of whoever is logged in."""
    from huggingface_hub import HfApi

    return HfApi(library_name="hfstrat")


@contextmanager
def silent() -> Iterator[None]:
    """Keep huggingface_hub from logging what it asks again: addresses of uploads are as good as passwords."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def ask(call: Callable[[], T], what: str, observer: Observer | None = None) -> T:
    """Ask the Hub for something, and again after a while where it is busy or the connection is cut.

    Args:
        call: Asks it once; that it is done twice must do no harm.
        what: What it is asked for, as the end of "…, while asking for".
        observer: Hears of waiting.

    Raises:
        UsageError: The token is refused, or has no right to do it.
        HubError: It cannot be reached, stays busy, or refuses it for another reason.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except HfstratError:
            raise  # said already
        except Exception as error:
            cause = http_error(error)
            if cause is None:
                raise
            seconds = _pause(cause, attempt)
            if seconds is None or attempt == TRIES:
                raise as_ours(cause, what, attempt) from error
            if observer is not None:
                observer.warn(f"{_reason(cause)}; asking again for {what} in {seconds:g} s")
        time.sleep(seconds)
    raise AssertionError("the last attempt returns or raises")


def http_error(error: BaseException) -> Any:
    """The error of the network below an exception; None where there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if _is_http(seen):
            return seen
        seen = seen.__cause__
    return None


def _is_http(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # The HTTP client has exceptions of its own, whose names are not huggingface_hub's to give.
    kinds = (HfHubHTTPError, OfflineModeIsEnabled, ConnectionError)
    return isinstance(error, kinds) or type(error).__module__.partition(".")[0].startswith("http")


def status_of(error: Any) -> int | None:
    """The status of an answer; None where there was none."""
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _pause(error: Any, attempt: int) -> float | None:
    """Seconds until it may be asked again; None for never."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    status = status_of(error)
    if isinstance(error, OfflineModeIsEnabled) or (status is not None and status not in BUSY):
        return None
    method, path = _request(error)
    if method == "PUT" or any(part in path for part in _ASKED_AGAIN_ALREADY):
        return None
    asked = None if status is None else _retry_after(error.response.headers.get("Retry-After"))
    seconds = float(2 ** (attempt - 1)) if asked is None else asked
    return seconds if seconds <= LONGEST_WAIT else None


def _request(error: Any) -> tuple[str, str]:
    """Method and path of the request that an error is about, as far as it is known."""
    try:
        request = error.request if getattr(error, "response", None) is None else error.response.request
        return str(request.method), str(request.url.path)
    except (AttributeError, RuntimeError):  # it has none, or was raised before there was one
        return "", ""


def _retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After`, which is a number or a date."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def as_ours(error: Any, what: str, attempts: int = 1) -> HfstratError:
    """What the Hub or the network said, as an error that tells what to do."""
    status = status_of(error)
    if status == 401:
        return UsageError(Problem(f"the Hub does not accept the token: {said(error)}", hint=LOG_IN))
    if status == 403:
        hint = "Use a token with the right to write there"
        return UsageError(Problem(f"the Hub refuses {what}: {said(error)}", hint=hint))
    if status is not None and status not in BUSY:
        return HubError(f"the Hub refuses {what} ({status}): {said(error)}")
    often = f" after {attempts} attempts" if attempts > 1 else ""
    return HubError(f"{_reason(error)}{often}, while asking for {what}. Try again later")


def _reason(error: Any) -> str:
    status = status_of(error)
    if status == 429:
        wait = _retry_after(error.response.headers.get("Retry-After"))
        return "the Hub allows no more requests for now (429)" + (f" and asks to wait {wait:.0f} s" if wait else "")
    if status is not None:
        return f"the Hub answers with {status}"
    from huggingface_hub import constants

    return f"{constants.ENDPOINT} cannot be reached or cut the connection ({said(error)})"


def said(error: BaseException) -> str:
    """What an error says, in one line without secrets."""
    text = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return shortened(printable(redact(" ".join(text.split()))), 200).rstrip(".")
