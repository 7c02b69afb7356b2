"""What fine-tuning breaks unnoticed: long recordings, silence, times, languages. Measured here, judged by the gate.

Everything goes through the code that serves. Long recordings are test clips in a row with pauses, so that it is known
when each begins and ends; silence, noise and tones are made here, from seeds.
"""

import itertools
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from speech.audio import SAMPLE_RATE
from speech.engine import DecodingOptions, DecodingResult, Engine, Window, Word
from speech.features import N_SAMPLES
from speech.scores import align, errors_by_part, units, words
from speech.tokens import N_TIMESTAMPS
from speech.transcribe import Options, transcribe
from training.data.manifest import Utterance, load_audio
from training.evaluate import Hypothesis, transcribe_utterances

Audio = NDArray[np.float32]

LONG_S = 300.0
"""A long recording lasts about so long."""

MAX_RECORDINGS = 12
"""Of a language: an hour. More clips make more recordings, so that what is not decided can be."""

MIN_LONG_S = 30.0
"""A shorter one is a single window, and says nothing about long recordings."""

PAUSES_S = (0.4, 1.6)
"""Between two clips of a long recording, drawn evenly: with and without the two seconds that end a window."""

FLOOR = 3e-4
"""Level of the noise between clips, -70 dBFS: a pause in a recording is not digital silence."""

EDGE = 0.01
"""Speech begins where 20 ms are louder than this share of the clip's loud parts: 40 dB below."""

MAX_EDGE_ERROR_S = 1.0
"""A time farther off than this is simply wrong; one lost word must not outweigh a hundred good ones."""

CLOCK_TOLERANCE_S = 0.05
"""A word may end so long after the recording does: times come in steps of 20 ms."""

DETECTION_CLIPS = 8
"""Test clips a language of which the language is detected, and timestamp tokens are asked for."""

SOUND_S = 10.0


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Record):
    """One clip inside a long recording."""

    id: str
    sentence: str
    errors: int
    reference: int  # words, or characters where the language writes no blanks
    start_error_s: float | None  # of its first word's time; None: that word was not heard
    end_error_s: float | None


class LongForm(_Record):
    """One long recording."""

    language: str
    seconds: float
    reference: str
    hypothesis: str
    parts: tuple[Part, ...]
    n_words: int  # that were given times
    disordered: int  # words that begin before the word before, or end before they begin
    outside: int  # words that begin before the recording or end after it
    took_s: float  # to transcribe, on this machine


class Sound(_Record):
    """Something that is no speech, and what was made of it."""

    name: str
    seconds: float
    served: str  # with the voice detector: what users get
    undetected: str  # without it: what the model itself makes of it


class Detection(_Record):
    """One clip whose language was not given."""

    id: str
    language: str  # that it is in
    detected: str
    timestamps: bool  # asked for timestamp tokens, the model gave some that rise and end within the clip


class Measured(_Record):
    """Everything that was measured of one version beside its test hypotheses."""

    engine: str
    measured_at: datetime
    long_form: tuple[LongForm, ...] = ()
    sounds: tuple[Sound, ...] = ()
    detections: tuple[Detection, ...] = ()
    guards: dict[str, tuple[Hypothesis, ...]] = {}  # of the sets that the user gave

    @property
    def speed(self) -> float | None:
        """Seconds of long recordings that are transcribed a second, with the times of words; a machine's figure."""
        took = sum(one.took_s for one in self.long_form)
        return sum(one.seconds for one in self.long_form) / took if took else None


