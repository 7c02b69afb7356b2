"""Speech without transcripts, with the words that a checkpoint itself hears in it at 30 s.

Recordings of any length become clips with texts, of which a tenth is held out. What to do with them is
`training.elasticize`'s business.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from registry import Version
from speech import vad
from speech.audio import SAMPLE_RATE, AudioError, declared_seconds, stream_audio
from speech.context import ElasticContext
from speech.engine import DecodingResult, Engine, Window, load_engine
from speech.guard import flags, is_spoken
from speech.language import SpokenLanguage
from speech.windows import Slice, cut_stream
from training.data.clips import keep_samples
from training.data.manifest import AudioSlice, Utterance, read_manifest, write_manifest
from training.evaluate import Progress

SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".webm", ".mkv", ".wma", ".aiff", ".aif"}
MIN_S = 0.5
"""Shorter stretches teach nothing."""

WINDOWS_AT_ONCE = 32
FILES_AT_ONCE = 8
OWN_WORDS = "own words"
"""The source of utterances whose text is what the parent heard."""

HELD_OUT = 10
"""One clip of so many is not learned from, but judged by."""


def find_audio(places: Sequence[Path]) -> list[Path]:
    """Return the audio files below folders, and files that are named, in order of their paths."""
    found = [
        file.resolve()
        for place in places
        for file in ([place] if place.is_file() else sorted(place.rglob("*")))
        if file.is_file() and file.suffix.lower() in SUFFIXES
    ]
    return sorted(dict.fromkeys(found))


def hear(
    parent: Version,
    files: Sequence[Path],
    language: str | None,
    target: Path,
    say: Callable[[str], None],
    progress: Progress,
) -> list[Utterance]:
    """Let the parent transcribe, at 30 s; what it is not sure of is not learned from.

    What was heard of a recording is kept at once, so that an interrupted run goes on with the next one.

    Args:
        parent: the version that listens.
        files: recordings of any length.
        language: of all of them; None: the parent says it of each.
        target: manifest to keep what was heard in, its clips beside it; if it is there, it is read.
        say: called with a line on each recording that was left out, and on the whole.
        progress: shows how far it is, in seconds of audio.
    """
    if target.is_file():
        return read_manifest(target)
    journal = target.with_name("heard.jsonl")
    done = _read_journal(journal)
    left = [file for file in files if str(file) not in done]
    if done:
        say(f"{len(files) - len(left)} of {len(files)} recordings were heard before")
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        progress("listening at 30 s", sum(map(_seconds, left))) as advance,
        journal.open("a", encoding="utf-8") as kept,
    ):
        engine = load_engine(parent.path, ElasticContext())
        for start in range(0, len(left), FILES_AT_ONCE):
            for heard in _listen(engine, left[start : start + FILES_AT_ONCE], language, target.parent / "clips"):
                done[heard.file] = heard
                kept.write(heard.model_dump_json() + "\n")
                kept.flush()
                advance(_seconds(Path(heard.file)))
    in_order = [done[str(file)] for file in files]
    for one in in_order:
        if one.fault is not None:
            say(f"left out: {one.file}: {one.fault}")
    utterances = [utterance for one in in_order for utterance in one.utterances]
    minutes = sum(u.audio.duration for u in utterances) / 60
    languages = ", ".join(sorted({u.language for u in utterances})) or "none"
    doubtful = sum(one.doubtful for one in in_order)
    say(f"{len(utterances)} stretches of speech, {minutes:.1f} min, in: {languages}; {doubtful} doubtful left out")
    write_manifest(target, utterances)
    journal.unlink()
    return utterances


class _Heard(BaseModel):
    """What became of one recording."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    utterances: tuple[Utterance, ...]
    doubtful: int
    fault: str | None  # why the rest of it, or all, was left out


