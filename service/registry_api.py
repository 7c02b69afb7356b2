"""The registry over HTTP: a model's versions with their figures, and moving an alias, for who may.

Versions are shown as data: their figures, their curves as pictures, the gate's verdicts as JSON. Whether a move is wise
is not judged here: that is the gate's business, and the log keeps the reason that is given.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry import (
    ALIASES,
    AliasConflictError,
    DamagedRecordError,
    DamagedVersionError,
    InvalidNameError,
    NotFoundError,
    Registry,
    RegistryError,
    Version,
)
from service.errors import ApiError
from service.request import is_cross_site, read_small_body
from service.routes import ERRORS
from service.settings import is_loopback

T = TypeVar("T")

MOVABLE = tuple(alias for alias in ALIASES if alias != "previous")
"""`previous` follows `production` by itself."""

PICTURES = ("loss.png", "wer.png")
MAX_FILE_BYTES = 4_000_000
"""Of a version's figures, a verdict or a picture; what is larger is no figure."""

MAX_BODY_BYTES = 64 * 1024

PNG = b"\x89PNG\r\n\x1a\n"

router = APIRouter(prefix="/v1/models", tags=["registry"])


class Move(BaseModel):
    """POST /v1/models/{name}/aliases/{alias}."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(max_length=64, description="The id of the version that the alias shall name.")
    expected: str | None = Field(
        max_length=64, description="The id that it names now, as far as you know; null if it does not exist."
    )
    reason: str = Field(min_length=1, max_length=500, description="Why; kept in the registry's log.")
    verdict: str | None = Field(default=None, max_length=200, description="The verdict's file that allows it.")


class Moved(BaseModel):
    """Where an alias is now."""

    object: str = "alias"
    model: str
    alias: str
    version: str
    reason: str
    verdict: str | None


class VersionCard(BaseModel):
    """A version, as far as it tells of itself."""

    id: str
    ref: str
    created_at: str
    base: str | None
    parent: str | None
    aliases: list[str] = Field(description="That name it now.")
    served: bool = Field(description="It is loaded, and answers who asks for it.")
    metrics: dict[str, Any] | None = Field(description="Its metrics.json; null if it has none that can be read.")
    pictures: list[str] = Field(description="Its curves: GET …/versions/{id}/curves/{picture}.")
    verdicts: list[dict[str, Any]] = Field(description="The gate's, on it: {file, content}; the newest last.")


class VersionList(BaseModel):
    """All versions of a model, the newest first."""

    object: str = "list"
    model: str
    aliases: dict[str, str]
    may_move: bool = Field(description="Whether who asks may move aliases.")
    data: list[VersionCard]


@router.get("/{name}/versions", responses=ERRORS)
async def list_versions(request: Request, name: str) -> VersionList:
    """List a model's versions: figures, aliases and verdicts."""
    served = {model.version.ref for place, model in request.app.state.models.serving if place.role != "shadow"}
    aliases, cards = await _ask(lambda: _read(_registry(request), name, served))
    return VersionList(model=name, aliases=aliases, may_move=why_not(request) is None, data=cards)


@router.get("/{name}/versions/{version}/curves/{picture}", responses=ERRORS, response_class=Response)
async def get_curves(request: Request, name: str, version: str, picture: str) -> Response:
    """Return one of a version's curves, as PNG."""
    if picture not in PICTURES:
        raise ApiError(404, "picture_not_found", f"There are {' and '.join(PICTURES)}.", "picture")
    found = await _ask(lambda: _file(_registry(request).version(name, version), f"curves/{picture}"))
    if found is None or not found.startswith(PNG):
        raise ApiError(404, "picture_not_found", "This version has no such picture.", "picture")
    return Response(found, media_type="image/png", headers={"X-Content-Type-Options": "nosniff"})


