"""From a config's sources to utterances with splits, and a report of what was left out and why."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from speech.tokens import UnknownLanguageError, WhisperTokenizer
from training.config import ConfigError, TrainingConfig
from training.data.general import divide
from training.data.manifest import CORRECTIONS, Utterance, fingerprint
from training.data.overlap import Known
from training.data.report import DataReport, Dropped
from training.data.sources.asterisk import fetch, read_asterisk
from training.data.sources.common_voice import read_common_voice
from training.data.sources.config import (
    AsteriskSource,
    CommonVoiceSource,
    CorrectionsSource,
    FolderSource,
    HubSource,
    KaldiSource,
    NemoSource,
    Source,
    SubtitlesSource,
)
from training.data.sources.corrections import read_corrections
from training.data.sources.folder import read_folder
from training.data.sources.hub import read_hub
from training.data.sources.kaldi import read_kaldi
from training.data.sources.nemo import read_nemo
from training.data.sources.subtitles import read_subtitles
from training.data.speakers import hold_out_speakers
from training.data.splits import limit_dev, split

TEST_SHARE, MAX_TEST_CLIPS = 5, 96  # a fifth
DEV_SHARE, MAX_DEV_CLIPS = 20, 24
MAX_GIVEN_DEV_CLIPS = 100


@dataclass(frozen=True)
class Data:
    """A run's utterances."""

    utterances: list[Utterance]
    report: DataReport
    fingerprint: str
    replay: list[Utterance] = field(default_factory=list)
    """General speech to rehearse."""
    guards: list[Utterance] = field(default_factory=list)
    """General speech to watch: its dev split in choices, its test split at the gate."""
    drawn: frozenset[str] = frozenset()
    """Languages whose test set no source gave: the run drew it."""

    def of(self, name: str) -> list[Utterance]:
        """Return the utterances of a split."""
        return [utterance for utterance in self.utterances if utterance.split == name]


