"""A verdict as a page for people: what was decided, on which numbers, and every utterance side by side, with its sound.

One file without scripts or links, which a phone shows as well. It holds the speech that was judged on, and lies in the
run's folder: it is never part of a version, and never pushed. What curves training logged is read from TensorBoard's
files; nothing else is computed here.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE, AudioError
from speech.scores import align
from speech.text import normalize
from training.curves import read_curves
from training.data.manifest import Utterance, load_audio
from training.evaluate import Hypothesis
from training.gate import Comparison, GuardComparison, Verdict
from training.guards import Measured

MAX_PLAYERS = 200
"""Clips that can be heard, the worst; a second of sound is 4 kB, and a phone must load them all."""

MAX_ROWS = 1000
MAX_CLIP_S = 60.0
BIT_RATE = 24_000

TITLES = {
    "promote": ("Better: may go into production", "yes"),
    "refuse": ("Refused: production stays", "no"),
    "undecided": ("Not enough data to decide", "open"),
}

POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:; img-src data:"
"""Nothing is fetched, and no script runs, whatever a transcript says."""

PRIVATE = """<p class="private"><b>Private.</b> This page holds the speech that was judged on. It stays in the run's
folder: it is neither published with the version nor pushed to a hub.</p>"""

LEGEND = """<p class="soft">First where the candidate lost most. <mark>Another word</mark>, <ins>a word too many</ins>,
<del>a word left out</del>; case and punctuation are no errors.</p>"""

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1a1a1a;--soft:#666;--line:#d8d8d8;--card:#f6f6f4;
--yes:#1a7f37;--no:#b3261e;--open:#8a5a00;--bad:#ffd9d6;--new:#dbe9ff;--gone:#8a8a8a}
@media(prefers-color-scheme:dark){:root{--bg:#161616;--fg:#ececec;--soft:#a2a2a2;--line:#3a3a3a;--card:#202020;
--yes:#4cc46a;--no:#ff7b72;--open:#e0a83a;--bad:#5c2723;--new:#203a63;--gone:#8a8a8a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--bg);color:var(--fg);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.yes{color:var(--yes)}.no{color:var(--no)}.open{color:var(--open)}.soft{color:var(--soft);font-size:.9rem}
.private{border:1px solid var(--line);border-left:.3rem solid var(--open);padding:.5rem .75rem;background:var(--card)}
li{margin:.25rem 0}
svg{width:100%;max-width:42rem;height:auto;display:block}svg text{fill:var(--fg);font:13px system-ui,sans-serif}
svg .soft{fill:var(--soft)}svg line{stroke:var(--line)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;overflow-wrap:normal;min-width:2.5rem;padding:.3rem .5rem;
border-bottom:1px solid var(--line);vertical-align:top}
th{white-space:nowrap}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}
article{background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.6rem .75rem;margin:.6rem 0}
article header{display:flex;flex-wrap:wrap;gap:.25rem .75rem;align-items:baseline;font-size:.85rem;color:var(--soft)}
article audio{width:100%;height:2.2rem;margin:.3rem 0}
dl{display:grid;grid-template-columns:6.5rem 1fr;gap:.15rem .5rem;margin:.2rem 0 0}dt{color:var(--soft)}dd{margin:0}
@media(max-width:30rem){dl{grid-template-columns:1fr}dt{font-size:.8rem}}
mark{background:var(--bad);color:inherit;text-decoration:underline wavy var(--no) 1px}
ins{background:var(--new);text-decoration:underline}del{color:var(--gone)}
"""


def write_page(
    path: Path,
    verdict: Verdict,
    before: Sequence[Hypothesis],
    after: Sequence[Hypothesis],
    test: Sequence[Utterance],
    audio_root: Path,
    measured: tuple[Measured, Measured] | None,
    logs: Path | None = None,
) -> None:
    """Write the page of a verdict.

    Args:
        path: the file.
        verdict: to be shown.
        before: hypotheses of production.
        after: of the candidate, for the same clips in the same order.
        test: the clips, by whose ids they are found.
        audio_root: what relative audio paths start from.
        measured: what was measured beside, of both.
        logs: folder with TensorBoard's files of the candidate's training, if there is one.
    """
    rows = worst_first(before, after)
    clips = {u.id: u for u in test}
    players = {}
    for _, one in rows[:MAX_PLAYERS]:
        if one.id in clips and (sound := sound_of(clips[one.id], audio_root)) is not None:
            players[one.id] = sound
    html = page(verdict, rows, players, measured, {} if logs is None else shown_curves(logs))
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(path)


