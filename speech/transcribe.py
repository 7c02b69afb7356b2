"""From audio of any length to a transcript: windows are decoded, doubtful ones again, and put together.

Plain functions around an engine. The service sends the windows through its scheduler; training and the command line
call `transcribe` and `transcribe_many`, which send them to the engine directly. Where to cut is `speech.windows`', and
what to believe `speech.guard`'s business.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from speech import vad
from speech.audio import SAMPLE_RATE
from speech.engine import MAX_PROMPT_TOKENS, DecodingOptions, DecodingResult, Engine, EngineError, Window, Word
from speech.guard import Flag, Guard, best, flags, is_spoken, next_attempt
from speech.language import SpokenLanguage
from speech.tokens import Task
from speech.windows import Slice, cut_stream
from speech.words import UNSPACED

Audio = NDArray[np.float32]  # 16 kHz mono, shape (n_samples,)

WINDOWS_AT_ONCE = 64
"""So many windows are decoded, and in memory, together."""

SENTENCE_END = ".?!…。？！؟۔।።။"  # also of Arabic, Urdu, Hindi, Amharic and Burmese
CLOSING = "\"'”’»)]」』"
LONG_PAUSE_S = 1.0  # ends a segment as a full stop does

RESET_TEMPERATURE = 0.5
"""What was decoded at a higher temperature is no previous text for the next window: openai/whisper's rule."""


@dataclass(frozen=True)
class Options:
    """What is wanted of a piece of audio."""

    language: str | None = None  # a code of the model's; None: what the first windows with speech are in
    languages: tuple[str, ...] = ()  # codes to choose from where it is detected; empty: all
    task: Task = "transcribe"
    prompt: tuple[int, ...] = ()  # text tokens, for every window: their spelling is imitated
    condition_on_previous_text: bool = False  # also tell each window what was said before it
    word_timestamps: bool = False  # words with their times, and segments that are sentences
    token_logprobs: bool = False
    beam_size: int = 1
    temperature: float = 0.0  # 0: greedily, and less so for doubtful windows; above: sampled, once
    vad: bool = True  # leave out what is no speech by Silero's detector; False: only what is silent
    guard: Guard = "redecode"


def said_before(keywords: Sequence[str], prompt: str | None) -> str:
    """Return what the decoder is told was said before: keywords first, as the prompt's end counts most."""
    return " ".join(part for part in (", ".join(keywords), prompt) if part)


@dataclass(frozen=True)
class Segment:
    """A stretch of the transcript, in openai/whisper's names; times in seconds.

    The measurements and flags but the last two are the window's, as in openai/whisper.
    """

    id: int
    start: float
    end: float
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    tokens: tuple[int, ...]
    token_logprobs: tuple[float, ...] | None = None  # one a token, where they were asked for
    seek: int = 0  # where its window begins, in frames of 10 ms
    temperature: float = 0.0
    flags: tuple[Flag, ...] = ()  # why the text may be wrong
    words: tuple[Word, ...] | None = None  # where they were asked for


@dataclass(frozen=True)
class Transcription:
    """What was said in one piece of audio."""

    text: str
    language: str | None  # None: nothing was said, and no language was given
    duration: float  # seconds
    segments: tuple[Segment, ...]
    no_speech: bool = False  # nobody speaks
    language_probabilities: Mapping[str, float] | None = None  # where it was detected
    dropped: tuple[Segment, ...] = ()  # doubtful ones that were left out, with guard "drop"

    @property
    def words(self) -> list[Word]:
        """All words; empty where they were not asked for."""
        return [word for segment in self.segments for word in segment.words or ()]


@dataclass(frozen=True)
class Added:
    """What one more window added to a transcript."""

    seconds: float  # of audio that are done
    text: str  # to be appended as it is
    segments: tuple[Segment, ...]


OnAdded = Callable[[Added], None]


def ignore(_added: Added) -> None:
    """Tell nobody."""


def window_of(audio: Audio, options: Options, said: Sequence[int] = ()) -> Window:
    """Return what to decode for a slice.

    Args:
        audio: the slice's.
        options: of the piece of audio.
        said: tokens of what was said before.
    """
    previous = tuple(said) if options.condition_on_previous_text else ()
    return Window(
        audio,
        options.language,
        options.task,
        DecodingOptions(
            beam_size=options.beam_size,
            token_logprobs=options.token_logprobs,
            word_timestamps=options.word_timestamps,
            temperature=options.temperature,
        ),
        (*options.prompt, *previous)[-MAX_PROMPT_TOKENS:],
        languages=options.languages,
    )


def again(window: Window, result: DecodingResult, options: Options) -> Window | None:
    """Return how to decode a window again after this answer; None to keep it."""
    if options.guard in {"mark", "keep"} or options.temperature > 0:
        return None
    return next_attempt(window, result)


