"""Sounds without words have an empty answer, in every format: no error, nothing invented, nothing of somebody else."""

from tests.conformance.sound import Sound, noise, silence, tone
from tests.conformance.suite import Server, body_of, check, plain_of, same_words, words

INVENTED = 2
"""Words that an answer may have where there is noise and nobody speaks."""


def _said(server: Server, sound: Sound) -> dict[str, str]:
    """Return the words of a sound, by format."""
    content = sound.wav()
    said = {"json": body_of(server.post(content))["text"]}
    verbose = body_of(server.post(content, {"response_format": "verbose_json"}))
    said["verbose_json"] = verbose["text"] + " ".join(one["text"] for one in verbose.get("segments") or [])
    assert abs(verbose["duration"] - sound.seconds) <= 1, f"duration {verbose['duration']} of {sound.seconds} s"
    said["text"] = plain_of(server.post(content, {"response_format": "text"}))
    srt = plain_of(server.post(content, {"response_format": "srt"}))
    said["srt"] = " ".join(line for line in srt.splitlines() if line and "-->" not in line and not line.isdecimal())
    vtt = plain_of(server.post(content, {"response_format": "vtt"}))
    assert vtt.startswith("WEBVTT"), f"vtt begins with {vtt[:30]!r}"
    said["vtt"] = " ".join(line for line in vtt.splitlines()[1:] if line and "-->" not in line)
    return said


def _check(server: Server, sound: Sound, allowed: int) -> None:
    for response_format, text in _said(server, sound).items():
        assert len(words(text)) <= allowed, f"{text[:100]!r} in {response_format}"


@check("silence", "speaches #608: 500 above 30 s; whisper.cpp #1724 invents words")
def long_silence_is_empty(server: Server) -> None:
    """31 s of silence is 200 with an empty text, in every format."""
    _check(server, silence(31), 0)


@check("silence", "OpenAI answers silence with an empty text (bbvch-ai/aihub-core PR #1840)")
def short_silence_is_empty(server: Server) -> None:
    """2 s of silence is 200 with an empty text, in every format."""
    _check(server, silence(2), 0)


@check("silence", "whisper.cpp #3595: the text of the request before")
def silence_has_no_memory(server: Server) -> None:
    """Silence after speech is empty: nothing of the request before is in it."""
    for _ in range(3):
        same_words(server.clip.text, body_of(server.post())["text"])
        said = body_of(server.post(silence(31).wav()))["text"]
        assert not words(said), f"{said!r} of silence"


@check("silence", "faster-whisper #621; suitenumerique/meet #930")
def noise_is_empty(server: Server) -> None:
    """10 s of white noise, loud or low, has two words at most, in every format; no 5xx."""
    _check(server, noise(10), INVENTED)
    _check(server, noise(10, amplitude=60), INVENTED)


@check("silence", "faster-whisper #621")
def tones_are_empty(server: Server) -> None:
    """10 s of a dial tone and of mains hum have two words at most, in every format."""
    _check(server, tone(10, 425), INVENTED)
    _check(server, tone(10, 50), INVENTED)


@check("silence", "whisper.cpp #1724: words after the last word")
def silence_after_speech_adds_nothing(server: Server) -> None:
    """A clip with 40 s of silence after it has the clip's words and no others."""
    whole = server.stitched(0.1, pause=0.5)
    quiet = silence(40, whole.sound.rate)
    longer = Sound(whole.sound.samples + quiet.samples, whole.sound.rate)
    same_words(whole.text, body_of(server.post(longer.wav()))["text"])