def worst_first(before: Sequence[Hypothesis], after: Sequence[Hypothesis]) -> list[tuple[Hypothesis, Hypothesis]]:
    """Return both hypotheses of each clip: first where the candidate lost most, then where it is worst."""

    def order(pair: tuple[Hypothesis, Hypothesis]) -> tuple[int, int]:
        was, now = (h.errors.errors for h in pair)
        return was - now, -now

    return sorted(zip(before, after, strict=True), key=order)


def page(
    verdict: Verdict,
    rows: Sequence[tuple[Hypothesis, Hypothesis]],
    players: Mapping[str, str],
    measured: tuple[Measured, Measured] | None,
    curves: Mapping[str, Sequence[tuple[int, float]]],
) -> str:
    """Return the page; every text in it is escaped here."""
    title, kind = TITLES[verdict.decision]
    if verdict.forced is not None:
        title, kind = f"{title}; promoted by force", "open"
    parts = [
        f'<h1 class="{kind}">{escape(title)}</h1>',
        f"<p><b>{escape(verdict.candidate)}</b> against <b>{escape(verdict.base)}</b>, {len(rows)} clips.</p>",
        f'<p class="soft">Judged at {verdict.judged_at:%Y-%m-%d %H:%M} UTC.</p>',
        PRIVATE,
    ]
    if verdict.forced is not None:
        parts.append(f"<p>Promoted by force, for this reason: <b>{escape(verdict.forced)}</b></p>")
    if verdict.more_utterances:
        parts.append(f"<p><b>{verdict.more_utterances:,} more utterances</b> are needed for a decision.</p>")
    parts += [_list(verdict.reasons), _list(verdict.notes, "soft")]
    if curves:
        parts.append("<h2>Training</h2>")
        parts += [curve(name, points) for name, points in curves.items()]
    parts += ["<h2>Difference to production</h2>", intervals(verdict.comparisons)]
    if verdict.guards:
        parts += ["<h2>Guards</h2>", guard_intervals(verdict.guards)]
    if measured is not None:
        parts += [_sounds(measured), _long(measured)]
    parts += [
        "<h2>Utterances</h2>",
        LEGEND,
    ]
    parts += [_row(was, now, players.get(now.id)) for was, now in rows[:MAX_ROWS]]
    if len(rows) > MAX_ROWS:
        parts.append(f'<p class="soft">{len(rows) - MAX_ROWS} better ones are left out.</p>')
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex">\n'
        f"<title>{escape(title)}: {escape(verdict.candidate)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _list(lines: Iterable[str], kind: str = "") -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def intervals(comparisons: Mapping[str, Comparison]) -> str:
    """Draw each language's difference with its 95 % interval; left of the line is better."""
    rows = [
        (name, one.difference.low, one.difference.value, one.difference.high, _kind(one.better, one.difference.low > 0))
        for name, one in comparisons.items()
    ]
    table = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{one.clips}</td><td>{one.n_blocks or ""} {escape(one.blocks)}s</td>'
        f'<td class="n">{one.base}</td><td class="n">{one.candidate}</td><td class="n">{one.difference}</td>'
        f"<td>{_pairs(one)}</td></tr>"
        for name, one in comparisons.items()
    )
    return _forest(rows) + _table(("", "clips", "resampled", "production", "candidate", "difference", "MAPSSWE"), table)


def _table(head: Sequence[str], rows: str) -> str:
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    return f'<div class="scroll"><table><tr>{cells}</tr>{rows}</table></div>'


def _pairs(one: Comparison) -> str:
    return "" if one.matched_pairs is None else f"p = {one.matched_pairs.p:.3g}, {one.matched_pairs.segments} segments"


