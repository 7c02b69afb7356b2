"""From a transcript to subtitles: cues of a few short lines that can be read while they are on the screen.

Where a cue or a line ends is the cheapest of all ways to cut the text: at the end of a sentence rather than at a comma,
there rather than at a pause, there rather than between any two words; in lines of like length; each cue long enough to
be read. No language's grammar is known here, and no word is added, left out or changed. How cues are written down is
`speech.formats`' business.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, split_graphemes

from speech.transcribe import Segment

LINGER = 1.5
"""Seconds that a cue may stay after its last word, so that it can be read (BBC Subtitle Guidelines, 5.2)."""

LONG_PAUSE = 1.0  # seconds after which nothing stays in one cue with what was said before
PAUSE = 0.25  # seconds between words that are not spoken in one breath


@dataclass(frozen=True)
class Layout:
    """How much of a transcript is shown at once, and for how long.

    Widths are columns: a letter is one, a Chinese, Japanese or Korean character two, as on any screen of them; so 42
    columns are 21 of those.

    The defaults are Netflix' (Timed Text Style Guide, General Requirements, and English Template for the first and the
    third), and its 17 columns a second are about the BBC's 160 to 180 words a minute.
    """

    max_chars_per_line: int = 42  # columns
    max_lines: int = 2
    max_chars_per_second: float = 17  # columns
    min_duration: float = 5 / 6  # seconds, unless the next cue comes before
    max_duration: float = 7.0  # seconds
    min_gap: float = 2 / 24  # seconds between two cues: two frames of a film

    def __post_init__(self) -> None:
        """Refuse what no text fits into."""
        for name in ("max_chars_per_line", "max_lines", "max_chars_per_second", "min_duration", "max_duration"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.min_gap < 0:
            raise ValueError(f"min_gap must not be below 0, as {self.min_gap} is")
        if self.min_duration > self.max_duration:
            raise ValueError(f"min_duration ({self.min_duration}) must not be above max_duration ({self.max_duration})")


DEFAULT = Layout()


@dataclass(frozen=True)
class Cue:
    """What is shown at once; times in seconds, to the millisecond."""

    start: float
    end: float  # above start, and not above the next cue's start
    lines: tuple[str, ...]  # none of them empty


def lay_out(segments: Sequence[Segment], layout: Layout = DEFAULT) -> list[Cue]:
    """Lay a transcript out as subtitles.

    Times are those of the segments' words. Where there are none, a segment's characters share its time evenly. A cue
    may hold the end of one segment and the beginning of the next, for segments end where windows do.

    Args:
        segments: in the order of their times.
        layout: what no cue exceeds, but for a character that is wider than a line. A word that lasts longer than
            `max_duration` is shown only so long.

    Returns:
        Cues that do not overlap, whose texts together are the segments', blanks aside.
    """
    atoms = [atom for segment in segments for atom in _atoms(segment, layout.max_chars_per_line)]
    return _timed([cue for run in _runs(atoms) for cue in _cut(run, layout)], layout)


@dataclass(frozen=True)
class _Atom:
    """What no line break parts: a word, or a character of a script without blanks and the punctuation that clings."""

    text: str
    columns: int
    has_blank: bool  # before it
    start: float
    end: float
    at_end: bool  # of its segment
    next_text: str  # in its segment
    glued: bool  # to the next one: a word longer than a line

    @property
    def ends_sentence(self) -> bool:
        """Whether a sentence ends with it."""
        if not _SENTENCE_END.search(self.text) or self.next_text[:1].islower():  # "etc. and"
            return False
        return self.at_end or not _ABBREVIATION.search(self.text)


_VIRAMA = 9  # Unicode's combining class of the sign that makes one character of two letters
_CLOSING = "[\"'”’»›)\\]}」』）】》〉]*$"
_SENTENCE_END = re.compile("[.!?…。！？．｡؟۔।॥։።။]" + _CLOSING)
_CLAUSE_END = re.compile("[,;:،؛、，；：–—]" + _CLOSING)
_ABBREVIATION = re.compile(r"(?:^|\W)(?:[^\W\d_]|[b-df-hj-np-tv-xzB-DF-HJ-NP-TV-XZ]{2,3})\.$")  # "J.", "Dr."
_WITHOUT_BLANKS = re.compile("[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff65\U00020000-\U0003ffff]")
_CLINGS_TO_PREVIOUS = frozenset(
    "ー々ゝゞヽヾぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ"
)  # never first in a line (JIS X 4051)


def _atoms(segment: Segment, max_columns: int) -> Iterator[_Atom]:
    words = [_pieces(word, max_columns) for word in segment.text.split()]
    pieces = [(piece, i == 0, glued) for word in words for i, (piece, glued) in enumerate(word)]
    times = _times(segment)
    said_until = segment.start
    place = 0
    for i, (piece, has_blank, glued) in enumerate(pieces):
        first, last = times[place], times[place + len(piece) - 1]
        place += len(piece)
        start = min(max(first[0], said_until), segment.end)
        said_until = max(start, min(last[1], segment.end))
        is_last = i == len(pieces) - 1
        next_text = "" if is_last else pieces[i + 1][0]
        yield _Atom(piece, cell_len(piece), has_blank, start, said_until, is_last, next_text, glued)


def _times(segment: Segment) -> list[tuple[float, float]]:
    """Return when each character of a segment's text begins and ends, blanks left out."""
    spans = [(word.word, word.start, word.end) for word in segment.words or ()]
    if _joined("".join(word for word, _, _ in spans)) != _joined(segment.text):
        spans = [(segment.text, segment.start, segment.end)]
    return [
        (start + (end - start) * i / size, start + (end - start) * (i + 1) / size)
        for word, start, end in spans
        for size in [len(_joined(word))]
        for i in range(size)
    ]


