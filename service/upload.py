"""Reading the body of an upload, bounded; what its fields mean is `service.openai_form`'s business.

Starlette spools the file, to an unnamed temporary one if it is large; the file's own name is never looked at.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.types import Message

from service.errors import ApiError

FORM_OVERHEAD_BYTES = 64 * 1024  # boundaries, headers and the other fields
CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)
MAX_FIELDS = 500  # keywords and languages are a field each
MAX_TEXT_BYTES = 2 * 1024**2  # four references of speakers, each 10 s as a data URL
MAX_FILES = 16


@asynccontextmanager
async def open_form(request: Request, max_bytes: int) -> AsyncIterator[FormData]:
    """Read a form of fields and files; the files are open inside the block.

    Args:
        request: with the form as its body.
        max_bytes: of all files together.

    Raises:
        ApiError: it is too large, not in UTF-8, or something is in the query, where nothing belongs.
    """
    charset = CHARSET.search(request.headers.get("content-type", ""))
    if charset and charset[1].lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise ApiError(400, "invalid_request", "The form's charset is to be UTF-8.")
    for name in request.query_params:
        raise ApiError(400, "unknown_parameter", f"{name!r} in the query: everything is a form field here.", name)
    limited = _limit_body(request, max_bytes, MAX_TEXT_BYTES)
    async with limited.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT_BYTES) as form:
        for _, file in form.multi_items():
            if isinstance(file, UploadFile) and (file.size or 0) > max_bytes:
                raise _too_large(max_bytes)
        yield form


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
