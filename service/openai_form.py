"""The forms of OpenAI's audio API: every field and spelling of them, checked; what cannot be done is never ignored.

A field that this server cannot obey is refused in strict mode, and else said in the answer's `warnings`. A field whose
lack would leave the answer without something that was asked for is refused always.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.datastructures import FormData, UploadFile

from service.errors import ApiError

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
DIARIZED = "diarized_json"

NAME = re.compile(r"(?P<name>\w+)(?:\[(?P<key>\w*)\])?")
"""`name`, `name[]` for an item of an array, `name[key]` for one of an object."""

ARRAYS = frozenset(
    {
        *("include", "keywords", "languages", "timestamp_granularities"),
        *("known_speaker_names", "known_speaker_references"),
    }
)

Keyword = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^<>\r\n]*$")]
Language = Annotated[str, Field(min_length=1, max_length=50)]
Unit = Annotated[float, Field(ge=0, le=1)]


class ServerVad(BaseModel):
    """How OpenAI's server finds speech."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["server_vad"]
    prefix_padding_ms: int = Field(default=300, ge=0)
    silence_duration_ms: int = Field(default=200, ge=0)
    threshold: Unit = 0.5


class TranslationForm(BaseModel):
    """POST /v1/audio/translations, without its file."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, max_length=200)
    prompt: str | None = Field(default=None, max_length=10_000)
    response_format: ResponseFormat = "json"
    temperature: Unit = 0.0

    @field_validator("response_format", mode="before")
    @classmethod
    def _no_speakers(cls, value: object) -> object:
        if value == DIARIZED:
            raise ValueError("this server does not tell speakers apart; ask for verbose_json")
        return value


class TranscriptionForm(TranslationForm):
    """POST /v1/audio/transcriptions, without its file."""

    language: Language | None = None
    languages: list[Language] = Field(default=[], max_length=20)
    keywords: list[Keyword] = Field(default=[], max_length=200)
    include: list[Literal["logprobs"]] = []
    timestamp_granularities: list[Literal["word", "segment"]] = ["segment"]
    stream: bool | None = False
    chunking_strategy: Literal["auto"] | ServerVad | None = None
    known_speaker_names: list[str] = Field(default=[], max_length=4)
    known_speaker_references: list[str] = Field(default=[], max_length=4)


KNOWN = frozenset(TranscriptionForm.model_fields)


@dataclass(frozen=True)
class Asked:
    """A form that was understood."""

    file: BinaryIO
    model: str
    language: str | None
    prompt: str | None
    response_format: ResponseFormat
    stream: bool = False
    logprobs: bool = False
    warnings: tuple[str, ...] = field(default=())


def read_translation(form: FormData, *, strict: bool) -> Asked:
    """Check the form of a translation.

    Raises:
        ApiError: it is not one; names the field.
    """
    return _asked(TranslationForm, form, strict=strict)


def read_transcription(form: FormData, *, strict: bool) -> Asked:
    """Check the form of a transcription.

    Raises:
        ApiError: it is not one; names the field.
    """
    return _asked(TranscriptionForm, form, strict=strict)


def _asked(kind: type[TranslationForm], form: FormData, *, strict: bool) -> Asked:
    file, given = _fields(form)
    unknown = [name for name in given if name not in kind.model_fields]
    warnings = []
    if unknown:
        listed = ", ".join(repr(name[:40]) for name in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        warnings.append((unknown[0], f"Unknown fields, without effect here: {listed}{more}."))
    try:
        fields = kind(**{name: value for name, value in given.items() if name not in unknown})
    except ValidationError as error:
        raise _refusal(error) from error
    warnings += _disobeyed(fields)
    if strict and warnings:
        name, message = warnings[0]
        raise ApiError(400, "unknown_parameter" if name in unknown else "unsupported_parameter", message, name)
    said = tuple(message for _, message in warnings)
    if not isinstance(fields, TranscriptionForm):
        return Asked(file, fields.model, None, fields.prompt, fields.response_format, warnings=said)
    _check_together(fields)
    return Asked(
        file,
        fields.model,
        fields.language or (fields.languages[0] if len(fields.languages) == 1 else None),
        _prompt(fields),
        fields.response_format,
        stream=bool(fields.stream),
        logprobs="logprobs" in fields.include,
        warnings=said,
    )


def _fields(form: FormData) -> tuple[BinaryIO, dict[str, Any]]:
    """Gather arrays and objects from their three spellings: repeated, in brackets, and as JSON."""
    given: dict[str, Any] = {}
    files = [value.file for name, value in form.multi_items() if name == "file" and isinstance(value, UploadFile)]
    texts = [(name, value) for name, value in form.multi_items() if name != "file" or isinstance(value, str)]
    for written, value in texts:
        matched = NAME.fullmatch(written)
        name, key = (written, None) if matched is None else matched.group("name", "key")
        if isinstance(value, UploadFile):
            raise ApiError(400, "invalid_request", f"The field {name[:40]!r} is text, not a file.", name[:40])
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
        elif name in given:
            raise _repeated(name)
        elif name == "chunking_strategy" and value.lstrip().startswith("{"):
            given[name] = _object(value, name)
        elif value or name not in KNOWN:  # an empty text is how forms leave a field out
            given[name] = value
    if len(files) != 1 or "file" in given:
        message = "Send multipart/form-data with the audio as one file in the field 'file'."
        raise ApiError(400, "invalid_request", message, "file")
    return files[0], given


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


def _refusal(error: ValidationError) -> ApiError:
    errors = error.errors(include_url=False)
    name = str(errors[0]["loc"][0])
    # Of an object or one of several texts, the innermost error says most.
    first = max((one for one in errors if one["loc"][0] == name), key=lambda one: len(one["loc"]))
    if first["type"] == "missing":
        return ApiError(400, "missing_parameter", f"The field {name!r} is required.", name)
    message = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, "invalid_value", f"{name}: {message}.", name)


def _disobeyed(fields: TranslationForm) -> list[tuple[str, str]]:
    """Say which of the given fields have no effect here."""
    warnings = []
    if fields.temperature > 0:
        message = "temperature: this server does not sample; it takes the most probable words, as at 0."
        warnings.append(("temperature", message))
    if isinstance(fields, TranscriptionForm):
        if isinstance(fields.chunking_strategy, ServerVad):
            message = "chunking_strategy: audio is cut at its pauses, as with auto; the thresholds have no effect."
            warnings.append(("chunking_strategy", message))
        if len(fields.languages) > 1:
            message = "languages: only one can be obeyed; of several, none is: the language is detected."
            warnings.append(("languages", message))
        warnings += [
            (name, f"{name}: this server does not tell speakers apart; it has no effect.")
            for name in ("known_speaker_names", "known_speaker_references")
            if getattr(fields, name)
        ]
    return warnings


def _check_together(fields: TranscriptionForm) -> None:
    """Refuse fields that contradict each other, and what the answer would lack."""
    if fields.language and fields.languages:
        raise ApiError(400, "invalid_value", "Send either language or languages.", "languages")
    if "word" in fields.timestamp_granularities:
        message = "timestamp_granularities: this server has no times of words; ask for segment."
        raise ApiError(400, "unsupported_value", message, "timestamp_granularities")
    if fields.include and fields.response_format != "json":
        raise ApiError(400, "invalid_value", "include: logprobs come with response_format json only.", "include")
    if fields.stream and fields.response_format not in {"json", "text"}:
        message = f"stream: {fields.response_format} cannot be streamed; ask for json."
        raise ApiError(400, "unsupported_value", message, "stream")


def _prompt(fields: TranscriptionForm) -> str | None:
    """Return what the decoder is told was said before: keywords first, as the prompt's end counts most."""
    parts = [", ".join(fields.keywords), fields.prompt or ""]
    return " ".join(part for part in parts if part) or None
