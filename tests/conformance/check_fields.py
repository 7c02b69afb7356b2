"""The fields of a form: each in its spellings, obeyed, refused by its name, or said to be without effect."""

import json

from tests.conformance.sound import read_wav
from tests.conformance.suite import (
    Fields,
    Server,
    Skip,
    body_of,
    check,
    number,
    refused,
    said_without_effect,
    same_words,
    succeeded,
    word_error_rate,
    words,
)

SPEC = "openai-openapi: CreateTranscriptionRequest"
WIRE = "openai-python: _qs.py writes name[]"
VERBOSE = {"response_format": "verbose_json"}
BOTH = ["word", "segment"]


def _timed(server: Server, fields: Fields) -> dict:
    return body_of(server.post(fields=VERBOSE | dict(fields)))


def _check_words(server: Server, body: dict) -> None:
    assert body.get("words"), "no words"
    said = body["words"]
    assert all({"word", "start", "end"} <= set(one) for one in said), f"a word has {sorted(said[0])}"
    times = [number(time) for one in said for time in (one["start"], one["end"])]
    assert times == sorted(times), f"times are not in order: {times}"
    assert times[0] >= 0, f"the first word begins at {times[0]}"
    assert times[-1] <= read_wav(server.clip.content).seconds + 0.1, f"the last word ends at {times[-1]}"
    together = word_error_rate(body["text"], " ".join(one["word"].strip() for one in said))
    assert together <= 0.1, f"the words are not the text's: {[one['word'] for one in said]}"


@check("timestamps", f"{SPEC}.timestamp_granularities; speaches tests/openai_transcription_test.py")
def words_alone(server: Server) -> None:
    """timestamp_granularities[]=word gives words with start and end, in order, inside the file; and no segments."""
    body = _timed(server, {"timestamp_granularities[]": "word"})
    _check_words(server, body)
    assert not body.get("segments"), "segments, unasked"


@check("timestamps", f"{SPEC}.timestamp_granularities; LocalAI names the word `text`")
def words_and_segments(server: Server) -> None:
    """Both granularities give both, and each word lies in a segment."""
    body = _timed(server, {"timestamp_granularities[]": BOTH})
    _check_words(server, body)
    assert body.get("segments"), "no segments"
    spans = [(number(one["start"]), number(one["end"])) for one in body["segments"]]
    for word in body["words"]:
        assert any(begin - 0.1 <= word["start"] and word["end"] <= end + 0.1 for begin, end in spans), (
            f"{word} is outside"
        )


@check("timestamps", f"{SPEC}.timestamp_granularities: default segment")
def segments_are_the_default(server: Server) -> None:
    """segment, or nothing, gives segments and no words."""
    for fields in ({}, {"timestamp_granularities[]": "segment"}):
        body = _timed(server, fields)
        assert body.get("segments"), f"no segments with {fields}"
        assert not body.get("words"), f"words with {fields}"


@check("timestamps", f"{WIRE}; WhisperLive and WhisperLiveKit read the bare name only")
def granularities_are_spelt_three_ways(server: Server) -> None:
    """timestamp_granularities[] repeated, the bare name repeated, and a JSON array give the same words."""
    spellings = (
        {"timestamp_granularities[]": BOTH},
        {"timestamp_granularities": BOTH},
        {"timestamp_granularities": json.dumps(BOTH)},
    )
    bodies = [_timed(server, fields) for fields in spellings]
    for fields, body in zip(spellings, bodies, strict=True):
        assert body.get("words"), f"no words with {fields}"
        assert body.get("segments"), f"no segments with {fields}"
        assert [one["word"] for one in body["words"]] == [one["word"] for one in bodies[0]["words"]]


@check("timestamps", "speaches: an assert, so 500")
def unknown_granularity_is_refused(server: Server) -> None:
    """A granularity that there is not is a 400 that names the field."""
    fields = VERBOSE | {"timestamp_granularities[]": "phoneme"}
    refused(server.post(fields=fields), param="timestamp_granularities")


@check("timestamps", f"{SPEC}.timestamp_granularities: needs verbose_json")
def words_without_room_are_not_promised(server: Server) -> None:
    """Words asked for in a format that has no room for them are refused, or said to be left out."""
    response = server.post(fields={"response_format": "json", "timestamp_granularities[]": "word"})
    assert said_without_effect(response, "timestamp_granularities"), "nothing is said of the words that are not there"


@check("timestamps", "vLLM #32588: half a second of drift per 30 s")
def words_do_not_drift(server: Server) -> None:
    """Of 90 s of clips with pauses of 1.5 s, every clip has words at its own time, and no pause has any."""
    whole = server.stitched(90, pause=1.5)
    fields = VERBOSE | {"timestamp_granularities[]": "word"}
    said = body_of(server.post(whole.sound.wav(), fields))["words"]
    middles = [(number(one["start"]) + number(one["end"])) / 2 for one in said]
    stray = [one for one, at in zip(said, middles, strict=True) if not _near(at, whole.spans, 0.4)]
    assert len(stray) <= len(said) // 20, f"{len(stray)} of {len(said)} words lie in pauses, {stray[0]} first"
    mute = [span for span in whole.spans if not any(_near(at, [span], 0.4) for at in middles)]
    assert len(mute) <= 1, f"{len(mute)} of {len(whole.spans)} clips have no words, {mute[0]} first"


