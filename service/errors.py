"""Everything that can go wrong, in one envelope: `{"error": {"code", "message", "param", "request_id"}}`.

Messages say what to do and never what is inside: causes go to the log, under the request's id.
"""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.scheduler import OverloadedError
from service.schemas import Error, ErrorDetail
from speech.audio import AudioError
from speech.engine import EngineError
from speech.tokens import UnknownLanguageError

logger = logging.getLogger("whisperloop.service")

AUDIO_STATUS = {
    "empty_audio": 400,
    "unsupported_audio": 415,
    "truncated_audio": 422,
    "damaged_audio": 422,
    "audio_too_long": 413,
}
HTTP_CODES = {
    404: ("not_found", "There is nothing at this path; GET /docs lists what there is."),
    405: ("method_not_allowed", "This path does not take this method; see the Allow header."),
}


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
    facts = request.state.facts
    facts["error"] = error.code
    detail = ErrorDetail(code=error.code, message=error.message, param=error.param, request_id=facts["request_id"])
    return JSONResponse(Error(error=detail).model_dump(), error.status, error.headers)


def internal_error(request: Request, error: Exception) -> JSONResponse:
    """Return the response for what nobody foresaw; only the log learns what it was."""
    logger.error("request %s failed", request.state.facts["request_id"], exc_info=error)
    return envelope(request, ApiError(500, "internal_error", "Something went wrong here; the log says what."))


def add_exception_handlers(app: FastAPI) -> None:
    """Answer every foreseen exception in the envelope (`service.request_log` answers the others)."""
    for kind in (
        ApiError,
        AudioError,
        ClientDisconnect,
        EngineError,
        HTTPException,
        OverloadedError,
        RequestValidationError,
        UnknownLanguageError,
    ):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, EngineError):
        logger.error("request %s: %s", request.state.facts["request_id"], error)
    return envelope(request, _api_error(error))


def _api_error(error: Exception) -> ApiError:  # noqa: PLR0911 - one line an error reads best
    match error:
        case ApiError():
            return error
        case AudioError():
            return ApiError(AUDIO_STATUS[error.code], error.code, str(error), "file")
        case UnknownLanguageError():
            return ApiError(400, "unknown_language", str(error), "language")
        case OverloadedError():
            return ApiError(503, "overloaded", str(error), headers={"Retry-After": str(error.retry_after_s)})
        case EngineError():
            return ApiError(500, "decoding_failed", "A part of this audio could not be decoded; the log says why.")
        case ClientDisconnect():
            return ApiError(499, "client_disconnected", "The client left before the answer was there.")
        case RequestValidationError():
            first = error.errors()[0]
            return ApiError(400, "invalid_request", first["msg"], str(first["loc"][-1]))
        case HTTPException():
            code, message = HTTP_CODES.get(error.status_code, ("invalid_request", error.detail))
            return ApiError(error.status_code, code, message, headers=error.headers)
    raise TypeError(f"no answer for {error!r}")