def _read_journal(path: Path) -> dict[str, _Heard]:
    """Return what an interrupted run had heard; a last line that was not written to its end is not."""
    if not path.is_file():
        return {}
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    found = [_Heard.model_validate_json(line) for line in whole.split("\n") if line]
    return {one.file: one for one in found}


def _listen(engine: Engine, files: Sequence[Path], language: str | None, clips: Path) -> Iterator[_Heard]:
    """Transcribe some recordings: their first windows together, as many have but one, then the rest of each."""
    with ExitStack() as stack:
        listeners = [_Listener(file, language, stack.enter_context(vad.listen_if(wanted=True))) for file in files]
        firsts = [(one, window) for one in listeners if (window := one.next_window()) is not None]
        for (one, window), result in zip(firsts, _decoded(engine, [window for _, window in firsts]), strict=True):
            one.take(window, result, clips)
        for one in listeners:
            while windows := one.next_windows(1 if one.language.is_awaited else WINDOWS_AT_ONCE):
                for window, result in zip(windows, _decoded(engine, windows), strict=True):
                    one.take(window, result, clips)
            yield one.heard()


def _decoded(engine: Engine, windows: Sequence[Window]) -> Iterator[DecodingResult]:
    for answer in engine.transcribe(windows):
        if not isinstance(answer, DecodingResult):
            raise answer
        yield answer


class _Listener:
    """One recording on its way through the parent."""

    def __init__(self, file: Path, language: str | None, detector: vad.SpeechDetector | None) -> None:
        self._file = file
        # Cut as for an elastic engine, at the first pause: that is what it will be served.
        self._cuts = cut_stream(stream_audio(file), elastic=True, detector=detector)
        self._places: deque[Slice] = deque()  # of windows that are being decoded
        self._utterances: list[Utterance] = []
        self._doubtful = 0
        self._fault: str | None = None
        self.language = SpokenLanguage(language)

    def next_window(self) -> Window | None:
        """Cut up to the next window in which somebody speaks; None at the end, or where the file is damaged."""
        try:
            for place, audio in self._cuts:
                if not place.silent and audio.size >= MIN_S * SAMPLE_RATE:
                    self._places.append(place)
                    return Window(audio, self.language.code, full_context=True)
        except AudioError as error:
            self._fault = str(error)
        return None

    def next_windows(self, n: int) -> list[Window]:
        """Return the next few."""
        windows: list[Window] = []
        while len(windows) < n and (window := self.next_window()) is not None:
            windows.append(window)
        return windows

    def take(self, window: Window, result: DecodingResult, clips: Path) -> None:
        """Keep what was heard in the first window that has no answer yet, if the parent is sure of it."""
        place = self._places.popleft()
        self.language.hear(place, result)
        if is_spoken(result) and not flags(result, None, place):
            clip = keep_samples(window.audio, SAMPLE_RATE, clips)
            self._utterances.append(_utterance(self._file, place, clip, result))
        else:
            self._doubtful += 1

    def heard(self) -> _Heard:
        """Return what became of it; what was taken for another language, before its own was known, is doubtful."""
        kept = tuple(one for one in self._utterances if one.language == self.language.likeliest)
        doubtful = self._doubtful + len(self._utterances) - len(kept)
        return _Heard(file=str(self._file), utterances=kept, doubtful=doubtful, fault=self._fault)


def _seconds(file: Path) -> int:
    """Return how long a recording says it is; 0 if it does not."""
    try:
        return round(declared_seconds(file))
    except AudioError:
        return 0


def _utterance(file: Path, place: Slice, clip: Path, result: DecodingResult) -> Utterance:
    content = hashlib.sha256(clip.read_bytes()).hexdigest()
    return Utterance(
        id=f"{file}@{place.start}",
        audio=AudioSlice(path=str(clip), duration=(place.end - place.start) / SAMPLE_RATE, sha256=content),
        text=result.text,
        language=result.language,
        split="dev" if int(content, 16) % HELD_OUT == 0 else "train",
        source=OWN_WORDS,
    )
