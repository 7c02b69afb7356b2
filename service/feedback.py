"""Corrections over HTTP: hand one in, see, export and delete one's own. Off unless WHISPERLOOP_CORRECTIONS is set.

A correction is a clip with what was really said in it, kept for training with the consent of whoever sends it. A
request that is refused leaves nothing. A key sees what it sent, a key made with --admin sees all; without keys,
whoever reaches the service does.
"""

import asyncio
import io
import logging
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.concurrency import iterate_in_threadpool

from service.decoder import decoding
from service.errors import RETRY_SOON, ApiError
from service.forms import File, form_schema, gather, refusal
from service.limits import heard
from service.request import is_cross_site, loaded
from service.routes import ERRORS
from service.settings import Settings
from service.transcribe import MIN_SECONDS
from service.upload import open_form
from speech.audio import SAMPLE_RATE, AudioError
from speech.flac import encode_flac, quantize
from speech.tokens import UnknownLanguageError

if TYPE_CHECKING:  # the database's library is loaded when it is needed
    from corrections import Correction, CorrectionStore, New, Which

logger = logging.getLogger("whisperloop.service")

MAX_SECONDS = 30.0
"""Of a correction: Whisper's window, which is what one is learned in."""

CROSS_SITE = (
    "A page of another site sent this, or it asks by a public name. Name it in WHISPERLOOP_CORS_ORIGINS, or make API "
    "keys (python -m service keys add NAME)."
)

CUT_TOLERANCE_S = 0.05
SECONDS_A_DAY = 86_400


class FeedbackForm(BaseModel):
    """POST /v1/feedback, without its file."""

    model_config = ConfigDict(extra="forbid")

    correction: str | None = Field(default=None, max_length=5_000, description="What was really said, as written.")
    no_speech: bool = Field(default=False, description="Nobody speaks in it; there is no correction then.")
    hypothesis: str = Field(default="", max_length=10_000, description="What the model heard.")
    language: str = Field(max_length=20, description="A code (it, en-GB).")
    model: str | None = Field(default=None, max_length=200, description="The version that heard it, as name@id.")
    consent: bool = Field(
        default=False, description="That whoever speaks agrees to the clip being kept and learned from."
    )
    speaker: str | None = Field(
        default=None, max_length=100, description="Who speaks, by any name that stays the same."
    )
    start: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="Keep the audio from here, in s.")
    end: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Keep the audio up to here, in s.")

    @field_validator("correction", "hypothesis", "model", "speaker")
    @classmethod
    def _is_text(cls, text: str | None) -> str | None:
        # PostgreSQL keeps no NUL, and nobody half a surrogate pair.
        if text and any((ord(one) < 32 and one not in "\t\r\n") or 0xD800 <= ord(one) <= 0xDFFF for one in text):
            raise ValueError("it has a control character, or half of a surrogate pair: send plain text")
        return text


class Feedback(BaseModel):
    """One correction. Times are seconds since 1970."""

    id: str
    object: Literal["feedback"] = "feedback"
    created_at: int
    updated_at: int
    key: str | None = Field(description="The API key that sent it.")
    seconds: float
    language: str
    hypothesis: str
    correction: str = Field(description="Empty: nobody speaks.")
    model: str | None
    speaker: str | None
    merged: bool | None = Field(
        default=None, description="Of POST: the clip was there already, and this correction took the place of its last."
    )


class FeedbackList(BaseModel):
    """Some corrections, the newest first."""

    object: Literal["list"] = "list"
    data: list[Feedback]
    has_more: bool


class FeedbackCounts(BaseModel):
    """How much there is to learn from."""

    clips: int
    seconds: float
    by_language: dict[str, int]


class Deleted(BaseModel):
    """How many corrections are gone, with their audio."""

    deleted: int


router = APIRouter(prefix="/v1/feedback", tags=["corrections"])

Languages = Annotated[str | None, Query(max_length=20, description="Only of this language, by Whisper's code.")]
Since = Annotated[
    float | None,
    Query(ge=0, allow_inf_nan=False, description="Only what was changed since; in seconds since 1970."),
]