def segments_of(place: Slice, result: DecodingResult | None, options: Options) -> list[Segment]:
    """Return what one window adds to the transcript: a segment, or one a sentence where word times are known.

    Args:
        place: the window's.
        result: its answer; None for a silent one.
        options: of the piece of audio.
    """
    if result is None or not is_spoken(result):
        return []
    if not result.words:
        return [_segment(place, result, options, None, result.tokens, result.token_logprobs)]
    segments, position = [], 0
    offset = place.start / SAMPLE_RATE
    for sentence in _sentences(result.words, _written_in(result, options)):
        size = sum(len(word.tokens) for word in sentence)
        logprobs = None if result.token_logprobs is None else result.token_logprobs[position : position + size]
        placed = tuple(replace(word, start=word.start + offset, end=word.end + offset) for word in sentence)
        tokens = tuple(token for word in sentence for token in word.tokens)
        segments.append(_segment(place, result, options, placed, tokens, logprobs))
        position += size
    return [segment for segment in segments if segment.text]


def _segment(
    place: Slice,
    result: DecodingResult,
    options: Options,
    words: tuple[Word, ...] | None,
    tokens: tuple[int, ...],
    token_logprobs: tuple[float, ...] | None,
) -> Segment:
    return Segment(
        id=0,
        start=words[0].start if words else place.start / SAMPLE_RATE,
        end=words[-1].end if words else place.end / SAMPLE_RATE,
        text="".join(word.word for word in words).strip() if words else result.text,
        avg_logprob=result.avg_logprob,
        no_speech_prob=result.no_speech_prob,
        compression_ratio=result.compression_ratio,
        tokens=tokens,
        token_logprobs=token_logprobs,
        seek=100 * place.start // SAMPLE_RATE,
        temperature=result.temperature,
        flags=() if options.guard == "keep" else flags(result, words, place),
        words=words,
    )


def _written_in(result: DecodingResult, options: Options) -> str:
    return "en" if options.task == "translate" else result.language


def _sentences(words: Sequence[Word], language: str) -> Iterator[list[Word]]:
    """Split words after the end of a sentence, and at long pauses."""
    sentence: list[Word] = []
    for word in words:
        if sentence:
            text = "".join(before.word for before in sentence)
            ended = text.rstrip().rstrip(CLOSING).endswith(tuple(SENTENCE_END))
            # "3.14" and "e.g." are one word to Whisper or go on without a blank; without blanks, a quotation's end is
            # a word of its own.
            begins = word.word.startswith(" ") or (
                language in UNSPACED and not word.word.startswith(tuple(SENTENCE_END + CLOSING))
            )
            if begins and (ended or word.start - sentence[-1].end >= LONG_PAUSE_S):
                yield sentence
                sentence = []
        sentence.append(word)
    if sentence:
        yield sentence


class Assembly:
    """Puts a transcript together, window after window."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._segments: list[Segment] = []
        self._text = ""
        self._dropped: list[Segment] = []
        self.language = SpokenLanguage(options.language)  # the next window is decoded in it, if it is known
        self._is_spoken = False
        self._end = 0
        self.said: list[int] = []  # tokens, for the next window; no more than are used

    def add(self, place: Slice, result: DecodingResult | None) -> Added:
        """Take the next window's answer, None for a silent one, and return what it adds."""
        self._end = place.end
        segments = segments_of(place, result, self._options)
        if self._options.guard == "drop":
            self._dropped += [segment for segment in segments if segment.flags]
            segments = [segment for segment in segments if not segment.flags]
        if result is not None:
            self.language.hear(place, result)
            self._is_spoken = self._is_spoken or is_spoken(result)
        new = tuple(replace(segment, id=len(self._segments) + i) for i, segment in enumerate(segments))
        self._segments += new
        self.said = [*self.said, *(token for segment in new for token in segment.tokens)][-MAX_PROMPT_TOKENS:]
        if result is not None and result.temperature > RESET_TEMPERATURE:
            self.said.clear()
        blank = "" if result is None or _written_in(result, self._options) in UNSPACED else " "
        text = blank.join(segment.text for segment in new)
        if self._text and text:
            text = blank + text
        self._text += text
        return Added(place.end / SAMPLE_RATE, text, new)

    def whole(self) -> Transcription:
        """Return the transcript of all that was added."""
        return Transcription(
            text=self._text,
            language=self.language.likeliest,
            duration=self._end / SAMPLE_RATE,
            segments=tuple(self._segments),
            no_speech=not self._is_spoken,
            language_probabilities=self.language.probabilities,
            dropped=tuple(self._dropped),
        )


def assemble(slices: Sequence[Slice], results: Sequence[DecodingResult | None], options: Options) -> Transcription:
    """Put the windows' results together.

    Args:
        slices: of the whole audio, in order.
        results: one a slice; None for a silent one.
        options: of the piece of audio.
    """
    assembly = Assembly(options)
    for place, result in zip(slices, results, strict=True):
        assembly.add(place, result)
    return assembly.whole()