def _joined(text: str) -> str:
    return "".join(text.split())


def _pieces(word: str, max_columns: int) -> list[tuple[str, bool]]:
    """Cut what stands between two blanks where a line may end; each piece, and whether that was no place to end."""
    if word.isascii() and len(word) <= max_columns:
        return [(word, False)]
    pieces: list[tuple[str, bool]] = []
    columns = 0
    for grapheme in _graphemes(word):
        width = cell_len(grapheme)
        if not pieces or _may_part(pieces[-1][0][-1], grapheme[0]):
            pieces.append((grapheme, False))
            columns = width
        elif columns + width > max_columns:
            pieces[-1] = (pieces[-1][0], True)
            pieces.append((grapheme, False))
            columns = width
        else:
            pieces[-1] = (pieces[-1][0] + grapheme, False)
            columns += width
    return pieces


def _may_part(left: str, right: str) -> bool:
    if not (_WITHOUT_BLANKS.match(left) or _WITHOUT_BLANKS.match(right)):
        return False
    if right in _CLINGS_TO_PREVIOUS or unicodedata.category(right) in {"Pe", "Pf", "Po"}:
        return False
    return unicodedata.category(left) not in {"Ps", "Pi"}


def _graphemes(text: str) -> list[str]:
    """Cut text into what a reader calls a character: no mark, joiner or half of a flag stands alone."""
    graphemes: list[str] = []
    for start, end, _ in split_graphemes(text)[0]:
        previous = graphemes[-1] if graphemes else ""
        if (
            previous
            and (
                unicodedata.category(text[start]).startswith("M")
                or text[start] in "\u0e33\u0eb3"  # the Thai and Lao vowel am, which are letters by category
                # Virama: a letter that follows is its second half; what is of another script stands alone.
                or (
                    unicodedata.combining(previous[-1]) == _VIRAMA
                    and cell_len(previous[0]) == cell_len(text[start:end]) == 1
                )
                or _half_flag(previous, text[start])
            )
        ):
            graphemes[-1] += text[start:end]
        else:
            graphemes.append(text[start:end])
    return graphemes


def _half_flag(left: str, right: str) -> bool:
    return len(left) == 1 and "\U0001f1e6" <= left <= "\U0001f1ff" and "\U0001f1e6" <= right <= "\U0001f1ff"


def _runs(atoms: Sequence[_Atom]) -> Iterator[list[_Atom]]:
    """Yield what is said without a long pause."""
    begin = 0
    for i in range(1, len(atoms) + 1):
        if i == len(atoms) or atoms[i].start - atoms[i - 1].end >= LONG_PAUSE:
            yield list(atoms[begin:i])
            begin = i


Edges = Callable[[int], Iterator[tuple[int, float]]]
"""From a beginning to each possible end, and what it costs to take all between as one."""


def _cheapest(size: int, edges: Edges) -> list[tuple[int, int]]:
    """Return the beginnings and ends that part `size` things at the least cost in all."""
    cost = [0.0] + [math.inf] * size
    origin = [0] * (size + 1)
    for begin in range(size):
        for end, step in edges(begin):
            if cost[begin] + step < cost[end]:
                cost[end], origin[end] = cost[begin] + step, begin
    parts = []
    end = size
    while end > 0:
        parts.append((origin[end], end))
        end = origin[end]
    return parts[::-1]