@router.post(
    "/{name}/aliases/{alias}",
    responses={**ERRORS, 403: ERRORS[404], 409: ERRORS[404]},
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": Move.model_json_schema()}}}
    },
)
async def move_alias(request: Request, name: str, alias: str) -> Moved:
    """Let an alias name another version, if it is where you believe it to be: promote, or roll back.

    For a key made with --admin; without keys, from this machine only.
    """
    if refused := why_not(request):
        raise ApiError(403, "admin_required", refused)
    move = await _read_move(request)
    if alias not in MOVABLE:
        message = f"alias: there is no {alias[:40]!r} to move; there are {', '.join(MOVABLE)}."
        raise ApiError(400, "invalid_value", message, "alias")
    reason = move.reason.strip()
    if not reason:
        raise ApiError(400, "missing_parameter", "reason: say why; the registry's log keeps it.", "reason")
    who = request.state.facts.get("key")
    said = f"{reason} (by {who})" if who else reason
    moved = await _ask(
        lambda: _registry(request).move_alias(
            name, alias, move.version, expected=move.expected, reason=said, verdict=move.verdict
        )
    )
    return Moved(model=name, alias=alias, version=moved.version, reason=moved.reason, verdict=moved.verdict)


async def _read_move(request: Request) -> Move:
    """Read the body here: FastAPI would gather whatever comes."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # A page of another site may send anything else without leave.
        raise ApiError(400, "invalid_request", "Send JSON, with Content-Type: application/json.")
    body = await read_small_body(request, MAX_BODY_BYTES)
    try:
        return Move.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults]) from error


def why_not(request: Request) -> str | None:
    """Say why who asks may not move aliases; None if it may."""
    if request.app.state.settings.keys is not None:
        if getattr(request.state, "is_admin", False):
            return None
        return "Aliases are moved with an admin's key: python -m service keys add NAME --admin makes one."
    # A proxy on this machine speaks for anybody, and a page of another site for whoever looks at it.
    passed_on = any(header in request.headers for header in ("forwarded", "x-forwarded-for", "x-real-ip"))
    if _is_local(request) and not passed_on and not is_cross_site(request):
        return None
    return "Without API keys, aliases are moved from the service's own machine only; make keys, one with --admin."


def _is_local(request: Request) -> bool:
    """Say whether a request comes from this machine."""
    return request.client is not None and is_loopback(request.client.host)


def _registry(request: Request) -> Registry:
    return Registry(request.app.state.settings.registry)


async def _ask(work: Callable[[], T]) -> T:
    """Ask the registry on a thread; its errors say what is there instead, and are answered as they are."""
    try:
        return await asyncio.to_thread(work)
    except AliasConflictError as error:
        raise ApiError(409, "alias_moved", f"{error}. Nothing was moved: look again, and decide again.") from error
    except InvalidNameError as error:
        raise ApiError(400, "invalid_value", f"{error}.") from error
    except NotFoundError as error:
        raise ApiError(404, "version_not_found", f"{error}.") from error
    except (DamagedVersionError, DamagedRecordError) as error:
        raise ApiError(409, "damaged", f"{error}. Nothing was moved.") from error
    except RegistryError as error:
        raise ApiError(503, "registry_unavailable", f"{error}.") from error


def _read(registry: Registry, name: str, served: set[str]) -> tuple[dict[str, str], list[VersionCard]]:
    aliases = {alias: where.version for alias, where in registry.aliases(name).items()}
    verdicts = []
    for path in registry.verdicts(name):
        try:
            verdicts.append((path.name, registry.verdict(name, path.name)))
        except RegistryError:
            continue  # a record that is damaged says nothing; `python -m registry` says so
    cards = []
    for version in reversed(registry.versions(name)):
        # A verdict's file names its versions: <candidate>-vs-<base>-<n>.json
        on_it = [
            {"file": file, "content": content} for file, content in verdicts if file.startswith(f"{version.id}-vs-")
        ]
        cards.append(
            VersionCard(
                id=version.id,
                ref=version.ref,
                created_at=version.manifest.created_at.isoformat(timespec="seconds"),
                base=version.manifest.base,
                parent=version.manifest.parent,
                aliases=[alias for alias in ALIASES if aliases.get(alias) == version.id],
                served=version.ref in served,
                metrics=_metrics(version),
                pictures=[one for one in PICTURES if f"curves/{one}" in version.manifest.files],
                verdicts=on_it,
            )
        )
    return aliases, cards


def _metrics(version: Version) -> dict[str, Any] | None:
    try:
        content = json.loads(_file(version, "metrics.json") or b"null")
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _file(version: Version, name: str) -> bytes | None:
    """Read a small file that the version's manifest names; None if it has none."""
    entry = version.manifest.files.get(name)
    path = version.path / name
    try:
        if entry is None or entry.size > MAX_FILE_BYTES or path.is_symlink():
            return None
        return path.read_bytes()
    except OSError:
        return None
