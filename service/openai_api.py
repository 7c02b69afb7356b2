"""OpenAI's audio API, so that programs written for `whisper-1` run against this server with another base URL.

The forms are `service.openai_form`'s, subtitles `service.formats`'. What this server has beyond it is at /transcribe.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.datastructures import FormData
from starlette.types import Receive, Scope, Send

from service.errors import ApiError, answer_to, detail_of
from service.formats import to_srt, to_vtt
from service.models import Models
from service.openai_form import Asked, read_transcription, read_translation
from service.routes import ERRORS, copy_to_shadow, facts, loaded, means, unless_disconnected, usable
from service.state import Loaded
from service.transcribe import Wanted, transcribe
from service.upload import open_form
from speech.engine import MAX_PROMPT_TOKENS, DecodingOptions, DecodingResult
from speech.languages import LANGUAGES
from speech.tokens import Task, WhisperTokenizer
from speech.transcribe import Transcription, is_spoken

MAX_FIELDS = 500  # keywords and languages are a field each

MAX_TEXT_BYTES = 2 * 1024**2  # four references of speakers, each 10 s as a data URL

router = APIRouter(prefix="/v1")


@router.post("/audio/transcriptions", responses=ERRORS)
async def create_transcription(request: Request) -> Response:
    """Transcribe one file, as OpenAI's API does."""
    return await _answer(request, read_transcription, "transcribe")


@router.post("/audio/translations", responses=ERRORS)
async def create_translation(request: Request) -> Response:
    """Translate one file into English, as OpenAI's API does."""
    return await _answer(request, read_translation, "translate")


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    """List the names under which models can be asked for."""
    return {"object": "list", "data": [_card(model, name) for name, model in _served(request).items()]}


@router.get("/models/{name:path}")
async def retrieve_model(request: Request, name: str) -> dict[str, Any]:
    """Tell of one model."""
    model = _served(request).get(name)
    return _card(loaded(request, name) if model is None else model, name)


def _served(request: Request) -> dict[str, Loaded]:
    models: Models = request.app.state.models
    usable(models.main)
    return models.names()


def _card(model: Loaded, name: str) -> dict[str, Any]:
    created = int(model.version.loaded_at.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": "whisperloop"}


async def _answer(request: Request, read: Callable[..., Asked], task: Task) -> Response:
    loaded(request)  # or there is no need to read the upload
    state = request.app.state
    started = time.perf_counter()
    async with AsyncExitStack() as opened:
        with state.metrics.stage("upload"):
            form: FormData = await opened.enter_async_context(
                open_form(
                    request, state.settings.max_upload_bytes, max_fields=MAX_FIELDS, max_text_bytes=MAX_TEXT_BYTES
                )
            )
        asked = read(form, strict=state.settings.strict)
        model = loaded(request, asked.model)
        asked = _check_prompt(asked, model.scheduler.engine.tokenizer, strict=state.settings.strict)
        wanted = Wanted(
            None if asked.language is None else model.language_code(asked.language),
            task,
            asked.prompt,
            DecodingOptions(token_logprobs=asked.logprobs),
        )
        headers: dict[str, str] = {}
        if asked.warnings:
            headers["X-Whisperloop-Warnings"] = json.dumps(asked.warnings)
        if asked.stream:
            return await _stream(request, model, opened.pop_all(), asked, wanted, headers)
        result = await unless_disconnected(request, transcribe(asked.file, wanted, means(request.app, model)))
        await copy_to_shadow(request, model, asked.file, wanted, result.text)
    request.state.facts |= facts(result)
    headers["openai-processing-ms"] = str(round(1000 * (time.perf_counter() - started)))
    return _formatted(asked, task, result, model.scheduler.engine.tokenizer, headers)


def _check_prompt(asked: Asked, tokenizer: WhisperTokenizer, *, strict: bool) -> Asked:
    """Say where a prompt is longer than the decoder reads: it reads the end."""
    if asked.prompt is None or len(tokenizer.encode(asked.prompt)) <= MAX_PROMPT_TOKENS:
        return asked
    message = f"prompt: only the last {MAX_PROMPT_TOKENS} tokens of keywords and prompt together have an effect."
    if strict:
        raise ApiError(400, "unsupported_value", message, "prompt")
    return replace(asked, warnings=(*asked.warnings, message))


def _formatted(
    asked: Asked, task: Task, result: Transcription, tokenizer: WhisperTokenizer, headers: dict[str, str]
) -> Response:
    match asked.response_format:
        case "text":
            return PlainTextResponse(result.text + "\n", headers=headers)
        case "srt":
            return PlainTextResponse(to_srt(result.segments), headers=headers)
        case "vtt":
            return PlainTextResponse(to_vtt(result.segments), headers=headers, media_type="text/vtt")
        case "verbose_json":
            body = _verbose(task, result)
        case "json":
            body = _text(asked, result, tokenizer) | {"usage": _usage(result)}
    return JSONResponse(body | ({"warnings": asked.warnings} if asked.warnings else {}), headers=headers)


def _text(asked: Asked, result: Transcription, tokenizer: WhisperTokenizer) -> dict[str, Any]:
    body: dict[str, Any] = {"text": result.text}
    if result.language is not None:
        body["languages"] = [{"code": result.language}]
    if asked.logprobs:
        body["logprobs"] = [
            one for said in result.segments for one in _logprobs(tokenizer, said.tokens, said.token_logprobs)
        ]
    return body


def _verbose(task: Task, result: Transcription) -> dict[str, Any]:
    language = "en" if task == "translate" else result.language
    return {
        "task": task,
        "language": "unknown" if language is None else LANGUAGES.get(language, language),
        "duration": round(result.duration, 3),
        "text": result.text,
        "segments": [
            {
                "id": segment.id,
                "seek": round(100 * segment.start),  # of the window, in frames of 10 ms
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "text": segment.text,
                "tokens": segment.tokens,
                "temperature": 0.0,
                "avg_logprob": segment.avg_logprob,
                "compression_ratio": segment.compression_ratio,
                "no_speech_prob": segment.no_speech_prob,
            }
            for segment in result.segments
        ],
        "usage": _usage(result),
    }


def _usage(result: Transcription) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(result.duration)}