def transcribe(
    engine: Engine,
    audio: Audio | Iterable[Audio],
    options: Options = Options(),
    on_added: OnAdded = ignore,
) -> Transcription:
    """Transcribe 16 kHz mono audio of any length.

    Args:
        engine: decodes.
        audio: all of it, or its blocks in order: then no more than `WINDOWS_AT_ONCE` are in memory.
        options: what is wanted.
        on_added: told of each window, in order, as soon as it and those before it are done.

    Raises:
        EngineError: a window could not be decoded.
        UnknownLanguageError: the model has no such language.
    """
    return transcribe_many(engine, [audio], [options], on_added)[0]


def transcribe_many(
    engine: Engine,
    audios: Sequence[Audio | Iterable[Audio]],
    options: Sequence[Options],
    on_added: OnAdded = ignore,
) -> list[Transcription]:
    """Transcribe several pieces of audio, their windows batched together; each as `transcribe` would alone.

    Raises:
        EngineError: a window could not be decoded.
        UnknownLanguageError: the model has no such language.
    """
    with ExitStack() as opened:
        pieces = [
            _Piece(engine, audio, _with_codes(engine, wanted), opened)
            for audio, wanted in zip(audios, options, strict=True)
        ]
        while pending := [piece for piece in pieces if not piece.is_done]:
            taken: list[tuple[_Piece, list[tuple[Slice, Window | None]]]] = []
            room = WINDOWS_AT_ONCE
            for piece in pending:
                taken.append((piece, piece.take(room)))
                room -= sum(window is not None for _, window in taken[-1][1])
                if room <= 0:
                    break
            to_decode = [
                (window, piece.options) for piece, places in taken for _, window in places if window is not None
            ]
            results = iter(_decode(engine, to_decode))
            for piece, places in taken:
                for place, window in places:
                    result = None if window is None else next(results)
                    on_added(piece.add(place, result))
        return [piece.assembly.whole() for piece in pieces]


class _Piece:
    """One piece of audio on its way: what is cut of it, and what was said so far."""

    def __init__(self, engine: Engine, audio: Audio | Iterable[Audio], options: Options, opened: ExitStack) -> None:
        self.options = options  # with the language, once it is known
        self.assembly = Assembly(options)
        self.is_done = False  # all of it was taken
        self._cuts = _cut(engine, audio, options)
        opened.callback(self._cuts.close)
        self._next: tuple[Slice, Audio] | None = None

    def take(self, room: int) -> list[tuple[Slice, Window | None]]:
        """Return the next places with what is to be decoded for them, at most `room` windows.

        One window only, where the next depends on its answer.
        """
        taken: list[tuple[Slice, Window | None]] = []
        following = self._next or next(self._cuts, None)
        while room > 0 and following is not None:
            place, audio = following
            # One slice ahead: the last one ends the cutting, and the next piece takes its voice detector.
            following = next(self._cuts, None)
            window = None if place.silent else window_of(audio, self.options, self.assembly.said)
            taken.append((place, window))
            if window is not None:
                room -= 1
                if self.assembly.language.is_awaited or self.options.condition_on_previous_text:
                    break
        self._next, self.is_done = following, following is None
        return taken

    def add(self, place: Slice, result: DecodingResult | None) -> Added:
        added = self.assembly.add(place, result)
        self.options = replace(self.options, language=self.assembly.language.code)
        return added


def _cut(
    engine: Engine, audio: Audio | Iterable[Audio], options: Options
) -> Generator[tuple[Slice, Audio], None, None]:
    """Cut, with a voice detector that is taken at the first slice and given back after the last."""
    blocks = [audio] if isinstance(audio, np.ndarray) else audio
    with vad.listen_if(options.vad) as detector:
        yield from cut_stream(blocks, elastic=engine.context.elastic, detector=detector)


def _with_codes(engine: Engine, options: Options) -> Options:
    code = engine.tokenizer.language_code
    return replace(
        options,
        language=None if options.language is None else code(options.language),
        languages=tuple(map(code, options.languages)),
    )


def _decode(engine: Engine, windows: Sequence[tuple[Window, Options]]) -> list[DecodingResult]:
    """Decode windows, and again those whose answer is doubtful, until it is not or nothing is left to try."""
    tried: list[list[DecodingResult]] = [[] for _ in windows]
    to_decode = {i: window for i, (window, _) in enumerate(windows)}
    while to_decode:
        answers = engine.transcribe(list(to_decode.values()))
        following = {}
        for (i, window), answer in zip(to_decode.items(), answers, strict=True):
            if isinstance(answer, EngineError):
                raise answer
            tried[i].append(answer)
            if (next_window := again(window, answer, windows[i][1])) is not None:
                following[i] = next_window
        to_decode = following
    return [best(results) for results in tried]
