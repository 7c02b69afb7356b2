"""OpenAI's audio API, so that programs written for `whisper-1` run against this server with another base URL.

The forms are `service.openai_form`'s, subtitles `speech.subtitles`'. What this server has beyond it is at /transcribe.
"""

import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import FormData

from service.answers import headers_of, partial, plain, refuse_partial, stream, token_logprobs, word_json
from service.forms import form_schema
from service.models import Models
from service.openai_form import (
    Asked,
    TranscriptionForm,
    TranslationForm,
    options_of,
    read_transcription,
    read_translation,
)
from service.request import copy_to_shadow, facts, loaded, means, unless_disconnected, usable
from service.routes import ERRORS
from service.state import Loaded
from service.terms import OnTerms, Terms
from service.transcribe import Answer, transcribe
from service.upload import open_form
from speech.languages import LANGUAGES
from speech.tokens import Task, WhisperTokenizer
from speech.transcribe import Transcription

router = APIRouter(prefix="/v1")


@router.post("/audio/transcriptions", responses=ERRORS, openapi_extra=form_schema(TranscriptionForm))
async def create_transcription(request: Request, terms: OnTerms) -> Response:
    """Transcribe one file, as OpenAI's API does."""
    return await _answer(request, terms, read_transcription, "transcribe")


@router.post("/audio/translations", responses=ERRORS, openapi_extra=form_schema(TranslationForm))
async def create_translation(request: Request, terms: OnTerms) -> Response:
    """Translate one file into English, as OpenAI's API does."""
    return await _answer(request, terms, read_translation, "translate")


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


async def _answer(request: Request, terms: Terms, read: Callable[..., Asked], task: Task) -> Response:
    state = request.app.state
    strict = state.settings.strict
    started = time.perf_counter()
    loaded(request)  # or there is no need to read the upload
    async with AsyncExitStack() as opened:
        with state.metrics.stage("upload"):
            form: FormData = await opened.enter_async_context(open_form(request, state.settings.max_upload_bytes))
        asked = read(form, strict=strict)
        model = loaded(request, asked.form.model)
        served_with = means(request.app, model, terms)
        asked, options = options_of(asked, model, state.settings, task=task)
        tokenizer = model.scheduler.engine.tokenizer
        if asked.stream:

            def done(answer: Answer) -> dict[str, Any]:
                # Without usage: a stream's is counted in tokens, and speech costs seconds here.
                return {"type": "transcript.text.done"} | _text(asked, answer, tokenizer)

            headers = headers_of(asked)
            return await stream(request, model, opened.pop_all(), asked, options, served_with, headers, done)
        work = transcribe(asked.files[0].content, options, served_with)
        answer = await unless_disconnected(request, work)
        copy_to_shadow(request, model, asked.files[0].content, options, answer.transcription.text)
    refuse_partial(answer, strict=strict)
    request.state.facts |= facts(answer.transcription)
    headers = headers_of(asked, answer)
    headers["openai-processing-ms"] = str(round(1000 * (time.perf_counter() - started)))
    if (response := plain(asked, answer.transcription, headers)) is not None:
        return response
    body = _verbose(asked, task, answer) if asked.response_format == "verbose_json" else _text(asked, answer, tokenizer)
    return JSONResponse(body | {"usage": _usage(answer.transcription)}, headers=headers)


def _text(asked: Asked, answer: Answer, tokenizer: WhisperTokenizer) -> dict[str, Any]:
    result = answer.transcription
    body: dict[str, Any] = {"text": result.text}
    if result.language is not None:
        body["languages"] = [{"code": result.language}]
    if asked.logprobs:
        body["logprobs"] = token_logprobs(tokenizer, result.segments)
    return body | _notes(asked, answer)


def _notes(asked: Asked, answer: Answer) -> dict[str, Any]:
    """Return what OpenAI's API does not say: that nobody speaks, fields without effect, and why the end is missing."""
    notes: dict[str, Any] = {}
    if answer.transcription.no_speech:
        notes["no_speech"] = True
    if asked.warnings:
        notes["warnings"] = asked.warnings
    if (missing := partial(answer)) is not None:
        notes["partial"] = missing.model_dump()
    return notes


def _verbose(asked: Asked, task: Task, answer: Answer) -> dict[str, Any]:
    result = answer.transcription
    language = "en" if task == "translate" else result.language
    body: dict[str, Any] = {
        "task": task,
        "language": "unknown" if language is None else LANGUAGES.get(language, language),
        "duration": round(result.duration, 3),
        "text": result.text,
    }
    if "segment" in asked.granularities:
        body["segments"] = [
            {
                "id": segment.id,
                "seek": segment.seek,
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "text": segment.text,
                "tokens": segment.tokens,
                "temperature": segment.temperature,
                "avg_logprob": segment.avg_logprob,
                "compression_ratio": segment.compression_ratio,
                "no_speech_prob": segment.no_speech_prob,
            }
            for segment in result.segments
        ]
    if "word" in asked.granularities:
        body["words"] = [word_json(word) for word in result.words]
    return body | _notes(asked, answer)


def _usage(result: Transcription) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(result.duration)}
