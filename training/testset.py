"""The clips that `evaluate` and `gate` measure on: of a recipe, of a folder, or of a manifest made before."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry import Version
from speech.tokens import UnknownLanguageError, WhisperTokenizer
from training.config import ConfigError, make_config, read_config
from training.data.manifest import CORRECTIONS, Utterance, fingerprint, read_manifest
from training.prepare import prepare
from training.rules import Rules

Split = Literal["test", "dev", "all"]


@dataclass(frozen=True)
class Clips:
    """What was found."""

    chosen: list[Utterance]  # the split that was asked for
    train: list[Utterance] | None  # what a run of the same recipe trains on; None: the data have no splits
    guards: dict[str, list[Utterance]]  # a recipe's, by language
    audio_root: Path
    fingerprint: str  # of all data, with their splits
    seed: int
    rules: Rules


def read_clips(
    version: Version,
    *,
    config: Path | None,
    folder: Path | None,
    manifest: Path | None,
    language: str | None,
    split: Split,
    cache: Path,
) -> Clips:
    """Read clips from exactly one of a recipe, a folder and a manifest.

    A recipe or folder is split as `python -m training run` splits it, so its test split is what that run did not train
    on. A manifest without splits is taken whole.

    Args:
        version: whose tokenizer checks the rows.
        config: a recipe.
        folder: as in audiofolder.
        manifest: of utterances, such as a run's `manifest.jsonl`.
        language: of the folder's clips, or the only one to take of the others.
        split: "test", "dev", or "all" for a set that nobody trains on.
        cache: folder for what sources download.

    Raises:
        ConfigError: not exactly one of the three, or nothing is left.
    """
    if sum(source is not None for source in (config, folder, manifest)) != 1:
        raise ConfigError("give exactly one of --config FILE, --folder DIR (with --language CODE) and --manifest FILE")
    tokenizer = WhisperTokenizer.from_folder(version.path)
    try:
        code = None if language is None else tokenizer.language_code(language)
    except UnknownLanguageError as error:
        raise ConfigError(str(error)) from error
    seed, rules, audio_root = 1, Rules(), Path()
    rehearsed: list[Utterance] = []
    watched: list[Utterance] = []
    if manifest is not None:
        utterances, audio_root = read_manifest(manifest), manifest.parent
    else:
        source = {"kind": "folder", "path": folder, "language": language}
        settings = read_config(config) if config is not None else make_config("command line", {"sources": [source]})
        seed, rules = settings.seed, settings.gate
        data = prepare(settings, tokenizer, cache)
        utterances, rehearsed, watched = data.utterances, data.replay, data.guards
    has_splits = any(u.split is not None for u in utterances)
    chosen = [
        u
        for u in utterances
        if (split == "all" or not has_splits or u.split == split)
        and (code is None or u.language == code)
        and not (split == "test" and u.source == CORRECTIONS)
    ]
    if not chosen:
        where = manifest or config or folder
        raise ConfigError(f"{where} has no {'' if split == 'all' else split + ' '}clip{f' in {code}' if code else ''}")
    unknown = sorted({u.language for u in chosen} - set(tokenizer.languages))
    if unknown:
        raise ConfigError(f"{version.ref} knows no language {unknown[0]!r}, which the data name")
    train = [*(u for u in utterances if u.split == "train"), *rehearsed] if has_splits else None
    return Clips(chosen, train, guards_of(watched), audio_root, fingerprint(utterances), seed, rules)


def guards_of(watched: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Return the general speech that the gate watches, its test split, by language."""
    guards: dict[str, list[Utterance]] = {}
    for utterance in watched:
        if utterance.split == "test":
            guards.setdefault(utterance.language, []).append(utterance)
    return guards


def read_guard(manifest: Path) -> list[Utterance]:
    """Read a guard set: all of a manifest's clips, or its test split if it has splits; paths made absolute."""
    utterances = read_manifest(manifest)
    has_test = any(u.split == "test" for u in utterances)
    root = manifest.parent.resolve()
    return [
        u.model_copy(update={"audio": u.audio.model_copy(update={"path": str(root / u.audio.path)})})
        for u in utterances
        if (not has_test or u.split == "test") and u.source != CORRECTIONS
    ]
