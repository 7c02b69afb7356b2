"""The spellings and the rules of OpenAI's forms."""

import io
import json
import tracemalloc
from types import SimpleNamespace

import pytest
from starlette.datastructures import FormData, UploadFile

from service.errors import ApiError
from service.openai_form import (
    MAX_FILES,
    TranscribeForm,
    options_of,
    read_detect,
    read_transcribe,
    read_transcription,
    read_translation,
)
from service.settings import Settings
from speech.engine import MAX_PROMPT_TOKENS
from speech.transcribe import Options


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


@pytest.fixture
def model(tokenizer):
    """Return as much of a model as its options are made from."""
    engine = SimpleNamespace(tokenizer=tokenizer)
    return SimpleNamespace(scheduler=SimpleNamespace(engine=engine), language_code=tokenizer.language_code)


@pytest.fixture
def options(model):
    """Return the function that tells what the engine is asked for."""
    return lambda asked, task="transcribe": options_of(asked, model, Settings(), task=task)[1]


@pytest.fixture
def spelled(tokenizer):
    """Return the function that spells tokens, with their blanks."""
    return lambda tokens: b"".join(map(tokenizer.token_bytes, tokens)).decode()


def native(*fields, files=1, strict=False):
    """Read the form of POST /transcribe."""
    uploads = [("file", UploadFile(io.BytesIO(b"audio"), filename=f"{i}.wav")) for i in range(files)]
    return read_transcribe(FormData([*uploads, *fields]), strict=strict)


def test_a_file_and_a_model_are_enough():
    """Everything else has OpenAI's default."""
    asked = read()
    (file,) = asked.files
    assert (file.content.read(), file.name) == (b"audio", "a.wav")
    assert (asked.form.model, asked.response_format, asked.stream, asked.logprobs) == (
        "whisper-1",
        "json",
        False,
        False,
    )
    assert (asked.form.language, asked.form.prompt, asked.form.temperature, asked.warnings) == (None, None, 0.0, ())
    assert asked.granularities == ["segment"]


@pytest.mark.parametrize(
    "fields", [[("include[]", "logprobs")], [("include", "logprobs")], [("include", '["logprobs"]')]]
)
def test_arrays_have_three_spellings(fields):
    """In brackets as the Python client writes them, by the bare name, and as JSON."""
    assert read(*fields).logprobs


def test_an_array_has_several_items():
    """Repeated fields are its items, in their order."""
    assert read(("keywords[]", "Asterisk"), ("keywords[]", "Voicemail")).form.keywords == ["Asterisk", "Voicemail"]


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


def test_keywords_stand_before_the_prompt(options, spelled):
    """The end of the prompt counts most for the decoder."""
    asked = read(("keywords[]", "Asterisk"), ("keywords[]", "Voicemail"), ("prompt", "Buongiorno."))
    assert spelled(options(asked).prompt) == "Asterisk, Voicemail Buongiorno."


@pytest.mark.parametrize("fields", [[("language", "it")], [("languages[]", "it")], [("languages", '["it"]')]])
def test_one_language_is_the_language(options, fields):
    """By either field."""
    assert (options(read(*fields)).language, options(read(*fields)).languages) == ("it", ())


