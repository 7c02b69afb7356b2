"""Reading forms: every spelling that OpenAI's clients write arrays and objects in, and refusals that name the field."""

import json
import re
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData

from service.errors import ApiError

NAME = re.compile(r"(?P<name>\w+)(?:\[(?P<key>\w*)\])?")
"""`name`, `name[]` for an item of an array, `name[key]` for one of an object."""

ARRAYS = frozenset(
    {
        *("include", "keywords", "languages", "timestamp_granularities"),
        *("known_speaker_names", "known_speaker_references"),
    }
)
OBJECTS = frozenset({"chunking_strategy"})

MAX_ITEMS = 1000
"""Of an array, and keys of an object: more are not even checked, for each that is wrong would be an error of its own,
of some hundred times its size."""


@dataclass(frozen=True)
class File:
    """An uploaded file."""

    content: BinaryIO  # seekable, at its start
    name: str  # as the caller wrote it, for the answer only: never a path, never in a log


def gather(form: FormData, known: frozenset[str], *, max_files: int = 1) -> tuple[list[File], dict[str, Any]]:
    """Return the files, and the other fields with arrays and objects put together.

    They may be repeated (`name=a&name=b`), in brackets (`name[]=a`, `name[key]=b`), or JSON (`name=["a"]`).

    Args:
        form: as parsed.
        known: fields of which an empty text means that they were left out.
        max_files: in the field `file`.

    Raises:
        ApiError: a field is there twice, is a file or is not JSON, or there are no files or too many.
    """
    given: dict[str, Any] = {}
    files: list[File] = []
    for written, value in form.multi_items():
        if isinstance(value, str):
            _add(given, written, value, known)
        elif written in {"file", "file[]", "files", "files[]"}:
            files.append(File(value.file, value.filename or ""))
        else:
            name = written[:40]
            message = f"There is a file in the field {name!r}; send audio in the field 'file'."
            raise ApiError(400, "invalid_request" if name in known else "unknown_parameter", message, name)
    if not files or "file" in given:
        message = "Send multipart/form-data with the audio as a file in the field 'file'."
        raise ApiError(400, "invalid_request", message, "file")
    if len(files) > max_files:
        message = "Send one file a request." if max_files == 1 else f"Send no more than {max_files} files a request."
        raise ApiError(400, "invalid_request", message, "file")
    return files, given


def _add(given: dict[str, Any], written: str, value: str, known: frozenset[str]) -> None:
    """Add a text to the fields, by the name that was written."""
    matched = NAME.fullmatch(written)
    name, key = (written, None) if matched is None else matched.group("name", "key")
    if key:
        inside = given.setdefault(name, {})
        if not isinstance(inside, dict) or key in inside:
            raise _repeated(name)
        inside[key] = value
    elif key == "" or name in ARRAYS:
        items = given.setdefault(name, [])
        if not isinstance(items, list):
            raise _repeated(name)
        items += _items(value)
        _check_size(name, items)
    elif name in given:
        raise _repeated(name)
    elif name in OBJECTS and value.lstrip().startswith("{"):
        given[name] = _object(value, name)
        _check_size(name, given[name])
    elif value or name not in known:  # an empty text is how forms leave a field out
        given[name] = value


def form_schema(form: type[BaseModel], *, several: bool = False) -> dict[str, Any]:
    """Return the OpenAPI description of a form with a file.

    Args:
        form: the fields beside the file.
        several: whether there may be more than one file.
    """
    schema = form.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, inner in schema.pop("$defs", {}).items():  # few and small: in their places
        schema = json.loads(json.dumps(schema).replace(f'{{"$ref": "#/components/schemas/{name}"}}', json.dumps(inner)))
    file = {"type": "string", "format": "binary", "description": "Audio, or a video's sound, as FFmpeg knows them."}
    schema["properties"] = {"file": {"type": "array", "items": file} if several else file} | schema["properties"]
    schema["required"] = ["file", *schema.get("required", [])]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def refusal(error: ValidationError) -> ApiError:
    """Return what a caller is told of a form that is not one."""
    errors = error.errors(include_url=False)
    name = str(errors[0]["loc"][0])
    # Of an object or one of several texts, the innermost error says most.
    first = max((one for one in errors if one["loc"][0] == name), key=lambda one: len(one["loc"]))
    if first["type"] == "missing" and len(first["loc"]) > 1:
        return ApiError(400, "missing_parameter", f"{name}: it lacks {first['loc'][-1]!r}.", name)
    if first["type"] == "missing":
        return ApiError(400, "missing_parameter", f"The field {name!r} is required.", name)
    message = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, "invalid_value", f"{name}: {message}.", name)


def _check_size(name: str, value: Any) -> None:
    if isinstance(value, list | dict) and len(value) > MAX_ITEMS:
        raise ApiError(400, "invalid_value", f"{name[:40]}: there are more than {MAX_ITEMS:,} items.", name[:40])


def _repeated(name: str) -> ApiError:
    return ApiError(400, "invalid_request", f"The field {name[:40]!r} is there more than once.", name[:40])


def _items(value: str) -> list[Any]:
    """Return the items of a JSON array, or the one that is not one."""
    try:
        items = _json(value) if value.lstrip().startswith("[") else value
    except (ValueError, RecursionError):
        items = value  # a keyword may begin with a bracket
    return items if isinstance(items, list) else [value] if value else []


def _object(value: str, name: str) -> Any:
    try:
        return _json(value)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_request", f"{value[:50]!r} is not JSON.", name) from error


def _json(value: str) -> Any:
    parsed = json.loads(value)
    json.dumps(parsed, ensure_ascii=False).encode()  # half a surrogate pair is no text: ValueError
    return parsed
