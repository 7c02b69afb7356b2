"""Everything that can go wrong, in one envelope, OpenAI's: `{"error": {"message", "type", "param", "code"}}`.

Messages say what to do and never what is inside: causes go to the log, under the request's id.
"""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.decoder import BusyError
from service.scheduler import DeadlineExceededError, DeadlineUnreachableError, OverloadedError
from service.schemas import Error, ErrorDetail
from speech.audio import AudioError
from speech.engine import EngineError

logger = logging.getLogger("whisperloop.service")

AUDIO_STATUS = {
    "empty_audio": 400,
    "audio_too_short": 400,
    "unsupported_audio": 415,
    "no_audio_stream": 415,
    "truncated_audio": 422,
    "damaged_audio": 422,
    "undecodable_audio": 422,
    "audio_too_long": 413,
}
HTTP_CODES = {
    404: ("not_found", "There is nothing at this path; GET /docs lists what there is."),
    405: ("method_not_allowed", "This path does not take this method; see the Allow header."),
}


RETRY_SOON = {"Retry-After": "5"}


class ApiError(Exception):
    """An answer that is not a success."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.headers = status, code, message, param, headers


def envelope(request: Request, error: ApiError) -> JSONResponse:
    """Return the response for an error, and note its code for the request's log line."""
    # OpenAI's API has one status for whatever is wrong with a request, and its clients' exceptions follow the status.
    in_openai_api = request.scope["path"].startswith("/v1/")
    status = 400 if in_openai_api and error.status in {415, 422} else error.status
    return JSONResponse(Error(error=detail_of(request, error)).model_dump(), status, error.headers)


def detail_of(request: Request, error: ApiError) -> ErrorDetail:
    """Return what a caller is told, and note its code for the request's log line."""
    facts = request.state.facts
    facts["error"] = error.code
    return ErrorDetail(
        message=error.message,
        type="server_error" if error.status >= 500 else "invalid_request_error",
        param=error.param,
        code=error.code,
        request_id=facts["request_id"],
    )


def internal_error(request: Request, error: Exception) -> JSONResponse:
    """Return the response for what nobody foresaw; only the log learns what it was."""
    return envelope(request, answer_to(request, error))


def answer_to(request: Request, error: Exception) -> ApiError:
    """Return what a caller is told of any exception; only the log learns what nobody foresaw."""
    request_id = request.state.facts["request_id"]
    if isinstance(error, EngineError):
        logger.error("request %s: %s", request_id, error)
    answer = _foreseen(error)
    if answer is None:
        logger.error("request %s failed", request_id, exc_info=error)
        return ApiError(500, "internal_error", "Something went wrong here; the log says what.")
    return answer


def add_exception_handlers(app: FastAPI) -> None:
    """Answer every foreseen exception in the envelope (`service.request_log` answers the others)."""
    for kind in (
        ApiError,
        AudioError,
        BusyError,
        ClientDisconnect,
        DeadlineExceededError,
        DeadlineUnreachableError,
        EngineError,
        HTTPException,
        OverloadedError,
        RequestValidationError,
    ):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> JSONResponse:
    return envelope(request, answer_to(request, error))


def _foreseen(error: Exception) -> ApiError | None:  # noqa: PLR0911 - one line an error reads best
    match error:
        case ApiError():
            return error
        case AudioError():
            return ApiError(AUDIO_STATUS[error.code], error.code, str(error), "file")
        case BusyError():
            return ApiError(503, "overloaded", "Too many files are being read; try again in 5 s.", headers=RETRY_SOON)
        case OverloadedError():
            return ApiError(503, "overloaded", str(error), headers=_when_to_retry(error))
        case DeadlineUnreachableError():
            # Not 429: it is the server that is busy, not the caller. Not 504: nothing was tried.
            return ApiError(503, "deadline_unreachable", str(error), "X-Deadline-Ms", _when_to_retry(error))
        case DeadlineExceededError():
            return ApiError(504, "deadline_exceeded", str(error), "X-Deadline-Ms", {"X-Should-Retry": "false"})
        case EngineError():
            return ApiError(500, "decoding_failed", "A part of this audio could not be decoded; the log says why.")
        case ClientDisconnect():
            return ApiError(499, "client_disconnected", "The client left before the answer was there.")
        case RequestValidationError():
            first = error.errors()[0]
            where, name = first["loc"][0], str(first["loc"][-1])
            if where == "header":  # written as everywhere else: X-Deadline-Ms
                name = name.title()
                return ApiError(400, "invalid_request", f"The header {name}: {first['msg']}.", name)
            return ApiError(400, "invalid_request", f"{name}: {first['msg']}.", name)
        case HTTPException():
            code, message = HTTP_CODES.get(error.status_code, ("invalid_request", error.detail))
            return ApiError(error.status_code, code, message, headers=error.headers)
    return None


def _when_to_retry(error: OverloadedError | DeadlineUnreachableError) -> dict[str, str]:
    headers = {}
    if error.retry_after_s is None:
        headers["X-Should-Retry"] = "false"  # which OpenAI's clients obey
    else:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.expected_wait_s is not None:
        headers["X-Whisperloop-Expected-Wait-Ms"] = str(round(1000 * error.expected_wait_s))
    return headers