def test_empty_fields_are_left_out():
    """Forms send what was not filled in as an empty text."""
    asked = read(("language", ""), ("prompt", ""), ("temperature", ""))
    assert (asked.form.language, asked.form.prompt, asked.form.temperature, asked.warnings) == (None, None, 0.0, ())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("known_speaker_names[]", "Anna")], "known_speaker_names"),
        ([("chunking_strategy[type]", "server_vad")], "chunking_strategy"),
        ([("temprature", "0")], "temprature"),
        ([("timestamp_granularities[]", "segment")], "timestamp_granularities"),
        ([("timestamp_granularities[]", "segment"), ("response_format", "text")], "timestamp_granularities"),
    ],
)
def test_what_has_no_effect_is_said_or_refused(fields, param):
    """A warning names the field; in strict mode the request is refused, and names it, too."""
    (warning,) = read(*fields).warnings
    assert param in warning
    assert refused(*fields, strict=True)[1] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("beam_size", "5"), ("temperature", "0.5")], "beam_size"),
        ([("guard", "redecode"), ("temperature", "0.5")], "guard"),
        ([("max_chars_per_line", "36")], "max_chars_per_line"),
        ([("max_lines", "1"), ("response_format", "tsv")], "max_lines"),
        ([("max_chars_per_second", "12"), ("response_format", "text")], "max_chars_per_second"),
        ([("max_duration", "5"), ("response_format", "verbose_json")], "max_duration"),
        ([("timestamp_granularities[]", "segment"), ("response_format", "text")], "timestamp_granularities"),
    ],
)
def test_what_has_no_effect_on_a_native_answer_is_said_or_refused(fields, param):
    """A field that another one makes void names itself."""
    (warning,) = native(*fields).warnings
    assert warning.startswith(f"{param}: ")
    with pytest.raises(ApiError) as raised:
        native(*fields, strict=True)
    assert (raised.value.code, raised.value.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    "fields",
    [
        [("beam_size", "5")],
        [("guard", "drop"), ("temperature", "0.5")],
        [("max_chars_per_line", "36"), ("response_format", "srt")],
        [("max_duration", "5"), ("response_format", "vtt")],
        [("timestamp_granularities[]", "segment")],
        [("timestamp_granularities[]", "word"), ("response_format", "text"), ("stream", "true")],
        [("timestamp_granularities[]", "segment"), ("response_format", "srt")],
    ],
)
def test_what_has_an_effect_is_not_warned_of(fields):
    """In strict mode neither."""
    assert native(*fields, strict=True).warnings == ()


@pytest.mark.parametrize("name", ["stream", "chunking_strategy"])
def test_null_is_a_text_in_forms(name):
    """OpenAI's Node client refuses null, and says to send that text; nothing was asked for."""
    asked = read((name, "null"), strict=True)
    assert (asked.stream, asked.form.chunking_strategy, asked.warnings) == (False, None, ())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([("keywords[]", "a\u2028b")], "keywords: a keyword is one line, without < and >."),
        ([("chunking_strategy", "never")], "chunking_strategy: send auto, or an object whose type is server_vad."),
        ([("chunking_strategy[threshold]", "0.5")], "chunking_strategy: it lacks 'type'."),
    ],
)
def test_refusals_say_what_to_send(fields, message):
    """Rather than which pattern did not match, or that a field is missing that is there."""
    with pytest.raises(ApiError) as raised:
        read(*fields)
    assert raised.value.message == message


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
        ([("timestamp_granularities[]", "word")], "invalid_value", "timestamp_granularities"),
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
    assert read(("keywords", keyword)).form.keywords == [keyword]


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
    assert (asked.stream, asked.logprobs, asked.granularities) == (False, False, ["segment"])
    assert "language" in asked.warnings[0]


def test_a_translation_asks_for_one(options):
    """With its prompt and temperature."""
    asked = read_translation(form(("prompt", "Hello."), ("temperature", "0.4")), strict=False)
    found = options(asked, "translate")
    assert (found.task, found.temperature, found.language) == ("translate", 0.4, None)
    assert found.prompt


def test_several_languages_are_to_choose_from(options):
    """In the model's own codes, each once."""
    found = options(read(("languages[]", "it-IT"), ("languages[]", "RU"), ("languages[]", "it")))
    assert (found.language, found.languages) == (None, ("it", "ru"))


def test_an_unknown_language_is_named(options):
    """In the field that it was in, also among several."""
    for name in ("languages", "language"):
        with pytest.raises(ApiError, match="klingon") as raised:
            options(read(*[("languages[]", "it")] * (name == "languages"), (name, "klingon")))
        assert (raised.value.status, raised.value.code, raised.value.param) == (400, "unknown_language", name)