def prepare(app: FastAPI) -> None:
    """Bring the database to the newest form, if there is one; what is wrong with it is logged, and told who asks."""
    from corrections import CorrectionsError, CorrectionStore, NewerDatabaseError

    settings: Settings = app.state.settings
    try:
        store = CorrectionStore(settings.corrections)
        app.state.corrections = store
        store.open()
    except (CorrectionsError, NewerDatabaseError) as error:
        logger.error("there are no corrections: %s", error)


@router.post("", status_code=201, responses=ERRORS, openapi_extra=form_schema(FeedbackForm))
async def create_feedback(request: Request) -> Response:
    """Hand in a correction: a clip of at most 30 s, or a longer one with `start` and `end`, and what was said in it."""
    from corrections import New

    store = await _store(request)
    model = loaded(request)  # or there is no need to read the upload
    settings: Settings = request.app.state.settings
    async with open_form(request, settings.max_upload_bytes) as form:
        files, given = gather(form, frozenset(FeedbackForm.model_fields))
        fields = _read(given)
        try:
            language = model.language_code(fields.language)
        except UnknownLanguageError as error:
            raise ApiError(400, "unknown_language", str(error), "language") from error
        async with request.app.state.correction_limiter:  # transcripts need not wait for a long recording
            seconds: list[float] = []
            try:
                samples = await asyncio.to_thread(_decode, files[0], fields, settings.max_audio_seconds, seconds.append)
            finally:  # whatever is kept of it, or refused: hours may be decoded for half a minute
                heard(sum(seconds))
        new = New(
            audio=await asyncio.to_thread(encode_flac, samples),
            samples=samples.tobytes(),
            seconds=samples.size / SAMPLE_RATE,
            language=language,
            hypothesis=fields.hypothesis.strip(),
            correction=(fields.correction or "").strip(),
            model=fields.model,
            speaker=fields.speaker,
        )
    row, is_new = await _in_thread(_add, store, new, _key(request))
    request.state.facts["audio_s"] = round(new.seconds, 2)
    request.app.state.metrics.feedback(is_new=is_new)
    shown = _shown(row).model_copy(update={"merged": not is_new})
    return JSONResponse(shown.model_dump(), 201 if is_new else 200, {"Location": f"/v1/feedback/{row.id}"})


@router.get("", responses=ERRORS)
async def list_feedback(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="The last correction of the page before.")] = None,
    language: Languages = None,
    since: Since = None,
) -> FeedbackList:
    """List corrections, the newest first."""
    store = await _store(request)
    which = _which(request, language=language, since=since)
    page = await _in_thread(lambda: store.list(which, limit=limit, after=after))
    return FeedbackList(data=[_shown(row) for row in page.items], has_more=page.has_more)


@router.get("/counts", responses=ERRORS)
async def count_feedback(request: Request, since: Since = None) -> FeedbackCounts:
    """Say how much there is to learn from."""
    store, which = await _store(request), _which(request, since=since)
    counts = await _in_thread(lambda: store.count(which))
    return FeedbackCounts(clips=counts.clips, seconds=round(counts.seconds, 2), by_language=counts.by_language)


@router.get("/export", responses=ERRORS, response_class=StreamingResponse)
async def export_feedback(request: Request, language: Languages = None) -> Response:
    """Return a zip of FLAC files and metadata.jsonl, as in audiofolder: a source to train on."""
    store = await _store(request)
    which = _which(request, language=language)
    headers = {"Content-Disposition": 'attachment; filename="corrections.zip"'}
    chunks = iterate_in_threadpool(zipped(store.all(which)))
    return StreamingResponse(chunks, media_type="application/zip", headers=headers)


@router.get("/{feedback_id}", responses=ERRORS)
async def get_feedback(request: Request, feedback_id: str) -> Feedback:
    """Return one correction."""
    return _shown(await _found(request, feedback_id))


