"""What is trained on in each epoch: windows of one or more clips, own, rehearsed, or of nobody speaking.

A window follows from seed, epoch and number alone: in whatever process it is made, and however often a run was
interrupted, it is the same. An epoch always has as many windows. Nothing here touches dev and test.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from torch.utils.data import Dataset

from speech.audio import SAMPLE_RATE
from speech.context import FRAMES_PER_POSITION, positions_of
from speech.features import CHUNK_LENGTH
from speech.tokens import MAX_LABEL_TOKENS, WhisperTokenizer
from speech.words import UNSPACED
from training.augment import (
    Audio,
    Blank,
    add_noise,
    change_speed,
    coloured_noise,
    draw_blanks,
    noise_files,
    recorded_noise,
)
from training.batches import Example
from training.config import TrainingConfig
from training.data.manifest import Segment, Utterance, load_audio
from training.targets import Target, after_previous_text, no_speech_target, text_target, timed_target

PLAN, SOUND, REPLAY = 1, 2, 3
"""Streams of random numbers that must not depend on how much another one draws."""

STITCH_TRIES = 32  # clips looked at to fill a window

NO_SPEECH_S = (1.0, 30.0)
NO_SPEECH_PEAK_DB = (-60.0, -10.0)
SILENCE_SHARE = 0.25
"""Of the windows without speech; the others hold noise. Silence of zeros is common in telephony and in muted calls."""


class Draw(NamedTuple):
    """Which window of which epoch; what the sampler yields."""

    epoch: int
    number: int


class Window(NamedTuple):
    """What a window is made of, before any audio is decoded."""

    clips: tuple[Utterance, ...]  # none: nobody speaks
    speed: float
    duration: float  # seconds, at that speed


class TrainingWindows(Dataset[Example]):
    """The windows of all epochs; index it with a `Draw`.

    Each own clip begins one window an epoch. Rehearsed clips take turns; windows of nobody speaking are made up.
    """

    def __init__(
        self,
        config: TrainingConfig,
        own: Sequence[Utterance],
        replay: Sequence[Utterance],
        root: Path,
        tokenizer: WhisperTokenizer,
        n_mels: int,
    ) -> None:
        self._config = config
        self._own = own
        self._replay = replay
        self._root = root
        self._tokenizer = tokenizer
        self._n_mels = n_mels
        no_speech = config.no_speech_share
        rehearsed = config.share_of_replay if replay else 0.0
        all_windows = len(own) / (1.0 - rehearsed - no_speech)
        self._n_replay = round(rehearsed * all_windows)
        self._n_no_speech = round(no_speech * all_windows)
        self._languages = sorted({clip.language for clip in (*own, *replay)})
        self._like: defaultdict[tuple[str, ...], list[Utterance]] = defaultdict(list)
        for clip in (*own, *replay):
            self._like[_speaker(clip)].append(clip)
        self._nothing_drawn = config.augment.speed_factors == (1.0,) and config.stitch_share == 0.0
        self._noise = [] if config.augment.noise_folder is None else noise_files(config.augment.noise_folder)
        self._tokens: dict[str, int] = {}

    def __len__(self) -> int:
        """Return the windows of an epoch."""
        return len(self._own) + self._n_replay + self._n_no_speech

    def positions(self, epoch: int) -> list[int]:
        """Return the encoder positions that each window of an epoch fills."""
        durations = (self.window(Draw(epoch, number)).duration for number in range(len(self)))
        return [positions_of(round(duration * SAMPLE_RATE)) for duration in durations]

    def window(self, draw: Draw) -> Window:
        """Decide what a window is made of."""
        if draw.number >= len(self._own) + self._n_replay:
            low, high = np.log(NO_SPEECH_S)
            return Window((), 1.0, float(np.exp(self._generator(PLAN, draw).uniform(low, high))))
        first = self._first_clip(draw)
        if self._nothing_drawn:  # a generator takes 50 µs, and an epoch may have a million windows
            return Window((first,), 1.0, first.audio.duration)
        generator = self._generator(PLAN, draw)
        speed = float(generator.choice(self._config.augment.speed_factors))
        if first.audio.duration / speed > CHUNK_LENGTH:
            speed = 1.0
        clips = [first]
        if generator.random() < self._config.stitch_share:
            clips += self._companions(first, speed, generator)
        return Window(tuple(clips), speed, sum(clip.audio.duration for clip in clips) / speed)

    def __getitem__(self, draw: Draw) -> Example:
        """Decode and augment a window, and write its target."""
        clips, speed, duration = self.window(draw)
        generator = self._generator(SOUND, draw)
        if not clips:
            language = str(generator.choice(self._languages))
            audio = self._no_speech(round(duration * SAMPLE_RATE), generator)
            return self._example(draw, audio, no_speech_target(self._tokenizer, language), [])
        recordings = [load_audio(clip, self._root) for clip in clips]
        target = self._target(clips, recordings, speed, generator)
        audio = change_speed(np.concatenate(recordings), speed)
        augment = self._config.augment
        if generator.random() < augment.noise_share:
            audio = add_noise(audio, self._draw_noise(audio.size, generator), generator.uniform(*augment.noise_snr_db))
        frames = positions_of(audio.size) * FRAMES_PER_POSITION
        blanks = draw_blanks("time", frames, augment.mask_time_share, augment.mask_time_frames, generator)
        blanks += draw_blanks("mel", self._n_mels, augment.mask_mel_share, augment.mask_mel_bands, generator)
        return self._example(draw, audio, target, blanks)

    def _generator(self, stream: int, draw: Draw) -> Generator:
        return np.random.default_rng([self._config.seed, stream, *draw])

    def _first_clip(self, draw: Draw) -> Utterance:
        if draw.number < len(self._own):
            return self._own[draw.number]
        turn = draw.epoch * self._n_replay + draw.number - len(self._own)
        cycle, place = divmod(turn, len(self._replay))
        order = np.random.default_rng([self._config.seed, REPLAY, cycle]).permutation(len(self._replay))
        return self._replay[int(order[place])]

    def _companions(self, first: Utterance, speed: float, generator: Generator) -> Iterator[Utterance]:
        """Draw clips to put behind another, up to a length that is drawn, too: the model shall know all lengths."""
        like = self._like[_speaker(first)]
        room_s = generator.uniform(first.audio.duration, CHUNK_LENGTH * speed) - first.audio.duration
        room_tokens = MAX_LABEL_TOKENS - 4 - self._tokens_of(first)  # the prompt, and the end
        taken = {first.id}
        for place in generator.integers(len(like), size=STITCH_TRIES):
            clip = like[place]
            tokens = self._tokens_of(clip)
            if clip.id not in taken and clip.audio.duration <= room_s and tokens <= room_tokens:
                room_s -= clip.audio.duration
                room_tokens -= tokens
                taken.add(clip.id)
                yield clip

    def _tokens_of(self, clip: Utterance) -> int:
        """Return the decoder positions that a clip's text takes at most: with timestamps."""
        if clip.id not in self._tokens:
            segments = _segments(clip)
            timed = sum(len(self._tokenizer.encode(segment.text, follows=True)) + 2 for segment in segments)
            self._tokens[clip.id] = max(timed, len(self._tokenizer.encode(clip.text, follows=True)))
        return self._tokens[clip.id]

    def _target(
        self, clips: Sequence[Utterance], recordings: list[Audio], speed: float, generator: Generator
    ) -> Target:
        timed = generator.random() < self._config.timestamps_share
        prompted = generator.random() < self._config.previous_text_share
        language = clips[0].language
        if all(clip.no_speech for clip in clips):
            return no_speech_target(self._tokenizer, language)
        target = None
        if timed and (len(clips) > 1 or clips[0].segments):
            target = timed_target(self._tokenizer, list(_shifted(clips, recordings, speed)), language)
        if target is None:
            blank = "" if language in UNSPACED else " "  # as windows are put together in serving
            text = blank.join(clip.text.strip() for clip in clips if not clip.no_speech)
            target = text_target(self._tokenizer, text, language)
        if prompted and clips[0].prev_text:
            target = after_previous_text(self._tokenizer, target, clips[0].prev_text)
        return target

    def _no_speech(self, n_samples: int, generator: Generator) -> Audio:
        if generator.random() < SILENCE_SHARE:
            return np.zeros(n_samples, dtype=np.float32)
        noise = self._draw_noise(n_samples, generator)
        peak = 10.0 ** (generator.uniform(*NO_SPEECH_PEAK_DB) / 20.0)
        return np.asarray(noise * (peak / max(1e-9, float(np.abs(noise).max()))), dtype=np.float32)

    def _draw_noise(self, n_samples: int, generator: Generator) -> Audio:
        if self._noise:
            return recorded_noise(self._noise, n_samples, generator)
        return coloured_noise(n_samples, generator)

    def _example(self, draw: Draw, audio: Audio, target: Target, blanks: list[Blank]) -> Example:
        return Example(index=draw.number, audio=audio, target=target, blanks=blanks, margin=None)


def _speaker(clip: Utterance) -> tuple[str, ...]:
    """Return what clips of one window share; a speaker's name means something only within a source."""
    return (clip.language, clip.source, *filter(None, [clip.speaker]))


def _segments(clip: Utterance) -> tuple[Segment, ...]:
    """Return a clip's segments; a clip of which none are known is one, unless nobody speaks."""
    if clip.no_speech:
        return ()
    return clip.segments or (Segment(start=0.0, end=clip.audio.duration, text=clip.text),)


def _shifted(clips: Sequence[Utterance], recordings: Sequence[Audio], speed: float) -> Iterator[Segment]:
    """Yield the segments of stitched clips, at their place in the window."""
    start = 0.0
    for clip, recording in zip(clips, recordings, strict=True):
        for segment in _segments(clip):
            yield Segment(start=(start + segment.start) / speed, end=(start + segment.end) / speed, text=segment.text)
        start += recording.size / SAMPLE_RATE
