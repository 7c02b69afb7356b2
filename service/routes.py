"""The HTTP interface: what is asked, checked and answered. It knows the scheduler, and neither engine nor registry."""

import asyncio
import importlib.metadata
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from service import schemas
from service.answers import headers_of, native, plain, refuse_partial, stream
from service.errors import RETRY_SOON, ApiError, answer_to, detail_of
from service.forms import File, form_schema
from service.metrics import CONTENT_TYPE
from service.models import Models
from service.openai_form import Asked, DetectForm, TranscribeForm, options_of, read_detect, read_transcribe
from service.request import copy_to_shadow, facts, loaded, means, unless_disconnected, usable
from service.state import Loaded
from service.terms import OnTerms
from service.transcribe import Answer, Means, transcribe
from service.transcribe import detect_language as detect
from service.upload import open_form
from speech.languages import LANGUAGES
from speech.transcribe import Options

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Error} for status in (400, 404, 413, 415, 422, 500, 503, 504)
}
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": schemas.Error}}

router = APIRouter()


@router.post(
    "/transcribe",
    response_model=schemas.Transcription | schemas.Transcriptions,
    responses=ERRORS,
    openapi_extra=form_schema(TranscribeForm, several=True),
)
async def transcribe_files(request: Request, terms: OnTerms) -> Any:
    """Transcribe audio of any length; silence is an empty text, not an error.

    Several files are answered in one JSON, `{"results": [...]}`, each with its transcription or its error.
    """
    state = request.app.state
    strict = state.settings.strict
    model = loaded(request)  # or there is no need to read the upload
    async with AsyncExitStack() as opened:
        started = time.perf_counter()
        with state.metrics.stage("upload"):
            form = await opened.enter_async_context(open_form(request, state.settings.max_upload_bytes))
        uploaded = time.perf_counter()
        asked = read_transcribe(form, strict=strict)
        if asked.form.model:
            model = loaded(request, asked.form.model)
        served_with = means(request.app, model, terms)
        asked, options = options_of(asked, model, state.settings, task="transcribe")
        tokenizer, ref = model.scheduler.engine.tokenizer, model.version.ref

        def answered(answer: Answer) -> schemas.Transcription:
            refuse_partial(answer, strict=strict)
            total = time.perf_counter() - uploaded
            timings = schemas.Timings(upload=round(uploaded - started, 3), total=round(total, 3))
            return native(asked, answer, tokenizer, ref, timings)

        if asked.stream:

            def done(answer: Answer) -> dict[str, Any]:
                return {"type": "transcript.text.done"} | answered(answer).model_dump()

            headers = headers_of(asked)
            return await stream(request, model, opened.pop_all(), asked, options, served_with, headers, done)
        if len(asked.files) > 1:
            work = _several(request, served_with, asked, options, answered)
            results = await unless_disconnected(request, work)
            return JSONResponse(schemas.Transcriptions(results=results).model_dump(), headers=headers_of(asked))
        work_on_one = transcribe(asked.files[0].content, options, served_with)
        answer = await unless_disconnected(request, work_on_one)
        copy_to_shadow(request, model, asked.files[0].content, options, answer.transcription.text)
    body = answered(answer)
    request.state.facts |= facts(answer.transcription)
    headers = headers_of(asked, answer)
    return plain(asked, answer.transcription, headers) or JSONResponse(body.model_dump(), headers=headers)


async def _several(
    request: Request,
    served_with: Means,
    asked: Asked,
    options: Options,
    answered: Callable[[Answer], schemas.Transcription],
) -> list[schemas.FileResult]:
    """Transcribe several files side by side; one that fails does not harm the others."""

    async def one(file: File) -> schemas.FileResult:
        try:
            answer = await transcribe(file.content, options, served_with)
            return schemas.FileResult(file=file.name, transcription=answered(answer), error=None)
        except Exception as error:  # noqa: BLE001 - it is this file's answer
            return schemas.FileResult(
                file=file.name, transcription=None, error=detail_of(request, answer_to(request, error))
            )

    results = await asyncio.gather(*map(one, asked.files))
    done = [result.transcription for result in results if result.transcription is not None]
    request.state.facts |= {"audio_s": round(sum(one.duration for one in done), 2), "files": len(results)}
    return results


