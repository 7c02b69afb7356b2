"""Lint's report as one HTML file: verdict, findings, and the worst clips with players, to be judged by ear.

Nothing is loaded from anywhere: style and sound are in the file, and it has no script. It holds private speech and
transcripts, and says so. All that comes from the data is escaped.
"""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from html import escape
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE
from speech.text import normalize
from training.data.manifest import Utterance, load_audio
from training.lint.report import Cost, Finding, LintReport, Suspect

WORST = 100
IDS_SHOWN = 12
BIT_RATE = 32_000
"""Of the embedded MP3, which every browser plays: 4 KB a second; a hundred prompts are 2 MB."""

KINDS = {
    "mispaired": "another clip's transcript was heard",
    "wrong_transcript": "wrong transcript",
    "incomplete_transcript": "words are missing, or too many",
    "hard_audio": "the base is not sure: hard to hear",
    "misheard": "misheard",
}

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --bad: #c62828; --good: #2e7d32; --warn: #b26a00; }
* { box-sizing: border-box; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
.verdict { border-left: .4rem solid var(--good); padding: .5rem .8rem; background: var(--soft); }
.verdict.error { border-color: var(--bad); }
.private { font-size: .9rem; } .small { font-size: .85rem; opacity: .75; }
ul.findings { list-style: none; padding: 0; }
.findings li, .clip { border-top: 1px solid var(--line); padding: .7rem 0; }
.tag { font: .8rem/1 ui-monospace, monospace; padding: .2rem .4rem; border-radius: .3rem; border: 1px solid; }
.error .tag { color: var(--bad); } .warning .tag { color: var(--warn); } .clip.label .tag { color: var(--bad); }
.ids { font: .8rem ui-monospace, monospace; opacity: .8; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin-bottom: .8rem; }
td, th { padding: .25rem .7rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.clip p { margin: .35rem 0; overflow-wrap: anywhere; } .clip audio { width: 100%; max-width: 30rem; height: 2.5rem; }
.clip b { font-weight: 600; display: inline-block; min-width: 6.5rem; font-size: .85rem; opacity: .7; }
del { color: var(--bad); text-decoration-thickness: 1px; } ins { color: var(--good); text-decoration: underline; }
"""

Load = Callable[[Utterance], NDArray[np.float32]]


def write_page(path: Path, report: LintReport, utterances: Sequence[Utterance], audio_root: Path) -> None:
    """Write the page; the worst clips' audio is read from `audio_root` and put into the file."""
    by_id = {u.id: u for u in utterances}
    page = render(report, by_id, lambda utterance: load_audio(utterance, audio_root))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)


def render(report: LintReport, utterances: Mapping[str, Utterance], load: Load) -> str:
    """Return the page's text."""
    errors, warnings = report.errors, report.warnings
    verdict = f"{_count(len(errors), 'error')}, {_count(len(warnings), 'warning')}"
    worst = report.suspects[:WORST]
    blamed = sum(s.is_label_error for s in report.suspects)
    listened = (
        f"{report.base} listened to {report.listened} clips and heard something else in {len(report.suspects)}; of "
        f"{blamed} of these the transcript is probably wrong. They come first, the surest at the top."
        if report.base
        else "No model listened (--no-model)."
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; media-src data:">
<title>Lint: {verdict}</title><style>{STYLE}</style></head><body>
<h1>Lint of a data set</h1>
<p class="private">This page holds speech and transcripts of the data set: keep it as private as they are.</p>
<div class="verdict {"error" if errors else ""}"><strong>{verdict}.</strong>
{"Mend the errors before training." if errors else "Nothing here forbids training."}</div>
<h2>Findings</h2>{_findings(report.findings)}
<h2>Data</h2>{_data(report)}
<h2>What the held-out clips can decide</h2>{_power(report)}
{"" if report.cost is None else f"<h2>Cost</h2><p>{escape(cost_line(report.cost))}</p>"}
<h2>The worst {len(worst)} clips</h2>
<p>{escape(listened)} <del>Only in the transcript</del>, <ins>only heard</ins>.</p>
{"".join(_clip(rank, suspect, utterances, load) for rank, suspect in enumerate(worst, start=1))}
<p class="small">Data set {escape(report.fingerprint[:16])}. All clips and ids: the JSON report.</p>
</body></html>
"""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _findings(findings: Iterable[Finding]) -> str:
    items = []
    for one in findings:
        more = len(one.ids) - IDS_SHOWN
        details = one.details or ("",) * len(one.ids)
        ids = "<br>".join(
            escape(f"{name}: {detail}" if detail else name)
            for name, detail in list(zip(one.ids, details, strict=True))[:IDS_SHOWN]
        )
        listed = f'<details><summary class="small">which</summary><div class="ids">{ids}' if ids else ""
        listed += f"<br>and {more} more" if more > 0 else ""
        listed += "</div></details>" if ids else ""
        accepted = " (accepted)" if one.accepted else ""
        items.append(
            f'<li class="{one.level}"><span class="tag">{one.level} {escape(one.code)}{accepted}</span> '
            f"{escape(one.what)}. <em>{escape(one.todo)}.</em>{listed}</li>"
        )
    return f'<ul class="findings">{"".join(items)}</ul>' if items else "<p>None.</p>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    def cell(value: str | int) -> str:
        is_number = isinstance(value, int) or value.replace(".", "").isdigit()
        return f"<td{' class=n' if is_number else ''}>{escape(str(value))}</td>"

    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{titles}</tr>{body}</table></div>'


def _data(report: LintReport) -> str:
    rows = [
        (language, split, kept.clips, f"{kept.seconds / 60:.1f}")
        for language, splits in report.kept.items()
        for split, kept in splits.items()
    ]
    text = _table(("language", "split", "clips", "minutes"), rows)
    if report.scores:
        scores = [
            (
                language,
                score.clips,
                f"{score.wer:.3f} [{score.low:.3f}, {score.high:.3f}]",
                "" if score.without_suspects is None else f"{score.without_suspects:.3f}",
            )
            for language, score in report.scores.items()
        ]
        text += _table(("language", "listened to", "the base's WER", "without suspected transcripts"), scores)
    return text


def _power(report: LintReport) -> str:
    rows = [
        (
            where,
            one.clips,
            one.words,
            f"{one.wer:.3f}{'' if one.measured else ' (assumed spread)'}",
            f"{one.detectable:.3f}",
            f"{one.more_clips} more clips to show {one.wanted:.3f}" if one.more_clips else "enough",
        )
        for where, one in report.power.items()
    ]
    head = ("set", "clips", "words", "the base's WER", "smallest difference found in 8 of 10 trials", "needed")
    return _table(head, rows) if rows else "<p>No clip is held out.</p>"


def cost_line(cost: Cost) -> str:
    """Say in one line what training will take."""
    price = "" if cost.price is None else f", price {cost.price:,.2f}"
    return (
        f"{cost.hours:.2f} h of training audio; {cost.steps_per_epoch} steps an epoch, {cost.steps} steps or "
        f"{cost.epochs:.1f} epochs; {cost.seconds_per_step:.2f} s a step ({cost.how}): {cost.training_hours:.2f} h of "
        f"training{price}; {cost.disk_gb:.1f} GB of disk"
    )


def _clip(rank: int, suspect: Suspect, utterances: Mapping[str, Utterance], load: Load) -> str:
    reference, hypothesis = mark_differences(suspect.reference, suspect.hypothesis)
    utterance = utterances[suspect.id]
    elsewhere = utterances.get(suspect.heard_elsewhere or "")
    other = (
        f"<p><b>that is of</b> {escape(elsewhere.id)}: {escape(elsewhere.text)}</p>" if elsewhere is not None else ""
    )
    return f"""<div class="clip {"label" if suspect.is_label_error else ""}">
<p>{rank}. <span class="tag">{KINDS[suspect.kind]}</span> <span class="ids">{escape(suspect.id)}</span></p>
<audio controls preload="none" src="data:audio/mpeg;base64,{embed(load(utterance))}"></audio>
<p><b>transcript</b> {reference}</p><p><b>heard</b> {hypothesis or "<em>nothing</em>"}</p>{other}
<p class="small">{escape(suspect.language)} {escape(suspect.split)}, {utterance.audio.duration:.1f} s,
WER {suspect.wer:.2f}, CER {suspect.cer:.2f}, avg_logprob {suspect.avg_logprob:.2f}, score {suspect.score:.2f}</p></div>
"""


def mark_differences(reference: str, hypothesis: str) -> tuple[str, str]:
    """Return both texts as HTML, escaped, words that only one has in `del` and `ins`; case and marks do not count."""
    ours, heard = reference.split(), hypothesis.split()
    matcher = SequenceMatcher(None, [normalize(w) for w in ours], [normalize(w) for w in heard], autojunk=False)
    left, right = [], []
    for operation, i, j, k, m in matcher.get_opcodes():
        left.append(_words(ours[i:j], "" if operation == "equal" else "del"))
        right.append(_words(heard[k:m], "" if operation == "equal" else "ins"))
    return " ".join(filter(None, left)), " ".join(filter(None, right))


def _words(words: Sequence[str], tag: str) -> str:
    text = escape(" ".join(words))
    return f"<{tag}>{text}</{tag}>" if tag and text else text


def embed(samples: NDArray[np.float32]) -> str:
    """Return 16 kHz mono samples as MP3 in base64."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="mono", bit_rate=BIT_RATE)
        pcm = np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm[None, :], format="s16p", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return base64.b64encode(buffer.getvalue()).decode()
