"""What can be set for each kind of source, in a config's `[[sources]]`.

Nothing secret belongs here, and `refuse_secrets` sees to it: a Hub token comes from the environment (`HF_TOKEN`) or the
Hub's own login (`hf auth login`), where its client finds it.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.data.manifest import SplitName

SECRET_NAME = re.compile(r"(?:^|[_-])(?:token|secret|password|credentials?|api_?key)$", re.IGNORECASE)
SECRET_VALUE = re.compile(r"hf_\w{20,}|://[^/\s]+:[^/\s]+@|[?&](?:password|token|secret)=")
"""A user token of the Hub; a name and a password in an address."""

COMMIT = re.compile(r"[0-9a-f]{40}")


class Section(BaseModel):
    """A part of the config: fixed once read, no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AnySource(Section):
    """What every source has."""

    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """How often each of its training clips comes in one pass: 2 is twice, 0.25 a quarter of them (`data/mix.py`)."""
    use: SplitName | None = None
    """What the clips are for that the source itself puts into no split; the run's own split decides if not said."""


class FolderSource(AnySource):
    """A folder with `metadata.csv` or `metadata.jsonl`, as in Hugging Face's audiofolder."""

    kind: Literal["folder"] = "folder"
    path: Path
    """The folder; no file outside it is read."""
    language: str | None = None
    """Of the clips that name none themselves."""
    text_column: str | None = None
    """Where the transcript is; found by its name if not said."""


class HubSource(AnySource):
    """A data set of the Hugging Face Hub in parquet, or a folder that holds such a one."""

    kind: Literal["hub"] = "hub"
    dataset: str | None = None
    """Its name on the Hub, such as `google/fleurs`."""
    revision: str | None = None
    """The commit to read, 40 hexadecimal digits: a branch would be another data set tomorrow. The page "Files and
    versions" of the data set shows it. Where that holds a loading script, take the last commit of its branch
    `refs/convert/parquet`."""
    path: Path | None = None
    """In place of `dataset` and `revision`: a folder with the data set's files, as `hf download` leaves them."""
    config: str | None = None
    """Which of the data set's configurations, such as `it_it`."""
    split: str | None = None
    """Read this split only, such as `train`, or `train[:10%]` if not streamed; `use` says what it is for. If not said,
    the splits called train, validation (or dev) and test are read, and their clips stay what they are."""
    language: str | None = None
    """Of all clips; needed where there is no `language_column`."""
    language_column: str | None = None
    """Where each clip's language is."""
    text_column: str | None = None
    """Where the transcript is; found by its name if not said, and printed."""
    audio_column: str | None = None
    """Where the sound is; found by its type if not said, and printed."""
    speaker_column: str | None = None
    """Who speaks; found by its name if not said, and printed."""
    sentence_column: str | None = None
    """What sentence it is, where several read the same (`id` in FLEURS); found by its name if not said, and printed."""
    streaming: bool = False
    """Read over the network up to `max_clips` or `max_hours`, rather than download the whole data set first."""
    max_clips: Annotated[int, Field(ge=1)] | None = None
    """Clips a split at most, taken at random."""
    max_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours a split at most, taken at random."""
    shuffle_buffer: Annotated[int, Field(ge=1)] = 256
    """Clips among which streaming draws the next one; they are held in memory. 1 takes them as they come, which may
    well be one speaker after the other."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("name either dataset (on the Hub) or path (a folder)")
        if self.dataset is not None and COMMIT.fullmatch(self.revision or "") is None:
            raise ValueError(
                "revision must be the commit to read, 40 hexadecimal digits; the Hub shows it under Files and versions"
            )
        if self.path is not None and self.revision is not None:
            raise ValueError("revision is of a dataset on the Hub, and path is a folder: drop one of them")
        if (self.language is None) == (self.language_column is None):
            raise ValueError("name either language (of all clips) or language_column")
        if self.streaming and self.max_clips is None and self.max_hours is None:
            raise ValueError("streaming needs a bound: max_clips or max_hours")
        if self.streaming and self.split is not None and not self.split.isidentifier():
            raise ValueError(f"streaming reads whole splits, not {self.split!r}: bound it with max_clips or max_hours")
        if self.split is None and self.use is not None:
            raise ValueError("use says what the clips of one split are for: name that split")
        return self


