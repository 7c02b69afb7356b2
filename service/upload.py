"""Reading the form of an upload: bounded; and the form of POST /transcribe, which refuses whatever it does not know.

Starlette spools the file, to an unnamed temporary one if it is large; the file's own name is never looked at.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.types import Message

from service.errors import ApiError
from speech.tokens import TASKS, Task

FIELDS = ("file", "language", "task")
FORM_OVERHEAD_BYTES = 64 * 1024  # boundaries, headers and the other fields
CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)
MAX_FIELDS = 16  # more than there are, so that an unknown one is named rather than counted

OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "Audio, or a video's sound, in any format that FFmpeg knows.",
                        },
                        "language": {"type": "string", "description": "A code (it, en-GB); without it, detected."},
                        "task": {"type": "string", "enum": list(TASKS), "default": TASKS[0]},
                    },
                }
            }
        },
    }
}
"""The form, for /docs."""


@dataclass(frozen=True)
class Upload:
    """A form that was understood."""

    file: BinaryIO
    language: str | None
    task: Task


@asynccontextmanager
async def open_form(
    request: Request, max_bytes: int, *, max_fields: int = MAX_FIELDS, max_text_bytes: int = FORM_OVERHEAD_BYTES
) -> AsyncIterator[FormData]:
    """Read a form of fields and one file; the file is open inside the block.

    Args:
        request: with the form as its body.
        max_bytes: of the file.
        max_fields: beside the file.
        max_text_bytes: of everything but the file.

    Raises:
        ApiError: it is too large, not in UTF-8, or something is in the query, where nothing belongs.
    """
    charset = CHARSET.search(request.headers.get("content-type", ""))
    if charset and charset[1].lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise ApiError(400, "invalid_request", "The form's charset is to be UTF-8.")
    for name in request.query_params:
        raise ApiError(400, "unknown_parameter", f"{name!r} in the query: everything is a form field here.", name)
    limited = _limit_body(request, max_bytes, max_text_bytes)
    async with limited.form(max_files=1, max_fields=max_fields, max_part_size=max_text_bytes) as form:
        for file in form.values():
            if isinstance(file, UploadFile) and (file.size or 0) > max_bytes:
                raise _too_large(max_bytes)
        yield form


@asynccontextmanager
async def read_upload(request: Request, max_bytes: int) -> AsyncIterator[Upload]:
    """Read the form; the file is open inside the block.

    Raises:
        ApiError: it is too large, or not the form that `OPENAPI` describes.
    """
    async with open_form(request, max_bytes) as form:
        yield read_form(form)


def read_form(form: FormData) -> Upload:
    """Check the form of POST /transcribe.

    Raises:
        ApiError: it is not the one that `OPENAPI` describes.
    """
    _check_fields(form)
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise ApiError(
            400, "invalid_request", "Send multipart/form-data with the audio as a file in the field 'file'.", "file"
        )
    return Upload(file.file, _text(form, "language"), _task(_text(form, "task")))


def _limit_body(request: Request, max_bytes: int, max_text_bytes: int) -> Request:
    """Return the request with a body that breaks off, before it fills the disk, where it is too large."""
    max_body = max_bytes + max_text_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_body:
        raise _too_large(max_bytes)
    n_bytes = 0

    async def receive() -> Message:
        nonlocal n_bytes
        message = await request.receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > max_body:
            raise _too_large(max_bytes)
        return message

    return Request(request.scope, receive)


def _too_large(max_bytes: int) -> ApiError:
    message = f"The file is larger than the {max_bytes:,} bytes that are accepted here; send it compressed or in parts."
    # The rest of the body is not read: the connection cannot be used again.
    return ApiError(413, "file_too_large", message, "file", {"Connection": "close"})


def _check_fields(form: FormData) -> None:
    for name in form:
        if name not in FIELDS:
            message = f"Unknown form field {name!r}; there are: {', '.join(FIELDS)}."
            raise ApiError(400, "unknown_parameter", message, name)
        if len(form.getlist(name)) > 1:
            raise ApiError(400, "invalid_request", f"The form field {name!r} is there more than once.", name)


def _text(form: FormData, name: str) -> str | None:
    value = form.get(name)
    if isinstance(value, UploadFile):
        raise ApiError(400, "invalid_request", f"The form field {name!r} is text, not a file.", name)
    return value


def _task(value: str | None) -> Task:
    if value is None:
        return TASKS[0]
    for task in TASKS:
        if value == task:
            return task
    raise ApiError(400, "invalid_request", f"Unknown task {value!r}; there are: {', '.join(TASKS)}.", "task")
