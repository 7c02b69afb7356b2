"""The spellings and the rules of OpenAI's forms."""

import io

import pytest
from starlette.datastructures import FormData, UploadFile

from service.errors import ApiError
from service.openai_form import read_transcription, read_translation


def form(*fields, file=True):
    """Make a form of (name, value) pairs, with a file and a model."""
    upload = [("file", UploadFile(io.BytesIO(b"audio"), filename="a.wav"))] if file else []
    return FormData([*upload, ("model", "whisper-1"), *fields])


def read(*fields, strict=False, file=True):
    """Read a transcription's form."""
    return read_transcription(form(*fields, file=file), strict=strict)


def refused(*fields, strict=False, file=True):
    """Return code and param of the refusal."""
    with pytest.raises(ApiError) as raised:
        read(*fields, strict=strict, file=file)
    assert raised.value.status == 400
    return raised.value.code, raised.value.param


def test_a_file_and_a_model_are_enough():
    """Everything else has OpenAI's default."""
    asked = read()
    assert asked.file.read() == b"audio"
    assert (asked.model, asked.response_format, asked.stream, asked.logprobs) == ("whisper-1", "json", False, False)
    assert (asked.language, asked.prompt, asked.warnings) == (None, None, ())


@pytest.mark.parametrize(
    "fields", [[("include[]", "logprobs")], [("include", "logprobs")], [("include", '["logprobs"]')]]
)
def test_arrays_have_three_spellings(fields):
    """In brackets as the Python client writes them, by the bare name, and as JSON."""
    assert read(*fields).logprobs


def test_an_array_has_several_items():
    """Repeated fields are its items, in their order."""
    assert read(("keywords[]", "Asterisk"), ("keywords[]", "Voicemail")).prompt == "Asterisk, Voicemail"


@pytest.mark.parametrize(
    "fields",
    [
        [("chunking_strategy[type]", "server_vad"), ("chunking_strategy[threshold]", "0.4")],
        [("chunking_strategy", '{"type": "server_vad", "threshold": 0.4}')],
    ],
)
def test_objects_have_two_spellings(fields):
    """A field a key, and as JSON; that its thresholds have no effect is said."""
    (warning,) = read(*fields).warnings
    assert "thresholds" in warning


def test_auto_chunking_is_what_happens_anyway():
    """Nothing to warn of: audio is always cut at its pauses."""
    assert read(("chunking_strategy", "auto")).warnings == ()


def test_keywords_stand_before_the_prompt():
    """The end of the prompt counts most for the decoder."""
    assert read(("keywords[]", "Asterisk"), ("prompt", "Buongiorno.")).prompt == "Asterisk Buongiorno."


@pytest.mark.parametrize("fields", [[("language", "it")], [("languages[]", "it")], [("languages", '["it"]')]])
def test_one_language_is_the_language(fields):
    """By either field."""
    assert read(*fields).language == "it"


def test_empty_fields_are_left_out():
    """Forms send what was not filled in as an empty text."""
    asked = read(("language", ""), ("prompt", ""), ("temperature", ""))
    assert (asked.language, asked.prompt, asked.warnings) == (None, None, ())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("temperature", "0.4")], "temperature"),
        ([("languages[]", "it"), ("languages[]", "ru")], "languages"),
        ([("known_speaker_names[]", "Anna")], "known_speaker_names"),
        ([("chunking_strategy[type]", "server_vad")], "chunking_strategy"),
        ([("temprature", "0")], "temprature"),
    ],
)
def test_what_has_no_effect_is_said_or_refused(fields, param):
    """A warning names the field; in strict mode the request is refused, and names it, too."""
    (warning,) = read(*fields).warnings
    assert param in warning
    assert refused(*fields, strict=True)[1] == param


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ([("temperature", "1.5")], "invalid_value", "temperature"),
        ([("temperature", "warm")], "invalid_value", "temperature"),
        ([("temperature", "nan")], "invalid_value", "temperature"),
        ([("response_format", "xml")], "invalid_value", "response_format"),
        ([("response_format", "diarized_json")], "invalid_value", "response_format"),
        ([("include[]", "tokens")], "invalid_value", "include"),
        ([("include[]", "logprobs"), ("response_format", "text")], "invalid_value", "include"),
        ([("timestamp_granularities[]", "word")], "unsupported_value", "timestamp_granularities"),
        ([("stream", "true"), ("response_format", "srt")], "unsupported_value", "stream"),
        ([("stream", "maybe")], "invalid_value", "stream"),
        ([("language", "it"), ("languages[]", "ru")], "invalid_value", "languages"),
        ([("keywords[]", "<b>")], "invalid_value", "keywords"),
        ([("keywords[]", "a\nb")], "invalid_value", "keywords"),
        ([("chunking_strategy", "{")], "invalid_request", "chunking_strategy"),
        ([("chunking_strategy", '{"a":' * 9_000)], "invalid_request", "chunking_strategy"),
        ([("include", "[" * 60_000)], "invalid_value", "include"),
        ([("chunking_strategy", '{"type": "\\ud800"}')], "invalid_request", "chunking_strategy"),
        ([("languages", "[{}]")], "invalid_value", "languages"),
        ([("chunking_strategy[type]", "client_vad")], "invalid_value", "chunking_strategy"),
        ([("prompt", "a"), ("prompt", "b")], "invalid_request", "prompt"),
        ([("prompt", "a"), ("prompt[x]", "b")], "invalid_request", "prompt"),
        ([("prompt[x]", "a"), ("prompt[]", "b")], "invalid_request", "prompt"),
        ([("model", "again")], "invalid_request", "model"),
        ([("include", "[")], "invalid_value", "include"),
    ],
)
def test_what_is_wrong_is_refused_by_name(fields, code, param):
    """Values out of range, contradictions, and what the answer would lack."""
    assert refused(*fields) == (code, param)


@pytest.mark.parametrize("keyword", ["[music]", '["\\ud800"]'])
def test_what_is_no_json_is_text(keyword):
    """A keyword may begin with a bracket, and half a surrogate pair is nothing that could be answered with."""
    assert read(("keywords", keyword)).prompt == keyword


def test_a_missing_file_and_a_missing_model_are_named():
    """Both are required."""
    assert refused(file=False) == ("invalid_request", "file")
    with pytest.raises(ApiError, match="required") as raised:
        read_transcription(FormData([("file", UploadFile(io.BytesIO()))]), strict=False)
    assert (raised.value.code, raised.value.param) == ("missing_parameter", "model")


def test_files_are_files_and_texts_are_texts():
    """One file, in the field of that name."""
    upload = UploadFile(io.BytesIO(b"x"), filename="x")
    assert refused(("file", upload)) == ("invalid_request", "file")
    assert refused(("prompt", upload)) == ("invalid_request", "prompt")
    assert refused(("file", "text"), file=False) == ("invalid_request", "file")


def test_a_translation_has_fewer_fields():
    """What belongs to transcriptions only is unknown there, and said."""
    asked = read_translation(form(("language", "it"), ("response_format", "srt")), strict=False)
    assert asked.response_format == "srt"
    assert asked.language is None
    assert "language" in asked.warnings[0]
