"""What no gain makes up for: each function returns sentences, one a reason to refuse, or nothing.

Plain rules on plain data, without statistics. Who wants a version in production nevertheless must say so (`--force`)
and why; docs/training/gate.md lists them all.
"""

import json
from collections.abc import Mapping, Sequence

from registry import Version
from speech.scores import corpus_rate
from training.data.manifest import FINGERPRINT_FORMAT, Utterance
from training.data.overlap import Known
from training.evaluate import Hypothesis, by_language

MAX_MORE_EMPTY = 0.01
"""The share of clips that are answered with nothing may rise by this, and in any case by one clip."""

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")
"""Weights that run code when they are loaded, or that nobody can read without it; CTranslate2's own is none of them."""


def of_hypotheses(
    base: Sequence[Hypothesis], candidate: Sequence[Hypothesis], zero_shot: Sequence[Hypothesis] | None
) -> list[str]:
    """Refuse what makes more errors than there are words, is worse than no training at all, or answers with nothing.

    Args:
        base: of production, for the same clips in the same order.
        candidate: of the version that is judged.
        zero_shot: of the model that training started from; None: it is `base`, or was not measured.
    """
    reasons = []
    untrained = by_language(zero_shot or [])
    for language, group in by_language(candidate).items():
        rate = corpus_rate([h.errors for h in group])
        if rate > 1:
            reasons.append(
                f"{language}: {rate:.0%} of the words are wrong: more than there are; is the language right?"
            )
        if language in untrained and rate > (before := corpus_rate([h.errors for h in untrained[language]])):
            reasons.append(
                f"{language}: {rate:.3f} is worse than the {before:.3f} of the model that training began with"
            )
    empty = [sum(not h.hypothesis.strip() and bool(h.sentence) for h in hypotheses) for hypotheses in (base, candidate)]
    more = empty[1] - empty[0]
    if more > max(1, MAX_MORE_EMPTY * len(candidate)):
        reasons.append(
            f"{empty[1]} of {len(candidate)} clips are answered with nothing; production does so with {empty[0]}"
        )
    return reasons


def of_overlap(train: Sequence[Utterance], test: Sequence[Utterance]) -> list[str]:
    """Refuse a test that was trained on: the same sentence of a language, or the same stretch of the same file."""
    known = Known(train)
    read = [u.id for u in test if known.has_sentence(u)]
    listened = [u.id for u in test if known.has_audio(u)]
    return [
        f"{len(ids)} of {len(test)} test clips have {what} that was trained on, such as {ids[0]}"
        for ids, what in ((read, "a sentence"), (listened, "audio"))
        if ids
    ]


def of_version(version: Version, *, test: str | None = None, data: str | None = None) -> tuple[list[str], list[str]]:
    """Look at what lies in a version: its weights, its export's parity, and what it says that it was made from.

    Args:
        version: that is judged.
        test: fingerprint that its own test set must have; None where it is judged on another.
        data: fingerprint that its data must have; None where they are not there to compare.

    Returns:
        Reasons to refuse, and notes on what could not be looked at.
    """
    reasons, notes = [], []
    files = version.manifest.files
    if not any(name.endswith(".safetensors") for name in files):
        reasons.append("the weights are not in safetensors")
    pickled = [name for name in files if name.endswith(PICKLES) and not name.startswith("ctranslate2/")]
    if pickled:
        reasons.append(f"{pickled[0]} is in a format that can run code when it is loaded")
    metrics = _read(version, "metrics.json")
    parity = metrics.get("parity")
    if not isinstance(parity, Mapping):
        notes.append("whether the export says what the checkpoint says was not recorded with this version")
    elif message := _parity(parity):
        reasons.append(message)
    for what, expected, content in (
        ("test set", test, metrics.get("test")),
        ("data", data, _read(version, "data.json")),
    ):
        found = content.get("fingerprint") if isinstance(content, Mapping) else None
        if expected is not None and found != expected:
            reasons.append(
                f"the version's own {what} has the fingerprint {str(found)[:16]}, and this is {expected[:16]}"
            )
    return reasons, notes


def of_changed_recipe(version: Version, data: str) -> list[str]:
    """Refuse a recipe whose data are not those that a version was trained on: its test set may hold what was learned.

    Args:
        version: that is judged; one that does not say what it was made from is not refused.
        data: fingerprint of the recipe's data, as they are now.
    """
    made_from = data_fingerprint(version)
    if made_from in {None, data}:
        return []
    why = (
        "the recipe's data or test_clips have changed since it was trained, so clips that it has learned may be among "
        "those it is judged by: train again, or judge it by clips of their own (--manifest, --folder)"
    )
    return [why]


def data_fingerprint(version: Version) -> str | None:
    """Return the fingerprint of the data that a version was made from; None if it does not say, as it is taken now."""
    content = _read(version, "data.json")
    found = content.get("fingerprint") if content.get("fingerprint_format") == FINGERPRINT_FORMAT else None
    return found if isinstance(found, str) else None


def _parity(parity: Mapping[str, object]) -> str | None:
    from training.parity import Parity, ParityError

    measured = Parity.model_validate(parity)
    return None if measured.holds else str(ParityError(measured)).split(":")[0]


def _read(version: Version, name: str) -> Mapping[str, object]:
    if name not in version.manifest.files:
        return {}
    content = json.loads((version.path / name).read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