@router.get("/{feedback_id}/audio", responses=ERRORS, response_class=Response)
async def get_audio(request: Request, feedback_id: str) -> Response:
    """Return one correction's clip, as FLAC."""
    store = await _store(request)
    await _found(request, feedback_id)
    audio = await _in_thread(lambda: store.audio(feedback_id))
    if audio is None:  # deleted in between
        raise _not_found()
    return Response(audio, media_type="audio/flac")


@router.delete("/{feedback_id}", status_code=204, responses=ERRORS)
async def delete_feedback(request: Request, feedback_id: str) -> Response:
    """Delete a correction with its audio, for good."""
    store, which = await _store(request), _which(request)
    if not await _in_thread(lambda: store.delete(feedback_id, which)):
        raise _not_found()
    return Response(status_code=204)


@router.delete("", responses=ERRORS)
async def delete_many(
    request: Request,
    key: Annotated[str | None, Query(max_length=64, description="What this API key sent.")] = None,
    older_than_days: Annotated[float | None, Query(ge=0, allow_inf_nan=False, description="Not changed since.")] = None,
) -> Deleted:
    """Delete corrections with their audio, for good: by key, by age, or by both."""
    store = await _store(request)
    if key is None and older_than_days is None:
        message = "Say what to delete: key, older_than_days (0 for all), or both."
        raise ApiError(400, "missing_parameter", message, "older_than_days")
    which = _which(request, key=key, before=older_than_days)
    return Deleted(deleted=await _in_thread(lambda: store.delete_all(which)))


def zipped(corrections: "Iterable[Correction]") -> Iterator[bytes]:
    """Yield a zip of the folder that `corrections.export` writes, a clip at a time; FLAC is not compressed again."""
    from corrections.export import METADATA, file_name, line

    sink = _Sink()
    lines = []
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for correction in corrections:
            archive.writestr(file_name(correction), correction.audio)
            lines.append(line(correction))
            yield sink.take()
        archive.writestr(METADATA, "".join(lines))
    yield sink.take()


