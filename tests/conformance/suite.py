"""What a check is, what it is given, and how it is run.

A check is a function of a `Server` that returns if a promise is kept, raises AssertionError if it is broken, and `Skip`
if it cannot tell. Its docstring is the promise. This package imports nothing of the project that it lies in, so
that it can be pointed at any server: it needs `httpx` and `openai` only.
"""

import json
import math
import re
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import httpx
import openai

from tests.conformance.sound import SPEECH, Clip, Stitched, stitch

MAX_WORD_ERRORS = 0.35
"""Of a clip's words, how many may be wrong: the suite judges a protocol, not a model."""

Fields = Mapping[str, str | Sequence[str]]


class Skip(Exception):  # noqa: N818 - not an error
    """A check cannot tell here; says why."""


@dataclass(frozen=True)
class Check:
    """A promise, and how to see whether it is kept."""

    area: str
    name: str
    promise: str
    source: str
    run: Callable[["Server"], None]


AREAS = (
    *("formats", "files", "translations", "models", "headers", "timestamps", "fields", "streaming"),
    *("errors", "silence", "long files", "load", "Node client"),
)
"""What checks are about, in the order in which they run."""

CHECKS: list[Check] = []
"""All of them."""


def check(area: str, source: str) -> Callable[[Callable[["Server"], None]], Callable[["Server"], None]]:
    """Register a check.

    Args:
        area: what it is about, one of `AREAS`.
        source: who says so: OpenAI's specification, a file of its clients, or a peer's bug.
    """

    def register(run: Callable[["Server"], None]) -> Callable[["Server"], None]:
        CHECKS.append(Check(area, run.__name__, " ".join((run.__doc__ or "").split()), source, run))
        return run

    return register


@dataclass(frozen=True)
class Result:
    """How a check went."""

    area: str
    name: str
    promise: str
    source: str
    outcome: str  # pass, fail or skip
    detail: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return it for a file."""
        return asdict(self)


def run_check(one: Check, server: "Server") -> Result:
    """Run one check; whatever it raises is its result."""
    started = time.monotonic()
    outcome, detail = "pass", ""
    try:
        one.run(server)
    except Skip as reason:
        outcome, detail = "skip", str(reason)
    except AssertionError as error:
        outcome, detail = "fail", str(error) or _line_of(error)
    except Exception as error:  # noqa: BLE001 - a server may break a client in any way
        outcome, detail = "fail", f"{type(error).__name__}: {error}"
    detail = " ".join(detail.split())[:400]
    return Result(one.area, one.name, one.promise, one.source, outcome, detail, round(time.monotonic() - started, 2))


def _line_of(error: AssertionError) -> str:
    return traceback.extract_tb(error.__traceback__)[-1].line or "an assertion"


@dataclass
class Server:
    """The server under test, and what to ask it with."""

    base_url: str  # with /v1
    api_key: str = "-"
    model: str = "whisper-1"
    clips: Sequence[Clip] = SPEECH  # the first is what most checks send
    upload_limit: int | None = None  # bytes
    timeout: float = 600.0
    _remembered: dict[str, Any] = field(default_factory=dict)

    @property
    def clip(self) -> Clip:
        """The clip that most checks send."""
        return self.clips[0]

    def stitched(self, seconds: float, pause: float) -> Stitched:
        """Return clips of the first one's language, one after the other, for so many seconds or a little more."""
        clips = [clip for clip in self.clips if clip.language == self.clip.language]
        around = stitch(clips, pause)
        return stitch(clips * math.ceil(seconds / around.sound.seconds), pause)

    @cached_property
    def http(self) -> httpx.Client:
        """A client that sees what is on the wire."""
        headers = {"Authorization": f"Bearer {self.api_key}"}
        return httpx.Client(base_url=self.base_url.rstrip("/") + "/", headers=headers, timeout=self.timeout)

    @cached_property
    def openai(self) -> openai.OpenAI:
        """OpenAI's own client, which does not try again."""
        return openai.OpenAI(base_url=self.base_url, api_key=self.api_key, max_retries=0, timeout=self.timeout)

    def post(
        self,
        content: bytes | None = None,
        fields: Fields | None = None,
        *,
        path: str = "audio/transcriptions",
        name: str = "clip.wav",
    ) -> httpx.Response:
        """POST a form: the clip, unless another content is given, the model, and fields exactly as they are named."""
        files = {"file": (name, self.clip.content if content is None else content)}
        return self.http.post(path, data=self.form(fields), files=files)

    def form(self, fields: Fields | None = None) -> dict[str, Any]:
        """Return the fields of a form, the model among them."""
        return {"model": self.model, **(fields or {})}

    @contextmanager
    def stream(self, content: bytes | None = None, fields: Fields | None = None) -> Iterator[httpx.Response]:
        """POST a form with `stream=true`; the body is not read yet."""
        files = {"file": ("clip.wav", self.clip.content if content is None else content)}
        data = self.form({"stream": "true", **(fields or {})})
        with self.http.stream("POST", "audio/transcriptions", data=data, files=files) as response:
            yield response

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what several checks look at, made once."""
        if name not in self._remembered:
            self._remembered[name] = make()
        return self._remembered[name]

    def close(self) -> None:
        """Close the connections."""
        self.http.close()
        self.openai.close()


def succeeded(response: httpx.Response) -> httpx.Response:
    """Return a response that is 200."""
    assert response.status_code == 200, f"status {response.status_code}: {response.text[:200]}"
    return response


def body_of(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of a success."""
    kind = succeeded(response).headers.get("content-type", "")
    assert kind.startswith("application/json"), f"content type {kind!r}"
    body = response.json()
    assert isinstance(body, dict), f"not an object: {response.text[:100]}"
    return body


