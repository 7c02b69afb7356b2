"""The forms of OpenAI's audio API and of POST /transcribe, which has all of its fields and more: read and checked.

A field that this server cannot obey is refused in strict mode, and else said in the answer's `warnings`. A field whose
lack would leave the answer without something that was asked for is refused always.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.datastructures import FormData

from service.errors import ApiError
from service.forms import File, gather, refusal
from service.settings import Settings
from service.state import Loaded
from service.upload import MAX_FILES
from speech import vad
from speech.engine import MAX_PROMPT_TOKENS
from speech.guard import Guard
from speech.subtitles import DEFAULT as LAYOUT
from speech.subtitles import Layout
from speech.tokens import Task, UnknownLanguageError
from speech.transcribe import Options, said_before

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt", "tsv"]
DIARIZED = "diarized_json"
SUBTITLE_FIELDS = ("max_chars_per_line", "max_lines", "max_chars_per_second", "max_duration")


def _one_line(keyword: str) -> str:
    if set("<>") & set(keyword) or len(keyword.splitlines()) > 1:
        raise ValueError("a keyword is one line, without < and >")
    return keyword


Keyword = Annotated[
    str, Field(min_length=1, max_length=200, description="One line, without < and >."), AfterValidator(_one_line)
]
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
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Unit = Field(
        default=0.0, description="0: the most probable words; less so only where they are doubtful."
    )

    @field_validator("response_format", mode="before")
    @classmethod
    def _no_speakers(cls, value: object) -> object:
        if value == DIARIZED:
            raise ValueError("this server does not tell speakers apart; ask for verbose_json")
        return value


class TranscriptionForm(TranslationForm):
    """POST /v1/audio/transcriptions, without its file."""

    language: Language | None = Field(default=None, description="A code (it, en-GB); without it, detected.")
    languages: list[Language] = Field(default=[], max_length=20, description="Detect one of these.")
    keywords: list[Keyword] = Field(default=[], max_length=200, description="Words whose spelling is imitated.")
    include: list[Literal["logprobs"]] = Field(default=[], max_length=10)
    timestamp_granularities: list[Literal["word", "segment"]] = Field(default=["segment"], max_length=10)
    stream: bool | None = False
    chunking_strategy: Literal["auto"] | ServerVad | None = None
    known_speaker_names: list[str] = Field(default=[], max_length=4)
    known_speaker_references: list[str] = Field(default=[], max_length=4)

    @field_validator("stream", "chunking_strategy", mode="before")
    @classmethod
    def _null(cls, value: object) -> object:
        """OpenAI's specification has null for these, and its Node client writes it as a text."""
        return None if value == "null" else value

    @field_validator("chunking_strategy", mode="before")
    @classmethod
    def _auto_or_object(cls, value: object) -> object:
        if isinstance(value, str) and value not in {"auto", "null"}:
            raise ValueError("send auto, or an object whose type is server_vad")
        return value


class TranscribeForm(TranscriptionForm):
    """POST /transcribe, without its files."""

    model: str = Field(default="", max_length=200, description="A name, alias or version; without it, what is served.")
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "tsv"] = "json"  # type: ignore[assignment]
    task: Task = "transcribe"
    beam_size: int = Field(default=1, ge=1, le=10, description="1: greedily.")
    vad: bool = Field(default=True, description="Leave out what is no speech by Silero's voice detector.")
    guard: Guard = Field(
        default="redecode",
        description="Of doubtful segments: decode again and mark what stays doubtful, only mark, drop, or keep.",
    )
    condition_on_previous_text: bool = Field(default=False, description="Tell each window what was said before it.")
    max_chars_per_line: int = Field(default=LAYOUT.max_chars_per_line, ge=10, le=200, description="Of subtitles.")
    max_lines: int = Field(default=LAYOUT.max_lines, ge=1, le=10, description="Of a subtitle.")
    max_chars_per_second: float = Field(
        default=LAYOUT.max_chars_per_second, ge=5, le=100, description="How fast subtitles are read."
    )
    max_duration: float = Field(
        default=LAYOUT.max_duration, ge=1, le=30, description="Seconds that a subtitle is shown at most."
    )