class CommonVoiceSource(AnySource):
    """A release of Mozilla's Common Voice from datacollective.mozillafoundation.org: the archive, or what was in it."""

    kind: Literal["common_voice"] = "common_voice"
    path: Path
    """The `.tar.gz` (or `.tar`), or the folder that it was unpacked to."""
    locale: str | None = None
    """Which of the languages in it, such as `it` or `zh-CN`; needed if there are several."""
    language: str | None = None
    """Whisper's code; from the locale if not said."""
    splits: Literal["official", "validated"] = "official"
    """`official`: train.tsv, dev.tsv and test.tsv, in which a sentence is read once. `validated`: dev and test are the
    official ones, and train is all of validated.tsv whose speaker and whose sentence are in neither of them."""


class NemoSource(AnySource):
    """A manifest of NVIDIA NeMo: JSON lines with `audio_filepath`, `duration`, `text`, and `offset`, `lang` if any."""

    kind: Literal["nemo"] = "nemo"
    path: Path
    """The manifest."""
    root: Path | None = None
    """The folder that relative paths start from and below which all audio must lie; the manifest's if not said."""
    language: str | None = None
    """Of the clips that name none themselves."""
    text_column: str = "text"
    """Where the transcript is."""


class KaldiSource(AnySource):
    """A data directory of Kaldi: `wav.scp` and `text`, and `segments`, `utt2spk`, `utt2lang` if any."""

    kind: Literal["kaldi"] = "kaldi"
    path: Path
    """The directory."""
    root: Path | None = None
    """The folder that relative paths start from and below which all audio must lie; the directory itself if not
    said."""
    language: str | None = None
    """Of the clips that `utt2lang` does not name."""


class SubtitlesSource(AnySource):
    """Long recordings with their subtitles beside them: `talk.mp3` and `talk.srt`, `talk.vtt` or `talk.it.srt`."""

    kind: Literal["subtitles"] = "subtitles"
    path: Path
    """The folder; folders in it are looked into, and one called train, dev, validation or test at its top is a
    split."""
    language: str | None = None
    """Of the subtitles whose name does not say it."""
    max_pause_s: Annotated[float, Field(ge=0, le=30)] = 3.0
    """A longer pause between two cues ends a window: it may hold speech that nobody wrote down."""
    keep_silence: bool = False
    """Make clips without words of the pauses longer than `max_pause_s` in which the voice detector hears nobody."""


class CorrectionsSource(AnySource):
    """What users corrected in the service; never for the test set, for it is what the model gets wrong."""

    kind: Literal["corrections"] = "corrections"
    url: str | None = None
    """The database, as the service's `WHISPERLOOP_CORRECTIONS`, which is taken if not said: a password belongs
    there."""
    language: str | None = None
    """Only corrections of this language, by Whisper's code; all if not said."""
    use: Literal["train", "dev"] | None = None
    """What the clips are for; the run's own split decides between train and dev if not said."""


class AsteriskSource(AnySource):
    """The Asterisk telephone prompts of Debian: real voices, free licences, about 20 minutes a language."""

    kind: Literal["asterisk"] = "asterisk"
    languages: tuple[str, ...]
    """Codes such as `it`; Debian has en, es, fr, it and ru."""


Source = Annotated[
    FolderSource
    | HubSource
    | CommonVoiceSource
    | NemoSource
    | KaldiSource
    | SubtitlesSource
    | CorrectionsSource
    | AsteriskSource,
    Field(discriminator="kind"),
]


def resolve_paths(content: dict[str, Any], folder: Path) -> None:
    """Make the sources' relative paths start from `folder`, the config's own."""
    for source in (source for part in ("sources", "replay", "guards") for source in content.get(part, [])):
        for name in ("path", "root"):
            if isinstance(source, dict) and isinstance(source.get(name), str):
                source[name] = folder / source[name]


def refuse_secrets(content: object, place: str = "config") -> None:
    """Refuse a config that holds what looks like a token or a password, and say where, but never what.

    Raises:
        ValueError: it does.
    """
    if isinstance(content, dict):
        for name, value in content.items():
            if SECRET_NAME.search(str(name)):
                raise ValueError(_why_no_secret(f"{place}.{name}"))
            refuse_secrets(value, f"{place}.{name}")
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            refuse_secrets(value, f"{place}.{number}")
    elif isinstance(content, str) and SECRET_VALUE.search(content):
        raise ValueError(_why_no_secret(place))


def _why_no_secret(place: str) -> str:
    return (
        f"{place.removeprefix('config.')} looks like a secret, and a config is no place for one: take it out, make a "
        "new one, and set HF_TOKEN in the environment or run `hf auth login`"
    )
