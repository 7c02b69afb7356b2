"""The registry's versions as people see them: figures with their intervals, aliases, curves, the gate's verdicts.

Pure functions from data to HTML, everything escaped; nothing that a version brought along is shown as HTML.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

UNKNOWN = "–"


def rate(bounds: Any) -> str:
    """Write a rate with its interval: 12.3 % (10.1 – 14.9)."""
    try:
        return f"{bounds['value']:.1%} ({100 * bounds['low']:.1f} – {100 * bounds['high']:.1f})"
    except (TypeError, KeyError, ValueError):
        return UNKNOWN


def difference(bounds: Any) -> str:
    """Write a difference with its interval, in points: −1.2 (−2.0 – −0.3)."""
    try:
        return f"{100 * bounds['value']:+.1f} ({100 * bounds['low']:+.1f} to {100 * bounds['high']:+.1f}) points"
    except (TypeError, KeyError, ValueError):
        return UNKNOWN


def word_error_rates(card: Mapping[str, Any]) -> dict[str, str]:
    """Return a version's WER by language, "all" first; empty where it says nothing that can be read."""
    test = (card["metrics"] or {}).get("test")
    rates = test.get("wer") if isinstance(test, Mapping) else None
    if not isinstance(rates, Mapping):
        return {}
    return {str(name): rate(rates[name]) for name in sorted(rates, key=lambda name: (name != "all", str(name)))}


def show_versions(cards: Sequence[Mapping[str, Any]]) -> str:
    """Return a list of versions, newest first; each opens to its verdicts."""
    if not cards:
        return "<p>There are no versions yet.</p>"
    return f'<section class="versions">{"".join(map(_show_version, cards))}</section>'


def _show_version(card: Mapping[str, Any]) -> str:
    badges = "".join(f' <span class="badge">{escape(alias)}</span>' for alias in card["aliases"])
    served = ' <span class="badge served">served</span>' if card["served"] else ""
    rates = word_error_rates(card)
    figures = (
        _table("On its test set, with 95 % intervals", ("language", "WER"), list(rates.items()))
        if rates
        else '<p class="facts">It was published without figures of a test set.</p>'
    )
    origin = f"made {card['created_at']}"
    if card["parent"]:
        origin += f", trained from {card['parent']}"
    verdicts = "".join(show_verdict(one["file"], one["content"]) for one in reversed(card["verdicts"]))
    return (
        f'<article class="version"><h3><code>{escape(card["id"])}</code>{badges}{served}</h3>'
        f'<p class="facts">{escape(origin)}</p>{figures}{verdicts}</article>'
    )


def show_verdict(file: str, verdict: Mapping[str, Any]) -> str:
    """Return the gate's verdict, from its data; fields that are missing or odd are left out."""
    decision = str(verdict.get("decision") or ("promote" if verdict.get("passed") else "refuse"))
    rows = []
    for name, one in _items(verdict.get("comparisons")):
        if isinstance(one, Mapping):
            clips = str(one.get("clips", UNKNOWN))
            cells = (rate(one.get("base")), rate(one.get("candidate")), difference(one.get("difference")))
            rows.append((name, clips, *cells, str(one.get("outcome") or UNKNOWN)))
    guards = [
        (name, str(one.get("what", "")), str(one.get("outcome", UNKNOWN)))
        for name, one in _items(verdict.get("guards"))
        if isinstance(one, Mapping)
    ]
    said = "".join(
        f"<li>{escape(str(text))}</li>"
        for field in ("reasons", "refusals", "notes")
        for text in _texts(verdict.get(field))
    )
    forced = verdict.get("forced")
    return (
        f'<details><summary>Gate: <b class="{"passed" if decision == "promote" else "not-passed"}">{escape(decision)}'
        f"</b> against {escape(str(verdict.get('base', UNKNOWN)))}</summary>"
        + (f"<p>Promoted nevertheless: {escape(str(forced))}</p>" if forced else "")
        + (_table("Errors", ("clips of", "clips", "base", "candidate", "difference", "outcome"), rows) if rows else "")
        + (_table("What must not be lost", ("guard", "what", "outcome"), guards) if guards else "")
        + (f"<ul>{said}</ul>" if said else "")
        + f'<p class="facts">{escape(str(verdict.get("judged_at", "")))} · {escape(file)}</p></details>'
    )


def show_pictures(pictures: Sequence[tuple[str, bytes]]) -> str:
    """Return curves as pictures; only PNG comes this far."""
    shown = "".join(
        f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        for name, content in pictures
    )
    return f'<section class="curves">{shown}</section>' if shown else "<p>This version has no curves.</p>"


def _items(content: Any) -> list[tuple[str, Any]]:
    return [(str(name), one) for name, one in content.items()] if isinstance(content, Mapping) else []


def _texts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else []


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )
