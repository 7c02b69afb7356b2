"""What the service answers, as JSON."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field


class Segment(BaseModel):
    """A stretch of the transcript, in openai/whisper's names."""

    id: int
    start: float = Field(description="Seconds from the beginning of the audio.")
    end: float = Field(description="Seconds from the beginning of the audio.")
    text: str
    avg_logprob: float = Field(description="Mean natural log-probability of the tokens.")
    no_speech_prob: float = Field(description="How probable it is that nobody speaks.")
    compression_ratio: float = Field(description="Above 2.4, the text is likely a loop.")


class Transcription(BaseModel):
    """What was said in one file; an empty text where nothing was."""

    text: str
    language: str | None = Field(description="Null where nothing was said and no language was given.")
    duration: float = Field(description="Seconds of audio.")
    segments: list[Segment]
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


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="For people: what is wrong, and what to do.")
    type: Literal["invalid_request_error", "server_error"]
    param: str | None = Field(description="The form field that is to blame, if one is.")
    code: str = Field(description="For programs; never changes.")
    request_id: str = Field(description="As in the X-Request-ID header and the service's log.")


class Error(BaseModel):
    """The one form of every answer that is not a success."""

    error: ErrorDetail
