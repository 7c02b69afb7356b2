"""What the service answers, as JSON."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from speech.guard import Flag


class Word(BaseModel):
    """A word and its time."""

    word: str
    start: float = Field(description="Seconds from the beginning of the audio.")
    end: float = Field(description="Seconds from the beginning of the audio.")
    probability: float = Field(description="How probable the model thinks it.")


class TokenLogprob(BaseModel):
    """A token and how probable it was."""

    token: str
    logprob: float = Field(description="Natural logarithm.")
    bytes: list[int] = Field(description="UTF-8: several tokens may share a letter.")


class Segment(BaseModel):
    """A stretch of the transcript, in openai/whisper's names: a window, or a sentence where times were asked for."""

    id: int
    start: float = Field(description="Seconds from the beginning of the audio.")
    end: float = Field(description="Seconds from the beginning of the audio.")
    text: str
    seek: int = Field(description="Where its window begins, in hundredths of a second.")
    tokens: list[int] = Field(description="Of its text, in the model's own numbers.")
    avg_logprob: float = Field(description="Mean natural log-probability of its window's tokens.")
    no_speech_prob: float = Field(description="How probable it is that nobody speaks in its window.")
    compression_ratio: float = Field(description="Of its window's text; above 2.4, it is likely a loop.")
    temperature: float = Field(description="At which its window was decoded; 0: greedily.")
    flags: list[Flag] = Field(
        description="Why the text may be wrong: it repeats itself, the model does not believe it, nobody speaks so "
        "fast, or nobody speaks there."
    )
    words: list[Word] | None = Field(description="Null unless timestamp_granularities has word.")
    logprobs: list[TokenLogprob] | None = Field(description="Null unless include has logprobs.")


class Timings(BaseModel):
    """Where the time went, in seconds; reading and decoding overlap."""

    upload: float = Field(description="Reading the form.")
    total: float = Field(description="From the form to the answer, waiting for others included.")


class Partial(BaseModel):
    """Why the rest of the file is missing from the answer."""

    code: str = Field(description="truncated_audio, damaged_audio or undecodable_audio.")
    message: str
    decoded_seconds: float = Field(description="How much of the audio was transcribed.")


class Transcription(BaseModel):
    """What was said in one file; an empty text where nothing was."""

    text: str
    language: str | None = Field(description="Null where nothing was said and no language was given.")
    language_probabilities: dict[str, float] | None = Field(
        description="The likeliest languages by the first windows with speech; null where the language was given."
    )
    duration: float = Field(description="Seconds of audio.")
    no_speech: bool = Field(description="Nobody speaks: the text is empty, and that is no error.")
    segments: list[Segment]
    dropped: list[Segment] = Field(description="Doubtful segments that were left out of the text: guard=drop.")
    partial: Partial | None = Field(description="Null unless the file is cut off or damaged.")
    model: str = Field(description="The version that answered: name@id.")
    warnings: list[str] = Field(description="Fields that had no effect, and why.")
    timings: Timings


class FileResult(BaseModel):
    """What came of one of several files."""

    file: str = Field(description="Its name, as it was sent.")
    transcription: Transcription | None
    error: "ErrorDetail | None"


class Transcriptions(BaseModel):
    """What came of several files, in their order; one that fails does not harm the others."""

    results: list[FileResult]


class LanguageDetection(BaseModel):
    """Which language is spoken."""

    language: str | None = Field(description="A code; null where nobody speaks.")
    name: str | None = Field(description="In English.")
    probability: float | None
    probabilities: dict[str, float] = Field(description="The likeliest first.")
    no_speech: bool
    model: str = Field(description="The version that answered: name@id.")


class Context(BaseModel):
    """How much of the encoder a window pays for."""

    elastic: bool = Field(description="False: 30 s for every window. True: its own length and the margin.")
    margin: int = Field(description="Encoder positions, of 20 ms each.")


class Version(BaseModel):
    """The model version that is being served."""

    name: str
    version: str = Field(description="The version's id.")
    ref: str = Field(description="name@id: how to name this version anywhere.")
    manifest_sha256: str = Field(description="Of the version's manifest, and with it of all of its files.")
    base: str | None = Field(description="The version or model that it is compared with.")
    parent: str | None = Field(description="The version that its training started from.")
    engine: str = Field(description="What computes, and where.")
    context: Context
    loaded_at: datetime


class Beside(BaseModel):
    """A version that is loaded beside the model."""

    place: str = Field(description="The reference that it is loaded for: name@alias or name@id.")
    role: Literal["canary", "also", "shadow"] = Field(
        description="canary: answers a share of requests; also: who asks for it; shadow: nobody, it hears copies."
    )
    model: Version


class Refused(BaseModel):
    """A version that is named and not served; who answered before goes on."""

    place: str = Field(description="The reference that names it.")
    ref: str = Field(description="The version.")
    reason: str
    when: datetime


class Disagreement(BaseModel):
    """How far the shadow's words are from those that were answered."""

    ref: str = Field(description="The shadow's version.")
    requests: int
    edits: int = Field(description="Words to insert, delete or replace.")
    words: int = Field(description="Of the longer transcript of each request.")
    rate: float = Field(description="Edits a word, from 0 to 1.")


class About(BaseModel):
    """Which software and which models answer here."""

    whisperloop: str = Field(description="The package's version.")
    model: Version | None = Field(description="Null until a model is loaded.")
    beside: list[Beside] = Field(description="What else is loaded.")
    refused: list[Refused]
    shadow: Disagreement | None = Field(description="Null until a copy was compared.")


class Health(BaseModel):
    """How the service is."""

    status: Literal["live", "ready"]


TYPICAL_S = 10.0
"""The clip whose wait is told: what somebody says in one go."""


class Lane(BaseModel):
    """What waits for the engine, of one urgency."""

    requests: int
    windows: int = Field(description="Cut, and ready to be decoded.")
    audio_s: float = Field(description="Seconds of audio that are not decoded yet.")
    expected_wait_s: float | None = Field(
        description=f"When a clip of {TYPICAL_S:.0f} s would be done that came now; null until something was measured."
    )


class Queue(BaseModel):
    """How busy the service is."""

    speed: float | None = Field(
        description="Seconds of audio decoded in a second, by the last batches: the inverse of the real-time factor."
    )
    lanes: dict[str, Lane] = Field(description="interactive and batch.")


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="For people: what is wrong, and what to do.")
    type: Literal["invalid_request_error", "server_error"]
    param: str | None = Field(description="The form field or header that is to blame, if one is.")
    code: str = Field(description="For programs; never changes.")
    request_id: str = Field(description="As in the X-Request-ID header and the service's log.")


class Error(BaseModel):
    """The one form of every answer that is not a success."""

    error: ErrorDetail
