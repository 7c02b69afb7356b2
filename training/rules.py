"""What the gate asks for: the least gain worth having, and how much may be lost elsewhere. Numbers alone."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Margin = Annotated[float, Field(gt=0)]


class Rules(BaseModel):
    """The gate's settings; docs/training/gate.md says how each is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_effect: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """The error rate must fall by this share of production's at least: 0.01 is from 10 % to 9.9 %."""
    other_speech: Margin = 0.02
    """So much may the error rate of a guard set (another language, general speech) rise: 0.02 is two words in 100."""
    long_form: Margin = 0.02
    """The same for recordings of about five minutes."""
    non_speech: Margin = 10.0
    """So many more letters a minute may be made up of silence, noise and tones, as served: with the voice detector."""
    non_speech_undetected: Margin = 60.0
    """The same without the voice detector, which `vad=false` switches off: a tenth of speech."""
    timestamps: Margin = 0.1
    """So many seconds farther from the truth may the times of words be, on average."""
    worst_decile: Margin = 0.1
    """So much may the error rate of the worst tenth of the utterances rise."""