def prepare(config: TrainingConfig, tokenizer: WhisperTokenizer, cache: Path) -> Data:
    """Read all sources, check every row, and split.

    Args:
        config: of the run.
        tokenizer: of the base, to count label tokens and to know the languages.
        cache: folder for what is downloaded.

    Raises:
        TooManyDroppedError: more than 5 % of the rows are faulty; the counts are in the message.
        ConfigError: a language that the base does not know, or too few clips.
        SourceError: a source as a whole cannot be read.
        SourceUnavailableError: the Asterisk prompts cannot be fetched here.
    """
    folders: Folders = {}
    utterances, dropped = _gather(config.sources, tokenizer, cache, config.seed, folders)
    utterances, untested = _tested(utterances)
    dropped += untested
    parts = {"sources": DataReport.of(utterances, dropped)}
    general: dict[str, list[Utterance]] = {}
    for name, sources in (("replay", config.replay), ("guards", config.guards)):
        general[name], dropped_here = _gather(sources, tokenizer, cache, config.seed, folders)
        parts |= {name: DataReport.of(general[name], dropped_here)} if dropped_here else {}
        dropped = [*dropped, *dropped_here]
    DataReport.of(utterances, dropped).write(cache / "last-report.json")  # also of what is refused here
    for name, part in parts.items():  # each by itself: neither hides the other's faults
        part.check(name)
    for language in sorted({utterance.language for utterance in (*utterances, *chain(*general.values()))}):
        if language not in tokenizer.languages:
            raise ConfigError(f"the base model knows no language {language!r}, which the data names")
    _refuse_untested(utterances)
    free = [utterance for utterance in utterances if utterance.split is None]
    eligible = Counter(utterance.language for utterance in free if utterance.source != CORRECTIONS)
    all_free = Counter(utterance.language for utterance in free)
    languages = {utterance.language for utterance in utterances}
    sizes = {
        "test_per_language": {
            code: config.test_clips or min(MAX_TEST_CLIPS, max(1, eligible[code] // TEST_SHARE)) for code in languages
        },
        "dev_per_language": {
            code: config.dev_clips or min(MAX_DEV_CLIPS, max(1, all_free[code] // DEV_SHARE)) for code in languages
        },
    }
    never_test = {utterance.id for utterance in utterances if utterance.source == CORRECTIONS}
    apart, beyond = hold_out_speakers(utterances, seed=config.seed, never_test=never_test, **sizes)
    try:
        divided, leaked = split(apart, seed=config.seed, never_test=never_test, **sizes)
    except ValueError as error:
        raise ConfigError(f"cannot split the data: {error}; test_clips and dev_clips set the sizes") from error
    if not any(utterance.split == "train" for utterance in divided):
        raise ConfigError("no clip is left to train on: lower test_clips and dev_clips, or bring more data")
    for what, held_out in _measured(divided):
        if all(utterance.no_speech for utterance in held_out):
            raise ConfigError(f"{what} is silences alone, of which there is no error rate: bring clips with words")
    divided, spare = limit_dev(divided, config.dev_clips or MAX_GIVEN_DEV_CLIPS, seed=config.seed)
    leaked += [*beyond, *spare]
    divided = [u if u.split == "train" else u.model_copy(update={"weight": 1.0}) for u in divided]
    watched, trained = _untrained(general["guards"], [u for u in divided if u.split == "train"])
    leaked += trained
    replay, guards = divide(general["replay"], watched, [u for u in divided if u.split != "train"], seed=config.seed)
    for name, wanted, there in (("replay", config.replay, replay), ("guards", config.guards, guards)):
        if wanted and not there:
            raise ConfigError(f"{name}: no clip is left of it: too few sentences, or all are in dev and test, too")
    report = DataReport.of(divided, [*dropped, *leaked])
    drawn = languages - {utterance.language for utterance in utterances if utterance.split == "test"}
    return Data(divided, report, _fingerprint(divided, replay, guards), replay, guards, frozenset(drawn))


def _fingerprint(divided: Iterable[Utterance], replay: Iterable[Utterance], guards: Iterable[Utterance]) -> str:
    """Return what these data are known by: the same clips in other parts are other data."""
    parts = [fingerprint(part) for part in (divided, replay, guards)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _measured(divided: Iterable[Utterance]) -> Iterator[tuple[str, list[Utterance]]]:
    """Yield each set that has an error rate of its own: a language's test set, and dev, whose languages share one."""
    sets: dict[str, list[Utterance]] = {}
    for utterance in divided:
        if utterance.split == "dev":
            sets.setdefault("the dev set", []).append(utterance)
        elif utterance.split == "test":
            sets.setdefault(f"{utterance.language}: the test set", []).append(utterance)
    yield from sets.items()


Folders = dict[str, list[Path]]
"""What a source is called → where those of that name lie, in the order in which the recipe names them."""


def _gather(
    sources: Iterable[Source], tokenizer: WhisperTokenizer, cache: Path, seed: int, folders: Folders
) -> tuple[list[Utterance], list[Dropped]]:
    """Read sources, each clip once, with the use and the weight of its source."""
    found: dict[str, Utterance] = {}
    dropped: list[Dropped] = []
    for source in sources:
        for read_utterances, read_dropped in _read(source, tokenizer, cache, seed):
            renamed = _renamed(source, folders)
            for utterance in read_utterances:
                use = {"split": utterance.split or source.use, "weight": source.weight}
                named = utterance.model_copy(update=use | renamed(utterance))
                if (first := found.get(named.id)) is None:
                    found[named.id] = named
                else:
                    dropped.append(_named_twice(named, first))
            dropped += [row.model_copy(update=renamed(row)) for row in read_dropped]
    return list(found.values()), dropped


def _renamed(source: Source, folders: Folders) -> Callable[[Utterance | Dropped], dict[str, str]]:
    """Return what gives a row the id and the source that it goes by.

    Folders of one name are common (`it/clips`, `ru/clips`), as are Kaldi's ids that begin anew. A name tells rows,
    speakers and sentences of one source only, so the second folder of a name gets a number: `folder:clips~2`.
    """
    path = getattr(source, "path", None)
    if path is None:
        return lambda _row: {}

    def rename(row: Utterance | Dropped) -> dict[str, str]:
        same_name = folders.setdefault(row.source, [])
        if path.resolve() not in same_name:
            same_name.append(path.resolve())
        number = same_name.index(path.resolve()) + 1
        return {} if number == 1 else {"id": f"{row.id}~{number}", "source": f"{row.source}~{number}"}

    return rename


def _tested(utterances: list[Utterance]) -> tuple[list[Utterance], list[Dropped]]:
    """Leave out corrections in languages in which there is nothing to test on: nobody would see what they do."""
    tested = {one.language for one in utterances if one.source != CORRECTIONS and one.split in {None, "test"}}
    kept, dropped = [], []
    for one in utterances:
        if one.source == CORRECTIONS and one.language not in tested:
            detail = f"no other source has {one.language!r} to test on, and corrections are never a test set"
            dropped.append(
                Dropped(id=one.id, source=one.source, reason="no_test_set", detail=detail, by_source_rule=True)
            )
        else:
            kept.append(one)
    return kept, dropped


def _refuse_untested(utterances: list[Utterance]) -> None:
    """Refuse a language of which all is given for training or dev: nothing could be drawn to judge by.

    Raises:
        ConfigError: there is one.
    """
    tested = {one.language for one in utterances if one.split in {None, "test"}}
    for language in sorted({one.language for one in utterances} - tested):
        raise ConfigError(
            f"{language}: all clips are given for training or dev, as exported corrections are, and none is left to "
            'judge by: name other speech beside them in a recipe (--config), as a source with use = "test"'
        )


def _untrained(guards: list[Utterance], train: list[Utterance]) -> tuple[list[Utterance], list[Dropped]]:
    """Leave out guards whose sentence or audio is trained on: the gate would refuse, after all the training."""
    known = Known(train)
    kept, dropped = [], []
    for one in guards:
        if known.has_sentence(one) or known.has_audio(one):
            detail = f"it is trained on: {one.text!r}"
            dropped.append(
                Dropped(id=one.id, source=one.source, reason="trained_guard", detail=detail, by_source_rule=True)
            )
        else:
            kept.append(one)
    return kept, dropped


def _named_twice(utterance: Utterance, first: Utterance) -> Dropped:
    where = f"a source before, {first.source}, has a clip of this name"
    return Dropped(id=utterance.id, source=utterance.source, reason="duplicate_id", detail=where)


def _read(
    source: Source, tokenizer: WhisperTokenizer, cache: Path, seed: int
) -> Iterator[tuple[list[Utterance], list[Dropped]]]:
    def count_tokens(text: str) -> int:
        return len(tokenizer.encode(text))

    if isinstance(source, AsteriskSource):
        root = fetch(list(source.languages), cache / "asterisk")
        for language in source.languages:
            yield read_asterisk(root, language, cache / "asterisk-audio", count_tokens=count_tokens)
        return
    if source.language is not None:
        try:
            source = source.model_copy(update={"language": tokenizer.language_code(source.language)})
        except UnknownLanguageError as error:
            raise ConfigError(str(error)) from error
    match source:
        case FolderSource():
            text_column = source.text_column
            yield read_folder(source.path, language=source.language, text_column=text_column, count_tokens=count_tokens)
        case HubSource():
            yield read_hub(source, cache / "hub", seed=seed, count_tokens=count_tokens)
        case CommonVoiceSource():
            yield read_common_voice(source, cache / "common-voice", count_tokens=count_tokens)
        case NemoSource():
            yield read_nemo(source, cache / "clips", count_tokens=count_tokens)
        case KaldiSource():
            yield read_kaldi(source, cache / "clips", count_tokens=count_tokens)
        case CorrectionsSource():
            yield read_corrections(source, cache / "corrections", count_tokens=count_tokens)
        case SubtitlesSource():
            yield read_subtitles(source, cache / "clips", count_tokens=count_tokens)