class DetectForm(BaseModel):
    """POST /detect-language, without its file."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(default="", max_length=200, description="A name, alias or version; without it, what is served.")
    languages: list[Language] = Field(default=[], max_length=20, description="Choose among these.")
    vad: bool = Field(default=True, description="Look for speech with Silero's voice detector.")


@dataclass(frozen=True)
class Asked:
    """A form that was understood."""

    files: list[File]
    form: TranscriptionForm | TranslationForm
    given: frozenset[str]  # fields that were there
    warnings: tuple[str, ...] = ()

    @property
    def response_format(self) -> ResponseFormat:
        """How to answer."""
        return self.form.response_format

    @property
    def stream(self) -> bool:
        """Whether to answer while transcribing."""
        return isinstance(self.form, TranscriptionForm) and bool(self.form.stream)

    @property
    def logprobs(self) -> bool:
        """Whether to tell each token's log-probability."""
        return isinstance(self.form, TranscriptionForm) and "logprobs" in self.form.include

    @property
    def layout(self) -> Layout:
        """How subtitles are laid out."""
        form = self.form
        if not isinstance(form, TranscribeForm):
            return LAYOUT
        return Layout(
            max_chars_per_line=form.max_chars_per_line,
            max_lines=form.max_lines,
            max_chars_per_second=form.max_chars_per_second,
            max_duration=form.max_duration,
        )

    @property
    def granularities(self) -> list[str]:
        """Of what to tell the times."""
        return list(self.form.timestamp_granularities) if isinstance(self.form, TranscriptionForm) else ["segment"]


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


def read_transcribe(form: FormData, *, strict: bool) -> Asked:
    """Check the form of POST /transcribe; unlike OpenAI's, it has no field that anybody else invented.

    Raises:
        ApiError: it is not one; names the field.
    """
    return _asked(TranscribeForm, form, strict=strict, max_files=MAX_FILES)


def read_detect(form: FormData) -> Asked:
    """Check the form of POST /detect-language.

    Raises:
        ApiError: it is not one; names the field.
    """
    files, given = gather(form, frozenset(DetectForm.model_fields))
    if unknown := [name for name in given if name not in DetectForm.model_fields]:
        raise _unknown(unknown, DetectForm)
    try:
        fields = DetectForm(**given)
    except ValidationError as error:
        raise refusal(error) from error
    inner = TranscribeForm(model=fields.model, languages=fields.languages, vad=fields.vad)
    return Asked(files, inner, frozenset(given))


def _asked(kind: type[TranslationForm], form: FormData, *, strict: bool, max_files: int = 1) -> Asked:
    files, given = gather(form, frozenset(kind.model_fields), max_files=max_files)
    unknown = [name for name in given if name not in kind.model_fields]
    warnings = []
    if unknown:
        if kind is TranscribeForm:
            raise _unknown(unknown, kind)
        warnings.append((unknown[0], f"Unknown fields, without effect here: {_listed(unknown)}."))
    try:
        fields = kind(**{name: value for name, value in given.items() if name not in unknown})
    except ValidationError as error:
        raise refusal(error) from error
    warnings += _disobeyed(fields, given)
    if strict and warnings:
        name, message = warnings[0]
        raise ApiError(400, "unknown_parameter" if name in unknown else "unsupported_parameter", message, name)
    if isinstance(fields, TranscriptionForm):
        _check_together(fields, given, len(files))
    return Asked(files, fields, frozenset(given), tuple(message for _, message in warnings))


def _unknown(names: list[str], form: type[BaseModel]) -> ApiError:
    message = f"Unknown form fields: {_listed(names)}; there are: file, {', '.join(form.model_fields)}."
    return ApiError(400, "unknown_parameter", message, names[0][:40])