def _near(at: float, spans: list, margin: float) -> bool:
    return any(begin - margin <= at <= end + margin for begin, end in spans)


@check("timestamps", "speaches #575, faster-whisper #1396: cues of 30 s")
def subtitles_are_short(server: Server) -> None:
    """No subtitle of a file with pauses lasts longer than 15 s."""
    whole = server.stitched(40, pause=1.0)
    segments = body_of(server.post(whole.sound.wav(), VERBOSE))["segments"]
    assert len(segments) > 1, "one segment for 40 s"
    for segment in segments:
        lasts = number(segment["end"]) - number(segment["start"])
        assert lasts <= 15, f"a segment of {lasts:.1f} s: {segment['text'][:80]!r}"


@check("fields", f"{SPEC}.language; LocalAI's faster-whisper backend drops it")
def language_is_obeyed(server: Server) -> None:
    """The language that is given is the language of the answer, even when another is spoken."""
    body = _timed(server, {"language": server.clip.language})
    same_words(server.clip.text, body["text"])
    other = _timed(server, {"language": "de" if server.clip.language != "de" else "it"})
    allowed = {"german", "de", "italian", "it"} - {body["language"]}
    assert other["language"] in allowed, f"language {other['language']!r}"


@check("fields", f"{SPEC}.language")
def unknown_language_is_refused(server: Server) -> None:
    """A language that there is not is a 400 that names the field."""
    refused(server.post(fields={"language": "klingon"}), param="language")


@check("fields", f"{SPEC}.prompt; faster-whisper #1179 prints it; vLLM #55281")
def prompt_is_not_repeated(server: Server) -> None:
    """A prompt leaves the clip's words in place and does not appear in the text."""
    body = body_of(server.post(fields={"prompt": "Zygote, quixotic, Ljubljana."}))
    same_words(server.clip.text, body["text"])
    assert not set(words(body["text"])) & {"zygote", "quixotic", "ljubljana"}, f"the prompt is in {body['text']!r}"


@check("fields", f"{SPEC}.temperature; transformers serve ignores it")
def temperature_is_obeyed_or_said(server: Server) -> None:
    """temperature=0 is as none; 0.5 shows in the segments' temperature, or is said to have no effect."""
    assert words(_timed(server, {"temperature": "0"})["text"]) == words(_timed(server, {})["text"]), "0 is not as none"
    response = server.post(fields=VERBOSE | {"temperature": "0.5"})
    if not said_without_effect(response, "temperature"):
        used = [number(segment["temperature"]) for segment in body_of(response)["segments"]]
        assert used, "no segments"
        assert all(value >= 0.5 for value in used), f"temperatures {used} for 0.5"


@check("fields", f"{SPEC}.temperature: between 0 and 1")
def temperature_out_of_range_is_refused(server: Server) -> None:
    """A temperature below 0 or above 1, or no number, is a 400 that names the field."""
    for value in ("1.5", "-0.1", "warm", "nan"):
        refused(server.post(fields={"temperature": value}), param="temperature")


@check("fields", f"{SPEC}.include; WhisperLive accepts and ignores it")
def logprobs_are_the_tokens(server: Server) -> None:
    """include[]=logprobs gives tokens with log-probabilities, whose bytes, joined, are the text."""
    body = body_of(server.post(fields={"include[]": "logprobs"}))
    assert body.get("logprobs"), "no logprobs"
    for one in body["logprobs"]:
        assert {"token", "logprob", "bytes"} <= set(one), f"a token has {sorted(one)}"
        assert number(one["logprob"]) <= 0, f"{one}"
    joined = bytes(byte for one in body["logprobs"] for byte in one["bytes"]).decode("utf-8")
    assert joined.strip() == body["text"].strip(), f"the tokens are {joined!r}, the text is {body['text']!r}"


@check("fields", WIRE)
def include_is_spelt_three_ways(server: Server) -> None:
    """include[], include and a JSON array all give log-probabilities."""
    for fields in ({"include[]": "logprobs"}, {"include": "logprobs"}, {"include": '["logprobs"]'}):
        assert body_of(server.post(fields=fields)).get("logprobs"), f"no logprobs with {fields}"


@check("fields", f"{SPEC}.include: only with json")
def logprobs_without_room_are_refused(server: Server) -> None:
    """What cannot be included is a 400 that names include: an unknown item, or logprobs in a plain format."""
    refused(server.post(fields={"include[]": "feelings"}), param="include")
    refused(server.post(fields={"include[]": "logprobs", "response_format": "srt"}), param="include")