def _logprobs(
    tokenizer: WhisperTokenizer, tokens: Sequence[int], logprobs: Sequence[float] | None
) -> list[dict[str, Any]]:
    return [
        {"token": written.decode(errors="replace"), "logprob": logprob, "bytes": list(written)}
        for token, logprob in zip(tokens, logprobs or (), strict=True)
        for written in [tokenizer.token_bytes(token)]
    ]


class _Stream(StreamingResponse):
    """Server-sent events of some work, which ends with the response, however that ends."""

    def __init__(
        self, events: AsyncIterator[str], working: "asyncio.Task[Transcription]", headers: dict[str, str]
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers | {"Cache-Control": "no-cache"})
        self._working = working

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await _end(self._working)


async def _end(working: "asyncio.Task[Transcription]") -> None:
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def _stream(
    request: Request, model: Loaded, opened: AsyncExitStack, asked: Asked, wanted: Wanted, headers: dict[str, str]
) -> Response:
    """Answer with server-sent events; what fails before the first words fails as everywhere."""
    tokenizer = model.scheduler.engine.tokenizer
    ready: asyncio.Queue[DecodingResult | None] = asyncio.Queue()

    async def work() -> Transcription:
        async with opened:  # the upload stays open as long as it is read
            whole = await transcribe(asked.file, wanted, means(request.app, model), on_result=ready.put_nowait)
            await copy_to_shadow(request, model, asked.file, wanted, whole.text)
            return whole

    working = asyncio.create_task(work())
    working.add_done_callback(lambda _: ready.put_nowait(None))
    try:
        first = await unless_disconnected(request, ready.get())
        if first is None:
            working.result()
    except BaseException:
        await _end(working)
        raise

    async def events() -> AsyncIterator[str]:
        result, said = first, ""
        try:
            while result is not None:
                if is_spoken(result):
                    delta = f" {result.text}" if said else result.text
                    said += delta
                    event: dict[str, Any] = {"type": "transcript.text.delta", "delta": delta}
                    if asked.logprobs:
                        event["logprobs"] = _logprobs(tokenizer, result.tokens, result.token_logprobs)
                    yield _event(event)
                result = await ready.get()
            whole = working.result()
            request.state.facts |= facts(whole)
            yield _done(asked, whole, tokenizer)
        except Exception as error:  # noqa: BLE001 - half an answer is out: the error is its last event
            yield _event({"error": detail_of(request, answer_to(request, error)).model_dump()})

    return _Stream(events(), working, headers)


def _done(asked: Asked, result: Transcription, tokenizer: WhisperTokenizer) -> str:
    # Without usage: a stream's is counted in tokens, and speech costs seconds here.
    event: dict[str, Any] = {"type": "transcript.text.done"} | _text(asked, result, tokenizer)
    if asked.warnings:
        event["warnings"] = asked.warnings
    return _event(event)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