def plain_of(response: httpx.Response) -> str:
    """Return the plain text of a success; JSON is none."""
    kind = succeeded(response).headers.get("content-type", "")
    assert not kind.startswith("application/json"), f"content type {kind!r}"
    text = response.content.decode("utf-8")
    assert not text.lstrip().startswith(("{", '"')), f"JSON, not plain text: {text[:100]}"
    return text


def refused(response: httpx.Response, status: int = 400, param: str | None = None, code: str | None = None) -> None:
    """Check that a request was refused with this status, in OpenAI's error object."""
    error = error_of(response)
    assert response.status_code == status, f"status {response.status_code}, not {status}: {error}"
    if param is not None:
        assert names(error["param"], param), f"param {error['param']!r}, not {param!r}"
    if code is not None:
        assert error["code"] == code, f"code {error['code']!r}, not {code!r}"


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error object of a failure: message, type, param and code, all four there."""
    assert response.status_code >= 400, f"status {response.status_code}: {response.text[:200]}"
    try:
        error = response.json()["error"]
        missing = {"message", "type", "param", "code"} - set(error)
    except (ValueError, KeyError, TypeError):
        raise AssertionError(f"status {response.status_code} without an error object: {response.text[:200]}") from None
    assert not missing, f"the error object lacks {sorted(missing)}"
    assert isinstance(error["message"], str), "error.message is not a text"
    assert error["message"], "error.message is empty"
    assert isinstance(error["type"], str), f"error.type is {error['type']!r}"
    assert error["type"], "error.type is empty"
    for name in ("param", "code"):
        assert error[name] is None or isinstance(error[name], str), f"error.{name} is {error[name]!r}"
    return error


def names(written: str | None, name: str) -> bool:
    """Say whether a field is meant, however it is spelt."""
    return written is not None and re.sub(r"\[.*", "", written) == name


def said_without_effect(response: httpx.Response, name: str) -> bool:
    """Say whether the answer owns up that a field was not obeyed: a 400 that names it, or a warning that does."""
    if response.status_code == 400:
        refused(response, param=name)
        return True
    succeeded(response)
    told = [value for header, value in response.headers.items() if "warning" in header]
    if response.headers.get("content-type", "").startswith("application/json"):
        told.append(json.dumps(response.json().get("warnings", ""), ensure_ascii=False))
    return any(name in one for one in told)


def words(text: str) -> list[str]:
    """Return the words of a text, without case, accents and punctuation."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return re.findall(r"\w+", "".join(letter for letter in plain if not unicodedata.combining(letter)))


def word_error_rate(expected: str, got: str) -> float:
    """Return the edit distance in words, over the expected number of words."""
    reference, hypothesis = words(expected), words(got)
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(hypothesis, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1] / max(len(reference), 1)


def same_words(expected: str, got: str) -> None:
    """Check that a transcript says what was said."""
    rate = word_error_rate(expected, got)
    assert rate <= MAX_WORD_ERRORS, f"{got[:150]!r} instead of {expected[:150]!r} (word error rate {rate:.2f})"


def number(value: Any) -> float:
    """Return a JSON number; a text of digits is none."""
    assert isinstance(value, int | float), f"{value!r} is not a number"
    assert not isinstance(value, bool), f"{value!r} is not a number"
    return float(value)