def guard_intervals(guards: Mapping[str, GuardComparison]) -> str:
    """Draw each guard's difference in units of its margin; what reaches the second line is too much."""
    rows = []
    for name, one in guards.items():
        low, value, high = (x / one.margin for x in (one.difference.low, one.difference.value, one.difference.high))
        rows.append((name, low, value, high, _kind(one.outcome == "kept", one.outcome == "lost")))
    table = "".join(
        f'<tr><td>{escape(name)}</td><td>{escape(one.what)}</td><td class="n">{one.n}</td>'
        f'<td class="n">{one.base:.3f}</td><td class="n">{one.candidate:.3f}</td>'
        f'<td class="n">{one.difference}</td><td class="n">{one.margin:g}</td>'
        f'<td class="{_kind(one.outcome == "kept", one.outcome == "lost")}">{one.outcome}</td></tr>'
        for name, one in guards.items()
    )
    head = ("", "what", "n", "production", "candidate", "difference", "margin", "outcome")
    return _forest(rows, limit=1.0) + _table(head, table)


def _kind(good: bool, bad: bool) -> str:
    return "yes" if good else "no" if bad else "open"


def _forest(rows: Sequence[tuple[str, float, float, float, str]], limit: float | None = None) -> str:
    """Draw intervals one below the other: a dot, a line from end to end, and the line of no difference."""
    width, edge, step = 440, 12, 44
    ends = [abs(end) for _, low, _, high, _ in rows for end in (low, high)]
    span = max([*ends, 1e-9, *([1.2 * limit] if limit else [])])
    if limit:
        span = min(span, 4 * limit)  # what is far beyond the margin is beyond it, however far

    def x(value: float) -> float:
        return edge + (max(-span, min(span, value)) + span) / (2 * span) * (width - 2 * edge)

    height = step * len(rows) + 34
    lines = [f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{height - 30}"/>']
    if limit:
        lines.append(
            f'<line x1="{x(limit):.1f}" x2="{x(limit):.1f}" y1="0" y2="{height - 30}" style="stroke:var(--no)" '
            f'stroke-dasharray="4 3"/><text class="soft" x="{x(limit):.1f}" y="{height - 14}" '
            'text-anchor="middle">margin</text>'
        )
    for i, (name, low, value, high, kind) in enumerate(rows):
        y = step * i + 30
        lines.append(
            f'<text x="0" y="{y - 14}">{escape(name[:40])}</text>'
            f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}" stroke-width="3" '
            f'style="stroke:var(--{kind})"/>'
            f'<circle cx="{x(value):.1f}" cy="{y}" r="5" style="fill:var(--{kind})"/>'
        )
    lines.append(
        f'<text class="soft" x="0" y="{height - 14}">← better</text>'
        f'<text class="soft" x="{width}" y="{height - 14}" text-anchor="end">worse →</text>'
        f'<text class="soft" x="{x(0):.1f}" y="{height - 14}" text-anchor="middle">0</text>'
    )
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="intervals">{"".join(lines)}</svg>'


def curve(name: str, points: Sequence[tuple[int, float]]) -> str:
    """Draw what training logged, by step."""
    width, height, left, bottom = 440, 130, 44, 22
    steps, values = [s for s, _ in points], [v for _, v in points]
    high, first, last = max([*values, 1e-9]), min(steps), max(steps)

    def at(step: int, value: float) -> str:
        along = (step - first) / max(1, last - first)
        return f"{left + along * (width - left - 10):.1f},{8 + (1 - value / high) * (height - bottom - 8):.1f}"

    dots = "".join(
        '<circle cx="{}" cy="{}" r="3" style="fill:var(--fg)"/>'.format(*at(s, v).split(",")) for s, v in points
    )
    line = " ".join(at(s, v) for s, v in points)
    return (
        f'<p class="soft">{escape(name)}: {values[0]:.3f} → {values[-1]:.3f}</p>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">'
        f'<line x1="{left}" x2="{width - 10}" y1="{height - bottom}" y2="{height - bottom}"/>'
        f'<polyline points="{line}" fill="none" style="stroke:var(--fg)" stroke-width="1.5"/>'
        f"{dots if len(points) < 30 else ''}"
        f'<text class="soft" x="0" y="14">{high:.3f}</text><text class="soft" x="0" y="{height - bottom}">0</text>'
        f'<text class="soft" x="{left}" y="{height - 4}">{first}</text>'
        f'<text class="soft" x="{width - 10}" y="{height - 4}" text-anchor="end">step {last}</text></svg>'
    )


def shown_curves(logs: Path) -> dict[str, Sequence[tuple[int, float]]]:
    """Return what training logged of losses and error rates; nothing if there are no logs."""
    return {
        tag: finite
        for tag, points in read_curves(logs).items()
        if tag.endswith(("loss", "wer", "cer")) and len(finite := [p for p in points if np.isfinite(p[1])]) > 1
    }


