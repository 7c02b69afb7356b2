"""From a config's sources to utterances with splits, and a report of what was left out and why."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from speech.tokens import UnknownLanguageError, WhisperTokenizer
from training.config import AsteriskSource, ConfigError, Source, TrainingConfig
from training.data.general import divide
from training.data.manifest import Utterance, fingerprint
from training.data.report import DataReport, Dropped
from training.data.sources.asterisk import fetch, read_asterisk
from training.data.sources.folder import read_folder
from training.data.splits import split

TEST_SHARE, MAX_TEST_CLIPS = 5, 96  # a fifth
DEV_SHARE, MAX_DEV_CLIPS = 20, 24


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
        SourceUnavailableError: the Asterisk prompts cannot be fetched here.
    """
    utterances: list[Utterance] = []
    dropped: list[Dropped] = []
    for source in config.sources:
        for read_utterances, read_dropped in _read(source, tokenizer, cache):
            utterances += read_utterances
            dropped += read_dropped
    general: dict[str, list[Utterance]] = {"replay": [], "guards": []}
    for name, sources in (("replay", config.replay), ("guards", config.guards)):
        for source in sources:
            for read_utterances, read_dropped in _read(source, tokenizer, cache):
                general[name] += read_utterances
                dropped += read_dropped
    report = DataReport.of(utterances, dropped)
    report.write(cache / "last-report.json")  # also of what is refused here
    report.check()
    for language in sorted({utterance.language for utterance in (*utterances, *chain(*general.values()))}):
        if language not in tokenizer.languages:
            raise ConfigError(f"the base model knows no language {language!r}, which the data names")
    counts = [sum(u.language == code for u in utterances) for code in {u.language for u in utterances}]
    try:
        divided, leaked = split(
            utterances,
            seed=config.seed,
            test_per_language=config.test_clips or min(MAX_TEST_CLIPS, max(1, min(counts) // TEST_SHARE)),
            dev_per_language=config.dev_clips or min(MAX_DEV_CLIPS, max(1, min(counts) // DEV_SHARE)),
        )
    except ValueError as error:
        raise ConfigError(f"cannot split the data: {error}; test_clips and dev_clips set the sizes") from error
    if not any(utterance.split == "train" for utterance in divided):
        raise ConfigError("no clip is left to train on: lower test_clips and dev_clips, or bring more data")
    replay, guards = divide(
        general["replay"], general["guards"], [u for u in divided if u.split != "train"], seed=config.seed
    )
    for name, wanted, there in (("replay", config.replay, replay), ("guards", config.guards, guards)):
        if wanted and not there:
            raise ConfigError(f"{name}: no clip is left of it: too few sentences, or all are in dev and test, too")
    report = DataReport.of(divided, [*dropped, *leaked])
    return Data(divided, report, fingerprint([*divided, *replay, *guards]), replay, guards)


def _read(source: Source, tokenizer: WhisperTokenizer, cache: Path) -> Iterator[tuple[list[Utterance], list[Dropped]]]:
    def count_tokens(text: str) -> int:
        return len(tokenizer.encode(text))

    if isinstance(source, AsteriskSource):
        root = fetch(list(source.languages), cache / "asterisk")
        for language in source.languages:
            yield read_asterisk(root, language, cache / "asterisk-audio", count_tokens=count_tokens)
    else:
        try:
            code = None if source.language is None else tokenizer.language_code(source.language)
        except UnknownLanguageError as error:
            raise ConfigError(str(error)) from error
        yield read_folder(source.path, language=code, text_column=source.text_column, count_tokens=count_tokens)