@router.post("/detect-language", responses=ERRORS, openapi_extra=form_schema(DetectForm))
async def detect_language(request: Request, response: Response, terms: OnTerms) -> schemas.LanguageDetection:
    """Say which language is spoken: in the first window with speech, or in the first few if it is short or unclear."""
    state = request.app.state
    model = loaded(request)  # or there is no need to read the upload
    async with AsyncExitStack() as opened:
        with state.metrics.stage("upload"):
            form = await opened.enter_async_context(open_form(request, state.settings.max_upload_bytes))
        asked = read_detect(form)
        if asked.form.model:
            model = loaded(request, asked.form.model)
        asked, options = options_of(asked, model, state.settings, task="transcribe")
        response.headers.update(headers_of(asked))
        if options.language is not None:  # one language to choose from: how probable it is is the question
            options = replace(options, language=None, languages=(options.language,))
        work = detect(asked.files[0].content, options, means(request.app, model, terms))
        found = await unless_disconnected(request, work)
    language = found.likeliest
    probabilities = {code: round(p, 4) for code, p in (found.probabilities or {}).items()}
    return schemas.LanguageDetection(
        language=language,
        name=None if language is None else LANGUAGES.get(language, language),
        probability=None if language is None else probabilities[language],
        probabilities=probabilities,
        no_speech=language is None,
        model=model.version.ref,
    )


@router.get("/health/live", responses=NOT_READY)
async def live(request: Request) -> schemas.Health:
    """Answer as long as the process does, and 200 unless nothing but a restart helps: restart it if not."""
    main = request.app.state.models.main
    if isinstance(main, Loaded):
        usable(main)
    return schemas.Health(status="live")


@router.get("/health/ready", responses=NOT_READY)
async def ready(request: Request) -> schemas.Health:
    """Answer 200 if there is a model to transcribe with and the service stays, else what to do about it."""
    if request.app.state.draining:
        raise ApiError(503, "draining", "This service is being stopped; ask another one.", headers=RETRY_SOON)
    usable(request.app.state.models.main)
    return schemas.Health(status="ready")


@router.get("/version")
async def version(request: Request) -> schemas.About:
    """Say which software and which models answer here, and which versions were refused."""
    models: Models = request.app.state.models
    seen = request.app.state.shadow.seen
    return schemas.About(
        whisperloop=_package_version(),
        model=models.main.version if isinstance(models.main, Loaded) else None,
        beside=[
            schemas.Beside(place=place.ref, role=place.role, model=model.version)
            for place, model in models.serving
            if place.role != "main"
        ],
        refused=[schemas.Refused(**asdict(refused)) for refused in models.refused],
        shadow=seen and schemas.Disagreement(**asdict(seen), rate=round(seen.rate, 4)),
    )


@router.get("/v1/queue", responses=NOT_READY)
async def queue(request: Request) -> schemas.Queue:
    """Say how much waits in front of a new request, and how long that will take."""
    scheduler = usable(request.app.state.models.main).scheduler
    return schemas.Queue(
        speed=scheduler.speed,
        lanes={
            lane: schemas.Lane(**asdict(waiting), expected_wait_s=scheduler.expected_wait_s(schemas.TYPICAL_S, lane))
            for lane, waiting in scheduler.stats().lanes.items()
        },
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Tell operators how it goes, in Prometheus' text format."""
    models: Models = request.app.state.models
    schedulers = {model.version.ref: model.scheduler for place, model in models.serving if place.role != "shadow"}
    return Response(request.app.state.metrics.render(schedulers), media_type=CONTENT_TYPE)


def _package_version() -> str:
    try:
        return importlib.metadata.version("whisperloop")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # run from a checkout
