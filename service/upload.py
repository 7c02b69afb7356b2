"""Reading the body of an upload, bounded; what its fields mean is `service.openai_form`'s business.

Nothing of it is written to a disk: files stay in memory until their request is answered, and all requests' together are
bounded. A file's own name is never looked at.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message

from service.errors import ApiError

CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)
MAX_FIELDS = 500  # keywords and languages are a field each
MAX_TEXT_BYTES = 2 * 1024**2  # of all fields together: four references of speakers, each 10 s as a data URL
MAX_FILES = 16
MIN_BYTES_PER_S = 1024  # over the upload timeout; else a byte now and then would hold a connection for ever
RETRY_AFTER_S = 5  # a guess: when others' uploads are answered, nobody knows


class Buffered:
    """Counts the bytes of uploads that are in memory, of all requests together. `app.state.buffered`."""

    def __init__(self, limit: int) -> None:
        self.limit, self.n_bytes = limit, 0

    def take(self, n_bytes: int) -> None:
        """Count some more.

        Raises:
            ApiError: there is no room for them; none of them is counted.
        """
        self.check(n_bytes)
        self.n_bytes += n_bytes

    def check(self, n_bytes: int) -> None:
        """Raise ApiError if there is no room for so many."""
        if self.n_bytes + n_bytes > self.limit:
            message = "Too many uploads are being read and transcribed at once; try again in a few seconds."
            # The rest of the body is not read: the connection cannot be used again.
            raise ApiError(
                503, "overloaded", message, headers={"Retry-After": str(RETRY_AFTER_S), "Connection": "close"}
            )

    def give_back(self, n_bytes: int) -> None:
        """Count them no longer."""
        self.n_bytes -= n_bytes


@asynccontextmanager
async def open_form(request: Request, max_bytes: int) -> AsyncIterator[FormData]:
    """Read a form of fields and files; the files are open, and in memory, inside the block.

    Args:
        request: with the form as its body; a body that is not multipart is not read, and is an empty form.
        max_bytes: of all files together.

    Raises:
        ApiError: it is too large, too slow, not in UTF-8, there is no room for it, or something is in the query, where
            nothing belongs.
    """
    content_type = request.headers.get("content-type", "")
    charset = CHARSET.search(content_type)
    if charset and charset[1].lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise ApiError(400, "invalid_request", "The form's charset is to be UTF-8.")
    for name in request.query_params:
        raise ApiError(400, "unknown_parameter", f"{name!r} in the query: everything is a form field here.", name)
    body = Body(request, max_bytes)
    if parse_options_header(content_type)[0] != b"multipart/form-data":
        yield FormData()
        return
    try:
        form = await _parse(body)
        try:
            for _, file in form.multi_items():
                if isinstance(file, UploadFile) and (file.size or 0) > max_bytes:
                    raise _too_large(max_bytes)
            yield form
        finally:
            await form.close()
    finally:
        body.let_go()


async def _parse(body: "Body") -> FormData:
    started = time.perf_counter()
    request = Request(body.request.scope, body.receive)
    parser = _Parser(
        request.headers,
        request.stream(),
        max_files=MAX_FILES,
        max_fields=MAX_FIELDS,
        max_part_size=MAX_TEXT_BYTES,
    )
    parser.spool_max_size = body.max_bytes + 1  # a larger one never gets there: none goes to the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, "invalid_request", error.message, parser.blamed(error)) from error
    finally:
        request.state.upload_s = time.perf_counter() - started  # is not the service's
    if not parser.is_complete:
        parser.close()
        raise ApiError(400, "invalid_request", "The form is cut off: its last boundary is missing.")
    return form


class _Parser(MultiPartParser):
    """Starlette's, which takes a form that is cut off for one that lacks its last field, and leaves that open."""

    is_complete = False
    text_bytes = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Count the text of all fields: Starlette bounds each."""
        if self._current_part.file is None:
            self.text_bytes += end - start
            if self.text_bytes > MAX_TEXT_BYTES:
                raise MultiPartException(f"Part exceeded maximum size of {MAX_TEXT_BYTES // 1024}KB for all fields.")
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        """Note that the last boundary was there."""
        self.is_complete = True

    def blamed(self, error: MultiPartException) -> str | None:
        """Return the field that is too large, or one too many; None if the form itself is wrong."""
        if error.message.startswith("Too many files"):
            return "file"
        return self._current_part.field_name[:40] if error.message.startswith("Part exceeded") else None

    def close(self) -> None:
        """Close all files, those among them that are not whole."""
        for file in self._files_to_close_on_error:
            file.close()


class Body:
    """A request's body, which breaks off where it is too large, too slow, or one too many."""

    def __init__(self, request: Request, max_file_bytes: int, *, max_text_bytes: int = MAX_TEXT_BYTES) -> None:
        self.request = request
        self.max_bytes = max_file_bytes + max_text_bytes
        self._max_file_bytes = max_file_bytes
        self._buffered: Buffered = request.app.state.buffered
        self._timeout_s: float = request.app.state.settings.upload_timeout_s
        self._n_bytes = 0
        self._is_over = False
        self._wait_for_more()
        declared = request.headers.get("content-length", "")
        if declared.isdecimal():
            if int(declared) > self.max_bytes:
                raise _too_large(max_file_bytes)
            self._buffered.check(int(declared))  # rather now than in the middle

    async def receive(self) -> Message:
        """Return the next part; after the last one, wait for the client to leave, however long."""
        if self._is_over:
            return await self.request.receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self.request.receive()
        except TimeoutError as error:
            text = f"Hardly any of the upload came for {self._timeout_s:g} s; send it again, or over a better line."
            raise ApiError(408, "upload_timeout", text, headers={"Connection": "close"}) from error
        self._is_over = not message.get("more_body", False)
        n_bytes = len(message.get("body", b""))
        if self._n_bytes + n_bytes > self.max_bytes:
            raise _too_large(self._max_file_bytes)
        self._buffered.take(n_bytes)
        self._n_bytes += n_bytes
        if self._n_bytes >= self._due:
            self._wait_for_more()
        return message

    def _wait_for_more(self) -> None:
        self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        self._due = self._n_bytes + self._timeout_s * MIN_BYTES_PER_S

    def let_go(self) -> None:
        """Count it no longer."""
        self._buffered.give_back(self._n_bytes)


def _too_large(max_bytes: int) -> ApiError:
    message = f"The file is larger than the {max_bytes:,} bytes that are accepted here; send it compressed or in parts."
    # The rest of the body is not read: the connection cannot be used again.
    return ApiError(413, "file_too_large", message, "file", {"Connection": "close"})
