"""Transcripts as callers get them: plain text, subtitles, the native JSON, and deltas while it is transcribed."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi import Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service import schemas
from service.errors import answer_to, detail_of
from service.openai_form import Asked
from service.request import copy_to_shadow, facts, unless_disconnected
from service.state import Loaded
from service.transcribe import Answer, Means, transcribe
from speech.formats import to_srt, to_tsv, to_vtt
from speech.subtitles import lay_out
from speech.tokens import WhisperTokenizer
from speech.transcribe import Added, Options, Segment, Transcription

MAX_LANGUAGES = 5  # probabilities that are told


def headers_of(asked: Asked, answer: Answer | None = None) -> dict[str, str]:
    """Return what a plain body has no room for: warnings, and why the end is missing."""
    headers: dict[str, str] = {}
    if asked.warnings:
        headers["X-Whisperloop-Warnings"] = json.dumps(asked.warnings)
    if answer is not None and answer.fault is not None:
        headers["X-Whisperloop-Partial"] = answer.fault.code
    return headers


def plain(asked: Asked, result: Transcription, headers: dict[str, str]) -> Response | None:
    """Return the formats that are plain bodies; None for the others."""
    match asked.response_format:
        case "text":
            return PlainTextResponse(result.text + "\n", headers=headers)
        case "srt":
            return PlainTextResponse(to_srt(lay_out(result.segments, asked.layout)), headers=headers)
        case "vtt":
            return PlainTextResponse(
                to_vtt(lay_out(result.segments, asked.layout)), headers=headers, media_type="text/vtt"
            )
        case "tsv":
            return PlainTextResponse(to_tsv(result.segments), headers=headers, media_type="text/tab-separated-values")
    return None


def native(
    asked: Asked, answer: Answer, tokenizer: WhisperTokenizer, ref: str, timings: schemas.Timings
) -> schemas.Transcription:
    """Return all that is known of a file."""
    result = answer.transcription
    probabilities = sorted((result.language_probabilities or {}).items(), key=lambda one: -one[1])[:MAX_LANGUAGES]
    return schemas.Transcription(
        text=result.text,
        language=result.language,
        language_probabilities={code: round(p, 4) for code, p in probabilities} or None,
        duration=round(result.duration, 3),
        no_speech=result.no_speech,
        segments=[_segment(asked, segment, tokenizer) for segment in result.segments],
        dropped=[_segment(asked, segment, tokenizer) for segment in result.dropped],
        partial=partial(answer),
        model=ref,
        warnings=list(asked.warnings),
        timings=timings,
    )


def partial(answer: Answer) -> schemas.Partial | None:
    """Return why the rest of a file is missing, if it is."""
    if answer.fault is None:
        return None
    seconds = round(answer.transcription.duration, 3)
    return schemas.Partial(code=answer.fault.code, message=str(answer.fault), decoded_seconds=seconds)


def refuse_partial(answer: Answer, *, strict: bool) -> None:
    """In strict mode, an answer without its end is none.

    Raises:
        AudioError: why the end is missing.
    """
    if strict and answer.fault is not None:
        raise answer.fault


def _segment(asked: Asked, segment: Segment, tokenizer: WhisperTokenizer) -> schemas.Segment:
    words = segment.words if "word" in asked.granularities else None
    return schemas.Segment(
        id=segment.id,
        start=round(segment.start, 3),
        end=round(segment.end, 3),
        text=segment.text,
        seek=segment.seek,
        tokens=list(segment.tokens),
        avg_logprob=segment.avg_logprob,
        no_speech_prob=segment.no_speech_prob,
        compression_ratio=segment.compression_ratio,
        temperature=segment.temperature,
        flags=list(segment.flags),
        words=None
        if words is None
        else [schemas.Word(**word_json(word), probability=word.probability) for word in words],
        logprobs=[schemas.TokenLogprob(**one) for one in token_logprobs(tokenizer, [segment])]
        if asked.logprobs
        else None,
    )


def word_json(word: Any) -> dict[str, Any]:
    """Return a word and its time, as OpenAI's API has them: without the blank."""
    return {"word": word.word.strip(), "start": round(word.start, 3), "end": round(word.end, 3)}


def token_logprobs(tokenizer: WhisperTokenizer, segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Return the tokens of segments with their log-probabilities, as OpenAI's API has them."""
    return [
        {"token": written.decode(errors="replace"), "logprob": logprob, "bytes": list(written)}
        for segment in segments
        for token, logprob in zip(segment.tokens, segment.token_logprobs or (), strict=True)
        for written in [tokenizer.token_bytes(token)]
    ]


class _Stream(StreamingResponse):
    """Server-sent events of some work, which ends with the response, however that ends."""

    def __init__(self, events: AsyncIterator[str], working: "asyncio.Task[Answer]", headers: dict[str, str]) -> None:
        # The second is nginx's, which would keep all events until the last.
        headers = headers | {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._working = working

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await _end(self._working)


async def _end(working: "asyncio.Task[Answer]") -> None:
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def stream(
    request: Request,
    model: Loaded,
    opened: AsyncExitStack,
    asked: Asked,
    options: Options,
    means: Means,
    headers: dict[str, str],
    done: Callable[[Answer], dict[str, Any]],
) -> Response:
    """Answer with server-sent events; what fails before the first words fails as everywhere.

    Args:
        request: as it came.
        model: that answers.
        opened: closes the upload.
        asked: the form.
        options: what is asked of the engine.
        means: what it is asked with.
        headers: of the answer.
        done: makes the last event.
    """
    tokenizer = means.scheduler.engine.tokenizer
    ready: asyncio.Queue[Added | None] = asyncio.Queue()

    async def work() -> Answer:
        async with opened:  # the upload stays open as long as it is read
            content = asked.files[0].content
            answer = await transcribe(content, options, means, on_added=ready.put_nowait)
            copy_to_shadow(request, model, content, options, answer.transcription.text)
            return answer

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
        added = first
        try:
            while added is not None:
                if added.text:
                    event: dict[str, Any] = {"type": "transcript.text.delta", "delta": added.text}
                    if asked.logprobs:
                        event["logprobs"] = token_logprobs(tokenizer, added.segments)
                    yield _event(event)
                added = await ready.get()
            answer = working.result()
            refuse_partial(answer, strict=request.app.state.settings.strict)
            request.state.facts |= facts(answer.transcription)
            yield _event(done(answer))
        except Exception as error:  # noqa: BLE001 - half an answer is out: the error is its last event
            yield _event({"error": detail_of(request, answer_to(request, error)).model_dump()})

    return _Stream(events(), working, headers)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