@check("fields", f"{SPEC}.chunking_strategy; openai-python: _qs.py writes name[key]")
def chunking_strategy_is_taken_or_said(server: Server) -> None:
    """`auto`, an object in brackets and an object in JSON are taken, or said to have no effect; the words stay."""
    spellings = (
        {"chunking_strategy": "auto"},
        {"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "0.5"},
        {"chunking_strategy": json.dumps({"type": "server_vad", "silence_duration_ms": 300})},
    )
    for fields in spellings:
        response = server.post(fields=fields)
        if response.status_code != 400 or not said_without_effect(response, "chunking_strategy"):
            same_words(server.clip.text, body_of(response)["text"])


@check("fields", f"{SPEC}.chunking_strategy")
def wrong_chunking_strategy_is_refused(server: Server) -> None:
    """A chunking_strategy that there is not, or with a threshold out of range, is a 400 that names the field."""
    refused(server.post(fields={"chunking_strategy": "sometimes"}), param="chunking_strategy")
    fields = {"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "7"}
    refused(server.post(fields=fields), param="chunking_strategy")


@check("fields", f"{SPEC}.keywords, of gpt-transcribe; {WIRE}")
def keywords_are_taken_or_said(server: Server) -> None:
    """All three spellings of keywords are taken, or said to have no effect; none appears that nobody said."""
    given = ["Ljubljana", "quixotic"]
    for fields in ({"keywords[]": given}, {"keywords": given}, {"keywords": json.dumps(given)}):
        response = server.post(fields=fields)
        if response.status_code != 400 or not said_without_effect(response, "keywords"):
            body = body_of(response)
            same_words(server.clip.text, body["text"])
            assert not set(words(body["text"])) & {"ljubljana", "quixotic"}, f"a keyword is in {body['text']!r}"


@check("fields", f"{SPEC}.keywords: one line each, no < or >")
def wrong_keywords_are_refused(server: Server) -> None:
    """A keyword of two lines, or with < or >, is a 400 that names keywords."""
    for word in ("two\nlines", "<b>"):
        refused(server.post(fields={"keywords[]": word}), param="keywords")


@check("fields", f"{SPEC}.languages, of gpt-transcribe; whisper-asr-webservice #304")
def languages_bound_the_answer(server: Server) -> None:
    """The answer's language is one of languages[], in all three spellings, or the field is said to have no effect."""
    for given in (["de", "nl"], [server.clip.language, "de"]):
        names = {"de": "german", "nl": "dutch", "it": "italian", "en": "english", "ru": "russian"}
        allowed = {*given, *(names.get(code, code) for code in given)}
        for fields in ({"languages[]": given}, {"languages": given}, {"languages": json.dumps(given)}):
            response = server.post(fields=VERBOSE | fields)
            if not said_without_effect(response, "languages"):
                language = body_of(response)["language"]
                assert language in allowed, f"{language!r} is none of {given}"


@check("fields", f"{SPEC}.languages")
def unknown_languages_are_refused(server: Server) -> None:
    """A language in languages[] that there is not is a 400 that names a language field, alone or among others."""
    for given in (["klingon"], [server.clip.language, "klingon"]):
        response = server.post(fields={"languages[]": given})
        try:
            refused(response, param="languages")
        except AssertionError:
            refused(response, param="language")


@check("fields", f"{SPEC}.known_speaker_names")
def speaker_names_are_obeyed_or_said(server: Server) -> None:
    """known_speaker_names[] with a format that has no speakers is refused, or said to have no effect."""
    response = server.post(fields={"known_speaker_names[]": ["agent", "customer"]})
    assert said_without_effect(response, "known_speaker_names"), "nothing is said of the speakers that are not there"


@check("fields", f"{SPEC}: additionalProperties false; peers ignore what they do not know")
def unknown_fields_are_not_ignored(server: Server) -> None:
    """A field that there is not is refused by its name, or warned of: a typing mistake must not be silent."""
    response = server.post(fields={"timestamp_granularity": "word"})
    assert said_without_effect(response, "timestamp_granularity"), "it is ignored in silence"


@check("fields", "OpenAI's clients leave None out; forms of browsers send empty texts")
def empty_fields_are_as_none(server: Server) -> None:
    """stream=false and an empty prompt and language are as if they were not there."""
    same_words(server.clip.text, body_of(server.post(fields={"stream": "false", "prompt": "", "language": ""}))["text"])


@check("fields", "RFC 7578; curl -F, OpenAI's Node client: other orders of the parts")
def order_of_fields_is_free(server: Server) -> None:
    """The file may come before or after the other parts of the form."""
    file = ("file", ("clip.wav", server.clip.content, "audio/wav"))
    model = ("model", (None, server.model))
    for parts in ([file, model], [model, file]):
        same_words(server.clip.text, body_of(server.http.post("audio/transcriptions", files=parts))["text"])


@check("fields", f"{SPEC}.prompt")
def long_prompts_do_no_harm(server: Server) -> None:
    """A prompt far beyond Whisper's 224 tokens is cut or refused by its name, never a 5xx."""
    response = server.post(fields={"prompt": "Buongiorno. " * 700})
    if response.status_code == 400:
        refused(response, param="prompt")
    elif response.status_code == 413:
        raise Skip("this server limits the form")
    else:
        assert words(body_of(succeeded(response))["text"]), "an empty text"
