"""The same clip by several versions, side by side or blind with a vote.

It orders, shows and counts; which version is better on more than one clip is the gate's business.
"""

import json
import random
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from service.console.transcript import NUMBERS, show_words

SAME = "no difference"


def letters(count: int) -> list[str]:
    """Return the names of blind answers: A, B, C."""
    return [chr(ord("A") + number) for number in range(count)]


def blind_order(refs: Sequence[str], rng: random.Random) -> list[str]:
    """Return the versions in an order that nobody can guess."""
    order = list(refs)
    rng.shuffle(order)
    return order


def is_blind(refs: Sequence[str], *, wanted: bool) -> bool:
    """Say whether names are hidden and a vote is asked for: of one version alone, there is nothing to choose."""
    return wanted and len(refs) > 1


def still_ticked(found: Sequence[tuple[str, str]], ticked: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return which versions are ticked when they are listed anew: as the visitor left them, what is new, or else all.

    Args:
        found: what is served now, as `choices` returns it.
        ticked: what was ticked until now.
        known: what was listed until now.
    """
    refs = [ref for _, ref in found]
    return [ref for ref in refs if ref in ticked or ref not in known] or refs


def choices(cards: Sequence[Mapping[str, Any]], served: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return served versions as label and reference: who is production, candidate or base is in the label.

    Args:
        cards: of all versions, as GET /v1/models/{name}/versions lists them.
        served: as GET /version tells of them.
    """
    aliases = {card["ref"]: card["aliases"] for card in cards}
    bases = {version["base"] for version in served if version["base"]}
    found: dict[str, str] = {}
    for version in served:
        ref = version["ref"]
        roles = [*aliases.get(ref, ()), *(["base"] if ref in bases else ())]
        found[ref] = f"{', '.join(roles)} ({ref})" if roles else ref
    return [(label, ref) for ref, label in found.items()]


def show_others(cards: Sequence[Mapping[str, Any]], served: Sequence[Mapping[str, Any]]) -> str:
    """Say how to have the candidate and the base served, too, as far as the registry has them and they are not.

    Args:
        cards: of all versions, as for `choices`.
        served: as for `choices`.
    """
    here = {version["ref"] for version in served}
    candidates = {card["ref"] for card in cards if "candidate" in card["aliases"]}
    bases = {version["base"] for version in served if is_version(version["base"])}
    missing = ["candidate"] if candidates - here else []
    missing += sorted(bases - here - candidates)
    if not missing:
        return ""
    setting = f"WHISPERLOOP_ALSO={','.join(missing)}"
    return f'<p class="facts">To compare with more, start the service with <code>{escape(setting)}</code>.</p>'


def show_answers(answers: Sequence[Mapping[str, Any]], names: Sequence[str], *, blind: bool) -> str:
    """Return the answers as cards, under their names; a blind one shows words only, not their probabilities.

    An answer of nothing but `error` is why there is none; blind, not even that, for it may name the version.
    """
    cards = "".join(map(_card if not blind else _blind_card, names, answers))
    numbers = "" if blind else NUMBERS
    return f'<section class="compared" aria-label="Answers">{numbers}{cards}</section>'


def show_vote(order: Sequence[str], vote: str, counts: Mapping[str, int]) -> str:
    """Return who was who, and what was counted so far."""
    who = "".join(
        f"<li><b>{name}</b> was {escape(ref)}</li>" for name, ref in zip(letters(len(order)), order, strict=True)
    )
    so_far = "".join(f"<li>{escape(ref)}: {count}</li>" for ref, count in sorted(counts.items(), key=lambda o: -o[1]))
    return (
        f'<section aria-live="polite"><p>Thank you: {escape(vote)}.</p><ul>{who}</ul>'
        f"<p>Votes so far, since the service started:</p><ul>{so_far}</ul></section>"
    )


def is_version(base: str | None) -> bool:
    """Say whether what a version is compared with is a version of the registry, and not a name on the Hub."""
    return base is not None and "@" in base and not base.startswith("hub:")


class Votes:
    """Counts votes, and appends them to a file if there is one: versions and the choice, not a word that was said."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._lock = file, threading.Lock()
        self.counts: Counter[str] = Counter()

    def cast(self, order: Sequence[str], vote: str) -> str:
        """Count one vote, for a letter or for no difference; return what was chosen.

        Raises:
            OSError: the file cannot be written to; the vote counts nevertheless.
        """
        by_letter = dict(zip(letters(len(order)), order, strict=True))
        chosen = by_letter.get(vote, SAME)
        with self._lock:
            self.counts[chosen] += 1
            if self._file is not None:
                line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "order": list(order), "chosen": chosen}
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
        return chosen


def _card(name: str, answer: Mapping[str, Any]) -> str:
    if "error" in answer:
        return f'<article><h3>{escape(name)}</h3><p role="alert" class="note">{escape(answer["error"])}</p></article>'
    text = " ".join(show_words(segment["words"], segment["text"]) for segment in answer["segments"])
    text = text or "Nobody speaks in it."
    seconds = answer["timings"]["total"]
    return f'<article><h3>{escape(name)}</h3><p class="said">{text}</p><p class="facts">{seconds:.2f} s</p></article>'


def _blind_card(name: str, answer: Mapping[str, Any]) -> str:
    text = "This one could not answer." if "error" in answer else escape(answer["text"]) or "Nobody speaks in it."
    return f'<article><h3>{escape(name)}</h3><p class="said">{text}</p></article>'