def _listed(names: list[str]) -> str:
    """Return the first of the names, shortened: they may be as long and as many as a form."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(repr(name[:40]) for name in names[:5]) + more


def _disobeyed(fields: TranslationForm, given: dict[str, Any]) -> list[tuple[str, str]]:
    """Say which of the given fields have no effect here."""
    warnings = _disobeyed_beyond_openai(fields, given) if isinstance(fields, TranscribeForm) else []
    if isinstance(fields, TranscriptionForm):
        if isinstance(fields.chunking_strategy, ServerVad):
            message = "chunking_strategy: audio is cut at its pauses, as with auto; the thresholds have no effect."
            warnings.append(("chunking_strategy", message))
        if "timestamp_granularities" in given and {*fields.timestamp_granularities} == {"segment"} and _is_bare(fields):
            message = f"timestamp_granularities: {fields.response_format} has no times; ask for verbose_json."
            warnings.append(("timestamp_granularities", message))
        warnings += [
            (name, f"{name}: this server does not tell speakers apart; it has no effect.")
            for name in ("known_speaker_names", "known_speaker_references")
            if getattr(fields, name)
        ]
    return warnings


def _disobeyed_beyond_openai(fields: TranscribeForm, given: dict[str, Any]) -> list[tuple[str, str]]:
    warnings = []
    if fields.temperature > 0 and fields.beam_size > 1:
        warnings.append(("beam_size", "beam_size: what is sampled, at a temperature above 0, has no beams."))
    if fields.temperature > 0 and given.get("guard") == "redecode":
        message = "guard: what is sampled, at a temperature above 0, is marked, and not decoded again."
        warnings.append(("guard", message))
    if fields.response_format not in {"srt", "vtt"}:
        without = f"is of subtitles, srt and vtt; it has no effect on {fields.response_format}."
        warnings += [(name, f"{name}: it {without}") for name in SUBTITLE_FIELDS if name in given]
    return warnings


def _is_bare(fields: TranscriptionForm) -> bool:
    """Say whether the answer has room for nothing but the text."""
    if isinstance(fields, TranscribeForm):  # whose stream ends with the whole JSON
        return fields.response_format == "text" and not fields.stream
    return fields.response_format in {"json", "text"}


def _check_together(fields: TranscriptionForm, given: dict[str, Any], n_files: int) -> None:
    """Refuse fields that contradict each other, and what the answer would lack."""
    is_native = isinstance(fields, TranscribeForm)
    if fields.language and fields.languages:
        raise ApiError(400, "invalid_value", "Send either language or languages.", "languages")
    if not is_native and "word" in fields.timestamp_granularities and fields.response_format != "verbose_json":
        message = "timestamp_granularities: times of words come with response_format verbose_json only."
        raise ApiError(400, "invalid_value", message, "timestamp_granularities")
    if is_native and "word" in fields.timestamp_granularities and not (_is_json(fields) or fields.stream):
        message = f"timestamp_granularities: {fields.response_format} has no words of their own; ask for json."
        raise ApiError(400, "invalid_value", message, "timestamp_granularities")
    if fields.include and fields.response_format not in ({"json", "verbose_json"} if is_native else {"json"}):
        raise ApiError(400, "invalid_value", "include: logprobs come with response_format json only.", "include")
    if fields.stream and fields.response_format not in {"json", "text"}:
        message = f"stream: {fields.response_format} cannot be streamed; ask for json."
        raise ApiError(400, "unsupported_value", message, "stream")
    if n_files > 1 and (fields.stream or not _is_json(fields)):
        message = "file: several files are answered in one JSON; ask for response_format json, without stream."
        raise ApiError(400, "invalid_value", message, "file")
    if not fields.timestamp_granularities and "timestamp_granularities" in given:
        raise ApiError(
            400, "invalid_value", "timestamp_granularities: name word, segment or both.", "timestamp_granularities"
        )


def _is_json(fields: TranscriptionForm) -> bool:
    return fields.response_format in {"json", "verbose_json"}


def options_of(asked: Asked, model: Loaded, settings: Settings, *, task: Task) -> tuple[Asked, Options]:
    """Return what the engine is asked for, in the model's own codes; and what was asked, with warnings added.

    Raises:
        ApiError: the model has no such language; or, in strict mode, something asked for has no effect.
    """
    form = asked.form
    tokenizer = model.scheduler.engine.tokenizer
    prompt = _prompt(form)
    tokens = tuple(tokenizer.encode(prompt)) if prompt else ()
    if len(tokens) > MAX_PROMPT_TOKENS:
        message = f"prompt: only the last {MAX_PROMPT_TOKENS} tokens of keywords and prompt together have an effect."
        asked = _warned(asked, "prompt", message, strict=settings.strict)
    is_here = settings.vad and vad.is_available()
    if "vad" in asked.given and isinstance(form, TranscribeForm) and form.vad and not is_here:
        why = "not installed" if settings.vad else "switched off"
        message = f"vad: the voice detector is {why} here; only what is silent is left out."
        asked = _warned(asked, "vad", message, strict=settings.strict)
    timed = asked.response_format in {"srt", "vtt", "tsv", "verbose_json"} or (
        isinstance(form, TranscribeForm) and "timestamp_granularities" in asked.given
    )
    options = Options(
        task=task, prompt=tokens[-MAX_PROMPT_TOKENS:], temperature=form.temperature, word_timestamps=timed
    )
    if isinstance(form, TranscriptionForm):
        among = _codes(model, form.languages, "languages")
        (given,) = _codes(model, [form.language], "language") if form.language else among if len(among) == 1 else [None]
        options = replace(
            options,
            language=given,
            languages=() if given else tuple(among),
            token_logprobs=asked.logprobs,
        )
    if isinstance(form, TranscribeForm):
        options = replace(
            options,
            task=form.task,
            beam_size=form.beam_size,
            vad=form.vad,
            guard=form.guard,
            condition_on_previous_text=form.condition_on_previous_text,
        )
    return asked, options


def _warned(asked: Asked, param: str, message: str, *, strict: bool) -> Asked:
    if strict:
        raise ApiError(400, "unsupported_value", message, param)
    return replace(asked, warnings=(*asked.warnings, message))


def _codes(model: Loaded, languages: list[str], param: str) -> list[str]:
    """Return the model's codes of languages, each once."""
    try:
        return list(dict.fromkeys(map(model.language_code, languages)))
    except UnknownLanguageError as error:
        raise ApiError(400, "unknown_language", str(error), param) from error


def _prompt(form: TranslationForm) -> str:
    return said_before(form.keywords if isinstance(form, TranscriptionForm) else [], form.prompt)
