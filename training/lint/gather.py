"""What is to be linted: a config's sources, read and split as training would, or a manifest as it is.

Where training would refuse the data, that is a finding, and what was left out is told all the same.
"""

from dataclasses import dataclass
from pathlib import Path

from speech.tokens import WhisperTokenizer
from training.config import ConfigError, TrainingConfig
from training.data.manifest import Utterance, read_manifest
from training.data.report import DataReport, Dropped, TooManyDroppedError
from training.lint.report import Finding, finding
from training.prepare import prepare


@dataclass(frozen=True)
class Gathered:
    """What there is to lint."""

    utterances: list[Utterance]
    dropped: tuple[Dropped, ...]
    audio_root: Path
    findings: tuple[Finding, ...] = ()
    drawn: frozenset[str] = frozenset()


def gather(config: TrainingConfig, manifest: Path | None, tokenizer: WhisperTokenizer, cache: Path) -> Gathered:
    """Read the data.

    Args:
        config: of the run whose data it is.
        manifest: to read instead of the config's sources.
        tokenizer: of the base.
        cache: folder for what is downloaded.

    Raises:
        ManifestError: a line of the manifest is no utterance.
        ConfigError: there is no such manifest, or a source cannot be read.
    """
    if manifest is not None:
        if not manifest.is_file():
            raise ConfigError(f"--manifest {manifest}: there is no such file")
        return Gathered(read_manifest(manifest), (), manifest.parent)
    report = cache / "last-report.json"  # `prepare` writes it as soon as the sources are read
    report.unlink(missing_ok=True)
    try:
        data = prepare(config, tokenizer, cache)
    except (ConfigError, TooManyDroppedError) as error:
        if not report.is_file():  # the sources themselves cannot be read
            raise
        dropped = DataReport.model_validate_json(report.read_bytes()).dropped
        message = str(error).split("\n", maxsplit=1)[0]
        return Gathered([], dropped, Path(), (finding("refused", more=message),))
    return Gathered(data.utterances, data.report.dropped, Path(), drawn=data.drawn)