class _Sink(io.RawIOBase):
    """Takes what is written, to be taken away; it cannot go back, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._written += content
        return len(content)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


def _read(given: dict[str, Any]) -> FeedbackForm:
    """Check the form of POST /v1/feedback; raise ApiError that names the field."""
    if unknown := [name for name in given if name not in FeedbackForm.model_fields]:
        message = f"There is no field {unknown[0][:40]!r}; there are {', '.join(FeedbackForm.model_fields)}."
        raise ApiError(400, "unknown_parameter", message, unknown[0][:40])
    try:
        fields = FeedbackForm(**given)
    except ValidationError as error:
        raise refusal(error) from error
    if not fields.consent:
        message = (
            "consent: a clip is kept and learned from only if whoever speaks in it agreed; send consent=true if so. "
            "Nothing was kept."
        )
        raise ApiError(400, "consent_required", message, "consent")
    says_something = bool((fields.correction or "").strip())
    if says_something == fields.no_speech:
        message = (
            "correction: say what was said, or no_speech=true if nobody speaks; not both."
            if says_something
            else "The field 'correction' is required: what was really said; or no_speech=true."
        )
        raise ApiError(400, "invalid_value" if says_something else "missing_parameter", message, "correction")
    if fields.end is not None:
        seconds = fields.end - (fields.start or 0.0)
        if seconds <= 0:
            raise ApiError(400, "invalid_value", "end: it is not after start.", "end")
        if seconds > MAX_SECONDS:
            message = f"end: {seconds:g} s are kept at most {MAX_SECONDS:g} s at a time; send several corrections."
            raise ApiError(400, "invalid_value", message, "end")
    return fields


def _decode(
    file: File, fields: FeedbackForm, max_seconds: float, on_heard: Callable[[float], None]
) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """Return the clip as 16-bit samples at 16 kHz; runs on a thread. Raises ApiError or AudioError.

    `on_heard` is told of the seconds that were decoded, bit by bit.
    """
    start = round((fields.start or 0.0) * SAMPLE_RATE)
    end = start + round(MAX_SECONDS * SAMPLE_RATE) if fields.end is None else round(fields.end * SAMPLE_RATE)
    parts, position = [], 0
    with decoding(file.content, max_seconds) as (_, blocks):
        for block in blocks:  # to the end: a damaged file is refused, wherever it is damaged
            wanted = block[max(0, start - position) : max(0, end - position)]
            if wanted.size:
                parts.append(wanted.copy())  # a view would keep hours that are not wanted in memory
            position += block.size
            on_heard(block.size / SAMPLE_RATE)
            if fields.end is None and position > end + CUT_TOLERANCE_S * SAMPLE_RATE:
                message = (
                    f"A correction is of {MAX_SECONDS:g} s of audio at most; this has more: send start and end, too."
                )
                raise AudioError("audio_too_long", message)
    samples = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    if fields.end is not None and samples.size < end - start - CUT_TOLERANCE_S * SAMPLE_RATE:
        message = f"end: the audio lasts {position / SAMPLE_RATE:.2f} s."
        raise ApiError(400, "invalid_value", message, "end")
    if samples.size < MIN_SECONDS * SAMPLE_RATE:
        raise AudioError("audio_too_short", f"Audio file is too short. Minimum audio length is {MIN_SECONDS} seconds.")
    return quantize(samples)


def _add(store: "CorrectionStore", new: "New", key: str) -> "tuple[Correction, bool]":
    return store.add(new, time.time(), key=key)


async def _store(request: Request) -> "CorrectionStore":
    if request.app.state.settings.keys is None and is_cross_site(request):
        raise ApiError(403, "cross_site", CROSS_SITE)
    if not request.app.state.settings.corrections:
        message = "Nothing is kept here to be learned from; the operator would have to set WHISPERLOOP_CORRECTIONS."
        raise ApiError(404, "corrections_off", message)
    if request.app.state.corrections is None:
        await asyncio.to_thread(prepare, request.app)
    store: CorrectionStore | None = request.app.state.corrections
    if store is None:
        raise _unavailable()
    return store


async def _in_thread(work: Any, *arguments: Any) -> Any:
    """Ask the database on a thread; whatever is wrong with it is logged, and a 503."""
    from sqlalchemy.exc import SQLAlchemyError

    from corrections import CorrectionsError, NewerDatabaseError

    try:
        return await asyncio.to_thread(work, *arguments)
    except (CorrectionsError, NewerDatabaseError, SQLAlchemyError) as error:
        logger.error("the corrections cannot be used: %s", str(getattr(error, "orig", None) or error).split("\n")[0])
        raise _unavailable() from error


def _unavailable() -> ApiError:
    message = "The database of corrections cannot be used; the service's log says why. Nothing was kept."
    return ApiError(503, "corrections_unavailable", message, headers=RETRY_SOON)


def _key(request: Request) -> str:
    return str(request.state.facts.get("key") or "")


def _which(
    request: Request,
    *,
    language: str | None = None,
    key: str | None = None,
    before: float | None = None,
    since: float | None = None,
) -> "Which":
    """Return what the caller may see of what it asks for: a key its own, an admin's and nobody's key all."""
    from corrections import Which

    name = _key(request)
    if name and not getattr(request.state, "is_admin", False):
        if key not in {None, name}:
            raise ApiError(403, "admin_required", "key: this key sees and deletes only what it sent itself.", "key")
        key = name
    return Which(
        key=key,
        language=language,
        before=None if before is None else time.time() - before * SECONDS_A_DAY,
        since=since,
    )


async def _found(request: Request, feedback_id: str) -> "Correction":
    store, which = await _store(request), _which(request)
    row = await _in_thread(lambda: store.get(feedback_id, which))
    if row is None:
        raise _not_found()
    found: Correction = row
    return found


def _not_found() -> ApiError:
    message = "There is no such correction; it was deleted, or belongs to another key."
    return ApiError(404, "feedback_not_found", message)


def _shown(row: "Correction") -> Feedback:
    return Feedback(
        id=row.id,
        created_at=int(row.created_at),
        updated_at=int(row.updated_at),
        key=row.key or None,
        seconds=round(row.seconds, 3),
        language=row.language,
        hypothesis=row.hypothesis,
        correction=row.correction,
        model=row.model,
        speaker=row.speaker,
    )
