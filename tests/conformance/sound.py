"""The sounds that the suite sends: speech that lies beside it, and silence, noise and tones that are made here.

Only the standard library: 16-bit mono WAV, put together from samples. Nothing here knows a server.
"""

import io
import math
import random
import wave
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

CLIPS = Path(__file__).with_name("clips")
CONTAINERS = ("flac", "mp3", "mp4", "mpeg", "mpga", "m4a", "ogg", "wav", "webm")
"""What OpenAI's API says that it takes, by the names that files have there."""

SAME_FORMAT = {"mp4": "m4a", "mpeg": "mp3", "mpga": "mp3"}
"""Names that differ while the bytes may be alike."""


@dataclass(frozen=True)
class Clip:
    """Speech, with what is said in it."""

    path: Path
    text: str
    language: str  # ISO 639-1

    @property
    def content(self) -> bytes:
        """The file."""
        return self.path.read_bytes()


SPEECH = (
    Clip(CLIPS / "it-agent-newlocation.wav", "Prego digitare un nuovo interno seguito da cancelletto", "it"),
    Clip(CLIPS / "it-vm-savefolder.wav", "In quale cartella devo salvare il messaggio?", "it"),
    Clip(CLIPS / "it-conf-leaderhasleft.wav", "Il moderatore ha lasciato la conferenza.", "it"),
    Clip(CLIPS / "it-conf-onlyone.wav", "Attualmente c'è un altro partecipante alla conferenza.", "it"),
    Clip(CLIPS / "it-vm-dialout.wav", "Prego attendere mentre connetto la sua chiamata.", "it"),
    Clip(CLIPS / "it-vm-reachoper.wav", "Premere 0 per parlare con un operatore.", "it"),
    Clip(CLIPS / "ru-check-number-dial-again.wav", "Пожалуйста, проверьте номер и наберите ещё раз.", "ru"),
    Clip(CLIPS / "ru-vm-nobodyavail.wav", "В данный момент никто не может принять Ваш звонок.", "ru"),
)
"""Prompts of a telephone exchange; clips/README.md says by whom. The first is also there in other containers."""


@dataclass(frozen=True)
class Sound:
    """Samples of 16 bits, mono."""

    samples: array  # of signed shorts
    rate: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate

    def wav(self) -> bytes:
        """Write a WAV file."""
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.rate)
            file.writeframes(self.samples.tobytes())
        return buffer.getvalue()


def read_wav(content: bytes) -> Sound:
    """Read a WAV file of 16-bit mono samples.

    Raises:
        ValueError: it is of another kind.
    """
    with wave.open(io.BytesIO(content)) as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, 2):
            raise ValueError("a WAV file of 16-bit mono samples is needed")
        return Sound(array("h", file.readframes(file.getnframes())), file.getframerate())


def silence(seconds: float, rate: int = 16_000) -> Sound:
    """Return zeros."""
    return Sound(array("h", bytes(2 * round(seconds * rate))), rate)


def noise(seconds: float, *, amplitude: int = 3000, seed: int = 1, rate: int = 16_000) -> Sound:
    """Return white noise, the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - a sound, not a secret
    return Sound(array("h", (draw.randint(-amplitude, amplitude) for _ in range(round(seconds * rate)))), rate)


def tone(seconds: float, hertz: float = 440.0, *, amplitude: int = 8000, rate: int = 16_000) -> Sound:
    """Return a sine."""
    step = 2 * math.pi * hertz / rate
    return Sound(array("h", (round(amplitude * math.sin(step * i)) for i in range(round(seconds * rate)))), rate)


@dataclass(frozen=True)
class Stitched:
    """Clips one after the other, and when each begins and ends, in seconds."""

    sound: Sound
    text: str
    spans: Sequence[tuple[float, float]]


def stitch(clips: Iterable[Clip], pause: float) -> Stitched:
    """Put clips of one sample rate together, with a pause after each."""
    read = [(clip, read_wav(clip.content)) for clip in clips]
    rate = read[0][1].rate
    samples, spans = array("h"), []
    for _, sound in read:
        begin = len(samples) / rate
        samples.extend(sound.samples)
        spans.append((begin, len(samples) / rate))
        samples.extend(silence(pause, rate).samples)
    return Stitched(Sound(samples, rate), " ".join(clip.text for clip, _ in read), spans)


def mutated(content: bytes, seed: int) -> bytes:
    """Return a damaged copy, the same for the same seed: bytes changed, cut out, doubled, or the end missing."""
    draw = random.Random(seed)  # noqa: S311 - damage, not a secret
    damaged = bytearray(content)
    for _ in range(draw.randint(1, 20)):
        # Half of the damage is done to the first bytes, where containers keep what they believe of the rest.
        at = draw.randrange(min(200, len(damaged)) if draw.random() < 0.5 else len(damaged))
        match draw.randrange(4):
            case 0:
                damaged[at] = draw.randrange(256)
            case 1:
                damaged[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"))
            case 2:
                del damaged[at : at + draw.randint(1, 50)]
            case 3:
                damaged[at:at] = damaged[at : at + draw.randint(1, 50)]
    return bytes(damaged[: draw.randrange(1, len(damaged))] if draw.random() < 0.2 else damaged)