@pytest.mark.parametrize(
    ("response_format", "timed"),
    [("json", False), ("text", False), ("srt", True), ("vtt", True), ("verbose_json", True), ("tsv", True)],
)
def test_words_are_timed_where_times_are_told(options, response_format, timed):
    """Alignment costs: a plain text does without, subtitles are cut at sentences."""
    if response_format != "tsv":
        assert options(read(("response_format", response_format))).word_timestamps is timed
    assert options(native(("response_format", response_format))).word_timestamps is timed


def test_a_prompt_that_is_too_long_keeps_its_end(model):
    """Which is said, or refused in strict mode."""
    asked = read(("prompt", "a" * 1000 + "b"))
    told, found = options_of(asked, model, Settings(), task="transcribe")
    assert len(found.prompt) == MAX_PROMPT_TOKENS
    assert found.prompt[-1] == model.scheduler.engine.tokenizer.encode("b")[-1]
    assert "prompt" in told.warnings[0]
    with pytest.raises(ApiError) as raised:
        options_of(asked, model, Settings(strict=True), task="transcribe")
    assert raised.value.param == "prompt"


def test_a_detector_that_is_switched_off_for_all_is_said(model):
    """To who asks for it, and to nobody else; or refused in strict mode."""
    for fields, n_warnings in (([("vad", "true")], 1), ([("vad", "false")], 0), ([], 0)):
        told, _ = options_of(native(*fields), model, Settings(vad=False), task="transcribe")
        assert len(told.warnings) == n_warnings
        assert options_of(native(*fields), model, Settings(vad=True), task="transcribe")[0].warnings == ()
    with pytest.raises(ApiError) as raised:
        options_of(native(("vad", "true")), model, Settings(vad=False, strict=True), task="transcribe")
    assert (raised.value.code, raised.value.param) == ("unsupported_value", "vad")


def test_a_native_form_needs_its_file_only(options):
    """Everything else has the default of the functions behind it."""
    assert options(native()) == Options()


def test_a_native_form_has_all_of_openais_fields_and_more(options):
    """Each reaches the engine."""
    asked = native(
        *(("language", "it"), ("task", "translate"), ("beam_size", "5"), ("temperature", "0.2"), ("vad", "false")),
        *(("guard", "drop"), ("condition_on_previous_text", "true"), ("include", "logprobs")),
        ("timestamp_granularities", "word"),
    )
    assert options(asked) == Options(
        language="it",
        task="translate",
        beam_size=5,
        temperature=0.2,
        vad=False,
        guard="drop",
        condition_on_previous_text=True,
        token_logprobs=True,
        word_timestamps=True,
    )
    assert asked.granularities == ["word"]


WRONG = {
    "max_chars_per_line": ["9", "wide"],
    "max_lines": ["0", "1.5"],
    "max_chars_per_second": ["4", "nan"],
    "max_duration": ["0", "31"],
    "model": ["x" * 201],
    "prompt": ["x" * 10_001],
    "response_format": ["xml", "diarized_json"],
    "temperature": ["-0.1", "1.1", "nan", "inf", "warm"],
    "language": ["x" * 51],
    "languages": ["[1]", "x" * 51],
    "keywords": ["<b>", "x" * 201, '[""]'],
    "include": ["tokens"],
    "timestamp_granularities": ["letter"],
    "stream": ["maybe"],
    "chunking_strategy": ["never", '{"type": "server_vad", "threshold": 2}', '{"type": "server_vad", "x": 1}'],
    "known_speaker_names": ['["a", "b", "c", "d", "e"]', "[1]"],
    "known_speaker_references": ['["a", "b", "c", "d", "e"]', "[null]"],
    "task": ["summarise"],
    "beam_size": ["0", "11", "1.5", "many"],
    "vad": ["maybe"],
    "guard": ["dog"],
    "condition_on_previous_text": ["perhaps"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_every_field_names_itself(name, value):
    """Whatever is wrong with its value, in the message and for programs."""
    assert WRONG.keys() == TranscribeForm.model_fields.keys()
    with pytest.raises(ApiError) as raised:
        native((name, value))
    assert (raised.value.status, raised.value.code, raised.value.param) == (400, "invalid_value", name)
    assert name in raised.value.message
    assert len(raised.value.message) < 300


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("language", "it"), ("languages", "ru")], "languages"),
        ([("stream", "true"), ("response_format", "tsv")], "stream"),
        ([("include", "logprobs"), ("response_format", "tsv")], "include"),
        ([("timestamp_granularities[]", "")], "timestamp_granularities"),
        ([("timestamp_granularities[]", "word"), ("response_format", "text")], "timestamp_granularities"),
        ([("timestamp_granularities[]", "word"), ("response_format", "srt")], "timestamp_granularities"),
    ],
)
def test_native_fields_may_contradict_each_other(fields, param):
    """Then one of them is refused by name."""
    with pytest.raises(ApiError) as raised:
        native(*fields)
    assert raised.value.param == param