def measure_beside(
    engine: Engine,
    test: Sequence[Utterance],
    guards: Mapping[str, Sequence[Utterance]],
    audio_root: Path,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Measure what the test clips one by one do not show.

    Args:
        engine: as served.
        test: of any number of languages.
        guards: other speech, by the names that verdicts will use.
        audio_root: what relative audio paths start from.
        seed: of the order of clips, of the pauses and of the sounds.
        advance: called with the number of steps just done, of `steps` in all.
    """
    long_form = []
    for language in sorted({u.language for u in test}):
        for recording in recordings([u for u in test if u.language == language], audio_root, seed):
            long_form.append(transcribe_long(engine, recording))
            advance(1)
    sounds = []
    for name, audio in make_sounds(seed).items():
        sounds.append(transcribe_sound(engine, name, audio, test[0].language if test else "en"))
        advance(1)
    detections = detect(engine, test, audio_root)
    advance(1)
    heard = {}
    for name, utterances in guards.items():
        heard[name] = tuple(transcribe_utterances(engine, utterances, audio_root))
        advance(1)
    return Measured(
        engine=engine.description,
        measured_at=datetime.now(UTC),
        long_form=tuple(long_form),
        sounds=tuple(sounds),
        detections=tuple(detections),
        guards=heard,
    )


def steps(test: Sequence[Utterance], guards: Mapping[str, Sequence[Utterance]]) -> int:
    """Return how many steps `measure_beside` takes at most."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for utterance in test:
        seconds[utterance.language] += utterance.audio.duration + PAUSES_S[1]
    long = sum(min(MAX_RECORDINGS, 1 + int(there / LONG_S)) for there in seconds.values())
    return long + len(make_sounds(0)) + 1 + len(guards)


class Recording:
    """Clips of one language in a row, and where in it they are."""

    def __init__(self, audio: Audio, clips: Sequence[Utterance], places: Sequence[tuple[float, float]]) -> None:
        self.audio = audio
        self.clips = list(clips)
        self.places = list(places)  # seconds: where each clip's speech begins and ends

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.audio.size / SAMPLE_RATE


def recordings(
    utterances: Sequence[Utterance], audio_root: Path, seed: int, seconds: float = LONG_S
) -> Iterator[Recording]:
    """Put clips in rows, in an order drawn by `seed`, each until it lasts `seconds`; at most `MAX_RECORDINGS`.

    Silence at a clip's ends is cut off first: where its speech begins and ends is then known to 20 ms. A row of fewer
    seconds is only made if there is no other and it reaches 30.
    """
    order = sorted(utterances, key=lambda u: u.id)
    random.Random(seed).shuffle(order)  # noqa: S311 - no secret
    left, generator = deque(order), np.random.default_rng(seed)
    for number in range(MAX_RECORDINGS):
        recording = _stitch(left, audio_root, generator, seconds)
        if recording.seconds < (seconds if number else min(seconds, MIN_LONG_S)):
            return
        yield recording


def _stitch(left: deque[Utterance], audio_root: Path, generator: np.random.Generator, seconds: float) -> Recording:
    """Take clips until they last so long, or all."""

    def pause() -> Audio:
        n = round(generator.uniform(*PAUSES_S) * SAMPLE_RATE)
        return (FLOOR * generator.standard_normal(n)).astype(np.float32)

    pieces, clips, places = [pause()], [], []
    size = pieces[0].size
    while left and size < seconds * SAMPLE_RATE:
        utterance = left.popleft()
        speech = trim(load_audio(utterance, audio_root))
        after = pause()
        clips.append(utterance)
        places.append((size / SAMPLE_RATE, (size + speech.size) / SAMPLE_RATE))
        pieces += [speech, after]
        size += speech.size + after.size
    return Recording(np.concatenate(pieces), clips, places)


def trim(audio: Audio) -> Audio:
    """Cut off what is quiet at both ends."""
    frame = SAMPLE_RATE // 50
    levels = np.sqrt((np.pad(audio, (0, -audio.size % frame)).reshape(-1, frame).astype(np.float64) ** 2).mean(axis=1))
    loud = np.flatnonzero(levels > EDGE * np.quantile(levels, 0.95))
    return audio[loud[0] * frame : (loud[-1] + 1) * frame] if loud.size else audio


def transcribe_long(engine: Engine, recording: Recording) -> LongForm:
    """Transcribe a long recording as it would be served, and score each of its clips."""
    language = recording.clips[0].language
    started = time.perf_counter()
    result = transcribe(engine, recording.audio, Options(language=language, word_timestamps=True))
    took = time.perf_counter() - started
    parts = [units(clip.text, language) for clip in recording.clips]
    errors = errors_by_part(parts, units(result.text, language))
    edges = edge_errors([words(clip.text) for clip in recording.clips], recording.places, result.words)
    return LongForm(
        language=language,
        seconds=recording.seconds,
        reference=" ".join(clip.text for clip in recording.clips),
        hypothesis=result.text,
        parts=tuple(
            Part(
                id=clip.id,
                sentence=" ".join(words(clip.text)),
                errors=error.errors,
                reference=error.reference,
                start_error_s=start,
                end_error_s=end,
            )
            for clip, error, (start, end) in zip(recording.clips, errors, edges, strict=True)
        ),
        n_words=len(result.words),
        disordered=count_disordered(result.words),
        outside=sum(w.start < 0 or w.end > recording.seconds + CLOCK_TOLERANCE_S for w in result.words),
        took_s=took,
    )


def count_disordered(timed: Sequence[Word]) -> int:
    """Return how many words end before they begin, or begin before the word before them does."""
    backwards = sum(word.end < word.start for word in timed)
    return backwards + sum(b.start < a.start for a, b in itertools.pairwise(timed))


def edge_errors(
    parts: Sequence[Sequence[str]], places: Sequence[tuple[float, float]], timed: Sequence[Word]
) -> list[tuple[float | None, float | None]]:
    """Return how far each clip's first word begins, and its last ends, from where its speech does; in seconds.

    Args:
        parts: the clips' normalised words.
        places: where their speech begins and ends.
        timed: the words that were heard. None stands for an edge whose word was not.
    """
    heard = [(token, word) for word in timed for token in words(word.word)]
    reference = [token for part in parts for token in part]
    found: dict[int, Word] = {
        step.reference: heard[step.hypothesis][1]
        for step in align(reference, [token for token, _ in heard])
        if step.kind == "equal"
    }
    edges: list[tuple[float | None, float | None]] = []
    first = 0
    for part, (begins, ends) in zip(parts, places, strict=True):
        start, end = found.get(first), found.get(first + len(part) - 1)
        edges.append(
            (
                None if start is None or not part else min(abs(start.start - begins), MAX_EDGE_ERROR_S),
                None if end is None or not part else min(abs(end.end - ends), MAX_EDGE_ERROR_S),
            )
        )
        first += len(part)
    return edges


def make_sounds(seed: int) -> dict[str, Audio]:
    """Make ten seconds each of silence, of noises and of tones that a telephone carries."""
    generator = np.random.default_rng(seed)
    n = round(SOUND_S * SAMPLE_RATE)
    at = np.arange(n) / SAMPLE_RATE

    def tone(*frequencies: float) -> NDArray[np.float64]:
        return np.asarray(sum(np.sin(2 * np.pi * f * at) for f in frequencies) / len(frequencies))

    white = generator.standard_normal(n)
    spectrum = np.fft.rfft(generator.standard_normal(n))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(spectrum.size))), n)
    sounds = {
        "silence": np.zeros(n),
        "faint noise": 0.001 * white,
        "white noise": 0.1 * white,
        "pink noise": 0.1 * pink / pink.std(),
        "mains hum": 0.1 * tone(50, 100, 150),
        "busy tone": 0.3 * tone(425) * (at % 1 < 0.5),
        "dialling": 0.3 * tone(770, 1336) * (at % 0.5 < 0.2),
    }
    return {name: np.clip(sound, -1, 1).astype(np.float32) for name, sound in sounds.items()}