def _sounds(measured: tuple[Measured, Measured]) -> str:
    rows = "".join(
        f"<tr><td>{escape(b.name)}</td><td>{escape(b.undetected) or '–'}</td><td>{escape(a.undetected) or '–'}</td>"
        f"<td>{escape(a.served) or '–'}</td></tr>"
        for b, a in zip(measured[0].sounds, measured[1].sounds, strict=True)
    )
    head = ("", "production", "candidate", "candidate as served, with voice detector")
    return f"<h2>Made of no speech</h2>{_table(head, rows)}" if rows else ""


def _long(measured: tuple[Measured, Measured]) -> str:
    texts = "".join(
        f"<article><header><span>{escape(a.language)}</span><span>{a.seconds / 60:.1f} min</span></header><dl>"
        f"<dt>reference</dt><dd>{escape(a.reference)}</dd>"
        f"<dt>production</dt><dd>{marked(b.reference, b.hypothesis)}</dd>"
        f"<dt>candidate</dt><dd>{marked(a.reference, a.hypothesis)}</dd></dl></article>"
        for b, a in zip(measured[0].long_form, measured[1].long_form, strict=True)
    )
    return f"<details><summary>Long recordings, word for word</summary>{texts}</details>" if texts else ""


def _row(was: Hypothesis, now: Hypothesis, player: str | None) -> str:
    sound = f'<audio controls preload="metadata" src="{player}"></audio>' if player else ""
    speaker = f"<span>{escape(now.speaker)}</span>" if now.speaker else ""
    return (
        f"<article><header><span>{escape(now.id)}</span><span>{escape(now.language)}</span>{speaker}"
        f"<span>errors {was.errors.errors} → {now.errors.errors} of {now.errors.reference} {now.unit}</span>"
        f"</header>{sound}<dl>"
        f"<dt>reference</dt><dd>{escape(now.reference)}</dd>"
        f"<dt>production</dt><dd>{marked(was.reference, was.hypothesis, was.unit == 'characters')}</dd>"
        f"<dt>candidate</dt><dd>{marked(now.reference, now.hypothesis, now.unit == 'characters')}</dd></dl></article>"
    )


def marked(reference: str, hypothesis: str, by_character: bool = False) -> str:
    """Return a hypothesis as HTML in which is marked what differs from the reference, after normalisation."""
    wanted, heard = (_pieces(text, by_character) for text in (reference, hypothesis))
    pieces = []
    for step in align([key for key, _ in wanted], [key for key, _ in heard]):
        shown = escape(wanted[step.reference][1] if step.kind == "delete" else heard[step.hypothesis][1])
        tag = {"equal": "", "substitute": "mark", "insert": "ins", "delete": "del"}[step.kind]
        pieces.append(f"<{tag}>{shown}</{tag}>" if tag else shown)
    return ("" if by_character else " ").join(pieces) or '<span class="soft">(nothing)</span>'


def _pieces(text: str, by_character: bool) -> list[tuple[str, str]]:
    """Return what is compared and what is shown of each word; a sign that is no word goes with the one before."""
    pieces: list[tuple[str, str]] = []
    for shown in list(text) if by_character else text.split():
        if key := normalize(shown):
            pieces.append((key, shown))
        elif pieces:
            joint = "" if by_character else " "
            pieces[-1] = (pieces[-1][0], f"{pieces[-1][1]}{joint}{shown}")
    return pieces


def sound_of(utterance: Utterance, audio_root: Path) -> str | None:
    """Return a clip as the MP3 data of an address that an audio element takes; None if it cannot be had."""
    if utterance.audio.duration > MAX_CLIP_S:
        return None
    try:
        audio = load_audio(utterance, audio_root)
    except (AudioError, OSError, ValueError):
        return None
    return "data:audio/mpeg;base64," + base64.b64encode(to_mp3(audio)).decode()


def to_mp3(audio: NDArray[np.float32]) -> bytes:
    """Encode 16 kHz mono audio as MP3, which every browser plays."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp3") as output:
        stream = output.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = BIT_RATE
        stream.format = "s16p"
        samples = (np.clip(audio, -1, 1) * 32767).astype(np.int16)
        for start in range(0, samples.size, SAMPLE_RATE):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + SAMPLE_RATE], format="s16p", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()
