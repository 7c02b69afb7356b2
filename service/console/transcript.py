"""A transcript as people see it: words marked by probability, times to click, files to download.

Pure functions from the service's answer to HTML; everything that was said is escaped. It keeps and fetches nothing.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

LEVELS = ((0.9, "sure"), (0.6, "unsure"), (0.0, "doubtful"))
"""From this probability on, a word is called this."""

MARKS = {"sure": "no underline", "unsure": "dotted underline", "doubtful": "wavy underline"}

NUMBERS = '<label class="numbers"><input type="checkbox"> Show how probable each word is</label>'
"""Shows the numbers, by the page's CSS, to who has no pointer: one stop of the tab key, and not one a word."""


def level(probability: float) -> str:
    """Return what a word of this probability is called."""
    return next((name for least, name in LEVELS if probability >= least), LEVELS[-1][1])


def clock(seconds: float) -> str:
    """Write a time as minutes and seconds: 1:02.5."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def show_word(word: Mapping[str, Any]) -> str:
    """Mark one word by colour, by its underline and by its number: under the pointer, on a tap, and by `NUMBERS`."""
    name, number = level(word["probability"]), f"{word['probability']:.0%}"
    return (
        f'<span class="w {name}" tabindex="-1" title="{number} ({name})" data-number="{number}">'
        f"{escape(word['word'].strip())}</span>"
    )


def gaps(words: Sequence[Mapping[str, Any]], text: str) -> list[str]:
    """Return what stands in the text before each word: mostly a blank, and nothing in Chinese."""
    found, position = [], 0
    for word in words:
        bare = word["word"].strip()
        at = text.find(bare, position)
        if at < 0:
            found.append(" ")
            continue
        found.append(text[position:at])
        position = at + len(bare)
    return found


def show_words(words: Sequence[Mapping[str, Any]] | None, text: str) -> str:
    """Return the text with its words marked; unmarked where there are none."""
    if not words:
        return escape(text)
    marked = zip(gaps(words, text), words, strict=True)
    return "".join(escape(gap) + show_word(word) for gap, word in marked).strip()


def show_segment(segment: Mapping[str, Any]) -> str:
    """Return a row: a button that plays from here, and the words."""
    text = show_words(segment.get("words"), segment["text"])
    start, end = clock(segment["start"]), clock(segment["end"])
    flags = "".join(f' <em class="flag">{escape(str(flag).replace("_", " "))}</em>' for flag in segment["flags"])
    return (
        f'<li><button type="button" class="from" data-start="{float(segment["start"]):.2f}" '
        f'aria-label="Play from {start}">▶ {start} – {end}</button><span class="said">{text}{flags}</span></li>'
    )


def show(answer: Mapping[str, Any], audio_url: str | None) -> str:
    """Return the whole transcript, with a player if there is audio to hear."""
    player = (
        f'<audio controls preload="metadata" src="{escape(audio_url)}" aria-label="The clip"></audio>'
        if audio_url
        else ""
    )
    facts = [answer["language"] or "no language", f"{answer['duration']:.1f} s", answer["model"]]
    body = (
        '<p class="said">Nobody speaks in it.</p>'
        if answer["no_speech"]
        else f"{NUMBERS}<ol>{''.join(map(show_segment, answer['segments']))}</ol>"
    )
    partial = answer.get("partial")
    warnings = [*answer.get("warnings", []), *([partial["message"]] if partial else [])]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in warnings)
    key = ", ".join(f'<span class="w {name}">{name}</span> ({_range(least)}, {MARKS[name]})' for least, name in LEVELS)
    return (
        f'<section class="transcript" aria-label="Transcript">{player}<p class="facts">{escape(" · ".join(facts))}</p>'
        f'{notes}{body}<p class="key">Words: {key}.</p></section>'
    )


def _range(least: float) -> str:
    return f"from {least:.0%}" if least else f"below {LEVELS[-2][0]:.0%}"


def show_progress(text: str) -> str:
    """Return what is there so far."""
    return f'<section class="transcript" aria-live="polite"><p class="said">{escape(text)} …</p></section>'


def download(name: str, media_type: str, content: str) -> str:
    """Return a link whose file is in the page: nothing is written for it anywhere."""
    encoded = base64.b64encode(content.encode()).decode()
    return f'<a class="file" download="{escape(name)}" href="data:{media_type};base64,{encoded}">{escape(name)}</a>'


def subtitles(segments: Sequence[Mapping[str, Any]], form: str) -> str:
    """Return the segments as srt or vtt, laid out as the service's own."""
    from speech.formats import to_srt, to_vtt
    from speech.subtitles import lay_out

    cues = lay_out([_segment(one) for one in segments])
    return to_srt(cues) if form == "srt" else to_vtt(cues)


def show_downloads(answer: Mapping[str, Any]) -> str:
    """Return links to txt, srt, vtt and json."""
    files = (
        ("transcript.txt", "text/plain;charset=utf-8", answer["text"] + "\n"),
        ("transcript.srt", "application/x-subrip;charset=utf-8", subtitles(answer["segments"], "srt")),
        ("transcript.vtt", "text/vtt;charset=utf-8", subtitles(answer["segments"], "vtt")),
        ("transcript.json", "application/json", json.dumps(answer, ensure_ascii=False, indent=2) + "\n"),
    )
    links = " ".join(download(*file) for file in files)
    return f'<p class="files" aria-label="Download">Download: {links}</p>'


def parts(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what can be corrected at once, as label and value: the whole, if it is 30 s at most, and the segments."""
    found = [("the whole clip", "whole")] if answer["duration"] <= 30 else []
    for number, segment in enumerate(answer["segments"]):
        if segment["end"] - segment["start"] <= 30:
            label = f"{clock(segment['start'])} – {clock(segment['end'])}: {segment['text'][:40].strip()}"
            found.append((label, str(number)))
    return found


def language(answer: dict[str, Any], chosen: str | None) -> str | None:
    """Return the language that is spoken: the one that was chosen, for whoever corrects knows, else what was heard."""
    return chosen or answer["language"]


def part(answer: Mapping[str, Any], value: str) -> tuple[str, dict[str, str]]:
    """Return the text of a part, and the fields that cut it out of the audio."""
    if value == "whole":
        return answer["text"], {}
    segment = answer["segments"][int(value)]
    end = min(segment["end"], answer["duration"])
    return segment["text"].strip(), {"start": f"{segment['start']:.3f}", "end": f"{end:.3f}"}


def _segment(content: Mapping[str, Any]) -> Any:
    from speech.engine import Word
    from speech.transcribe import Segment

    words = content.get("words")
    known = {name: content[name] for name in Segment.__dataclass_fields__ if name in content}
    made = None
    if words is not None:  # the engine's own have their blanks, by which lines are broken
        spaced = zip(gaps(words, content["text"]), words, strict=True)
        made = tuple(Word(**{**word, "word": gap + word["word"].strip()}, tokens=()) for gap, word in spaced)
    return Segment(**{**known, "words": made})