# What follows is weighed against 1, the cost of one more cue.
SENTENCE_WITHIN = 1.5  # that a sentence ends within a cue: a cue is one sentence where there is time to read it
UNREAD = 3.0  # each second that a cue lacks to be read
LINE = 10.0  # one more line: text stays on one where it fits
BALANCE = 2.0  # the square of a line's share of its room: two halves cost less than one full and one empty line


def _parting(run: Sequence[_Atom], end: int) -> float:
    """Return what it costs to end a line or a cue before `end`."""
    if end == len(run):
        return 0.0
    last = run[end - 1]
    if last.glued:
        return 4.0
    if last.ends_sentence:
        return 0.0
    if _CLAUSE_END.search(last.text):
        return 0.5
    if last.at_end or run[end].start - last.end >= PAUSE:
        return 1.0
    # Articles, prepositions and conjunctions are short, and belong to what comes.
    return 3.0 if len(last.text) <= 3 and last.text[-1].islower() else 2.0


def _cut(run: Sequence[_Atom], layout: Layout) -> list[list[_Atom]]:
    """Part what is said without a long pause into cues."""
    partings = [_parting(run, end) for end in range(1, len(run) + 1)]
    stops = [atom.ends_sentence for atom in run]

    def cues_from(begin: int) -> Iterator[tuple[int, float]]:
        start = run[begin].start
        lines, row, columns, sentences = 1, 0, 0, 0
        for end in range(begin + 1, len(run) + 1):
            last = run[end - 1]
            is_first = end == begin + 1
            added = last.columns + int(last.has_blank and not is_first)
            columns += added
            row += added
            if row > layout.max_chars_per_line and not is_first:
                lines, row = lines + 1, last.columns
            if not is_first and (lines > layout.max_lines or last.end - start > layout.max_duration):
                return
            shown_until = last.end + LINGER
            if end < len(run):
                shown_until = min(shown_until, run[end].start - layout.min_gap)
            unread = max(0.0, _reading_time(columns, layout) - (shown_until - start))
            share = columns / (layout.max_chars_per_line * layout.max_lines)
            yield end, 1 + partings[end - 1] + SENTENCE_WITHIN * sentences + UNREAD * unread + share**2
            sentences += stops[end - 1]

    return [list(run[begin:end]) for begin, end in _cheapest(len(run), cues_from)]


def _reading_time(columns: int, layout: Layout) -> float:
    return min(max(layout.min_duration, columns / layout.max_chars_per_second), layout.max_duration)


def _lines(cue: Sequence[_Atom], max_columns: int) -> tuple[str, ...]:
    def lines_from(begin: int) -> Iterator[tuple[int, float]]:
        columns = 0
        for end in range(begin + 1, len(cue) + 1):
            is_first = end == begin + 1
            columns += cue[end - 1].columns + int(cue[end - 1].has_blank and not is_first)
            if columns > max_columns and not is_first:
                return
            yield end, LINE + _parting(cue, end) + BALANCE * (columns / max_columns) ** 2

    return tuple(_text(cue[begin:end]) for begin, end in _cheapest(len(cue), lines_from))


def _text(atoms: Sequence[_Atom]) -> str:
    return "".join(f" {atom.text}" if atom.has_blank else atom.text for atom in atoms).strip()


def _timed(cues: Sequence[Sequence[_Atom]], layout: Layout) -> list[Cue]:
    starts: list[float] = []
    for cue in cues:
        # Words that begin at once, as alignment may have it, are shown one after the other all the same.
        starts.append(round(max(cue[0].start, starts[-1] + 0.001 if starts else 0.0), 3))
    timed = []
    for i, (cue, start) in enumerate(zip(cues, starts, strict=True)):
        lines = _lines(cue, layout.max_chars_per_line)
        said = cue[-1].end
        read = start + _reading_time(sum(map(cell_len, lines)), layout)
        end = min(max(said, min(read, said + LINGER)), start + layout.max_duration)
        if i + 1 < len(cues):
            room = starts[i + 1] - start
            end = min(end, start + (room - layout.min_gap if room > 2 * layout.min_gap else room))
        timed.append(Cue(start, round(max(end, start + 0.001), 3), lines))
    return timed