def transcribe_sound(engine: Engine, name: str, sound: Audio, language: str) -> Sound:
    """Transcribe what is no speech, with the voice detector and without."""
    served, undetected = (
        transcribe(engine, sound, Options(language=language, vad=detector)).text for detector in (True, False)
    )
    return Sound(name=name, seconds=sound.size / SAMPLE_RATE, served=served, undetected=undetected)


def letters_a_minute(sounds: Sequence[Sound], *, detector: bool) -> float:
    """Return how many letters and digits are made up in a minute of what is no speech."""
    return sum(letters(s.served if detector else s.undetected) for s in sounds) / sum(s.seconds / 60 for s in sounds)


def letters(text: str) -> int:
    """Count letters and digits."""
    return sum(len(word) for word in words(text))


def detect(engine: Engine, test: Sequence[Utterance], audio_root: Path) -> list[Detection]:
    """Let the model say which language clips are in, and give timestamp tokens; the first clips of each language."""
    clips = [
        u
        for language in sorted({u.language for u in test})
        for u in [one for one in test if one.language == language][:DETECTION_CLIPS]
    ]
    asked = DecodingOptions(without_timestamps=False)
    # A window is the whole clip: the language of longer audio is that of its first windows.
    windows = [Window(load_audio(u, audio_root)[:N_SAMPLES], None, options=asked) for u in clips]
    begin = engine.tokenizer.timestamp_begin
    return [
        Detection(
            id=u.id,
            language=u.language,
            detected=answer.language if isinstance(answer, DecodingResult) else "",
            timestamps=isinstance(answer, DecodingResult) and has_timestamps(answer, begin, u.audio.duration),
        )
        for u, answer in zip(clips, engine.transcribe(windows), strict=True)
    ]


def has_timestamps(answer: DecodingResult, timestamp_begin: int, seconds: float) -> bool:
    """Say whether an answer has a begin and an end, which rise and lie within the clip."""
    times = [(t - timestamp_begin) * 30 / (N_TIMESTAMPS - 1) for t in answer.tokens if t >= timestamp_begin]
    return len(times) >= 2 and times == sorted(times) and times[-1] <= seconds + 0.5