@pytest.mark.parametrize("fields", [[("stream", "true")], [("response_format", "srt")], [("response_format", "text")]])
def test_several_files_are_answered_in_one_json(fields):
    """Nothing else has room for them; and there is a limit."""
    assert [file.name for file in native(files=2).files] == ["0.wav", "1.wav"]
    with pytest.raises(ApiError, match="several files") as raised:
        native(*fields, files=2)
    assert raised.value.param == "file"
    with pytest.raises(ApiError, match=f"more than {MAX_FILES}"):
        native(files=MAX_FILES + 1)


def test_a_native_form_has_no_field_that_nobody_knows():
    """A misspelt field is refused at once, and the message lists those that there are."""
    with pytest.raises(ApiError, match="beam_size") as raised:
        native(("beamsize", "5"))
    assert (raised.value.code, raised.value.param) == ("unknown_parameter", "beamsize")


def detect(*fields):
    """Read the form of POST /detect-language."""
    return read_detect(FormData([("file", UploadFile(io.BytesIO(b"audio"), filename="a.wav")), *fields]))


def test_a_detection_has_few_fields(options):
    """Languages to choose from, and whether to look for speech."""
    asked = detect(("languages[]", "it"), ("languages[]", "en"), ("vad", "false"))
    assert options(asked) == Options(languages=("it", "en"), vad=False)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ([("language", "it")], "unknown_parameter", "language"),
        ([("vad", "maybe")], "invalid_value", "vad"),
        ([("languages", "[1]")], "invalid_value", "languages"),
        ([("model", "x" * 201)], "invalid_value", "model"),
    ],
)
def test_a_detections_fields_name_themselves(fields, code, param):
    """As those of the other forms."""
    with pytest.raises(ApiError) as raised:
        detect(*fields)
    assert (raised.value.code, raised.value.param) == (code, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("include", json.dumps([0] * 500_000))], "include"),
        ([("include", json.dumps([0] * 900))] * 2, "include"),
        ([("timestamp_granularities[]", "[" + "1," * 400_000 + "1]")], "timestamp_granularities"),
        ([("keywords", json.dumps([{}] * 500_000))], "keywords"),
        ([("chunking_strategy", json.dumps({str(i): 1 for i in range(100_000)}))], "chunking_strategy"),
    ],
)
def test_what_is_endless_costs_nothing(fields, param):
    """A megabyte of wrong items is refused for their number: looking at each would take a gigabyte."""
    tracemalloc.start()
    try:
        with pytest.raises(ApiError, match=r"there are more than 1,000 items"):
            read(*fields)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 80 * sum(len(value) for _, value in fields)
    assert refused(*fields) == ("invalid_value", param)


@pytest.mark.parametrize("name", ["include", "timestamp_granularities"])
def test_a_choice_of_few_is_not_a_hundred(name):
    """Who repeats one of two words a hundred times is told how many there may be."""
    with pytest.raises(ApiError, match="at most 10 items"):
        read(*[(f"{name}[]", "no such word")] * 100)
