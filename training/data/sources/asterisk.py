"""Asterisk's telephone prompts as Debian packages them: one professional voice and about 300 sentences a language.

Fetches and unpacks the packages without root, reads the transcripts, and writes each usable prompt as a plain
16 kHz WAV file. The 16 kHz G.722 recordings are used, as the 8 kHz WAV ones lack the upper half of the speech band.
Transcripts are scripts for a speaker, not what was heard: whatever shows that the two differ is left out by rule.
"""

import gzip
import logging
import os
import re
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from speech.audio import SAMPLE_RATE, AudioError, decode_audio
from speech.text import normalize
from training.data.checks import MAX_SECONDS, CountTokens, Row, admit, drop, drop_undecodable
from training.data.manifest import Utterance
from training.data.report import Dropped

logger = logging.getLogger(__name__)

G722_BYTES_PER_SECOND = 8000
"""G.722 is a bare stream of 64 kbit/s, so a file's size is its length."""

LICENCES = {"it": "CC-BY-3.0", "ru": "CC-BY-3.0"}
DEFAULT_LICENCE = "CC-BY-SA-3.0"
"""As the packages' own copyright file says, per language."""

SOUND_EFFECTS = frozenset(
    {
        "ascending-2tone",
        "beep",
        "beeperr",
        "confbridge-join",
        "confbridge-leave",
        "descending-2tone",
        "tt-monkeys",
    }
)
"""Prompts that nobody speaks; some languages describe them without brackets."""

CONTINUATION = re.compile(r"^(?:\.{2,}|…|\s)+|(?:\.{2,}|…|:|\s)+$")
BRACKETS = re.compile(r"[][(){}<>]")
SYMBOLS = re.compile(r"[*#]")
QUOTES = "«»“”\"'()"


class SourceUnavailableError(RuntimeError):
    """The prompts cannot be had here; the message says what to use instead."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The Asterisk prompts cannot be fetched: {why}. Use speech of your own instead: "
            "python -m training run --folder DIR, DIR holding clips and a metadata.csv with the "
            "columns file_name and text; a data set of the Hub, downloaded to a folder, is one too."
        )


def fetch(languages: Iterable[str], into: Path) -> Path:
    """Download and unpack the packages of some languages, unless that was done before.

    Args:
        languages: codes such as "it".
        into: the cache folder.

    Returns:
        The folder that `read_asterisk` reads.

    Raises:
        SourceUnavailableError: no apt-get or dpkg, no such package, or no way to reach it.
    """
    into = into.absolute()
    for language in languages:
        # Written last, so that an interrupted run starts over.
        marker = into / f".{_source(language)}.complete"
        if marker.exists():
            logger.info("%s: already in %s", _source(language), into)
            continue
        for program in ("apt-get", "dpkg"):
            if shutil.which(program) is None:
                raise SourceUnavailableError(f"this machine has no {program}")
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into) as folder:
            _download([_source(language), f"{_source(language)}-g722"], Path(folder))
            for package in sorted(Path(folder).glob("*.deb")):
                logger.info("unpacking %s", package.name)
                _run(["dpkg", "-x", str(package), str(into)], into)
        marker.touch()
    return into


def read_asterisk(
    root: Path, language: str, audio_dir: Path, *, count_tokens: CountTokens | None = None
) -> tuple[list[Utterance], list[Dropped]]:
    """Read one language's prompts and write the usable ones as WAV files.

    Args:
        root: what `fetch` returned.
        language: a code such as "it".
        audio_dir: where the WAV files go; those already there are kept.
        count_tokens: see `checks.admit`.

    Returns:
        Utterances with absolute audio paths, and the prompts left out.

    Raises:
        FileNotFoundError: the language is not unpacked under `root`.
    """
    voice = _voice_folder(root, language)
    transcripts = root / f"usr/share/doc/{_source(language)}/core-sounds-{language}.txt.gz"
    prompts = parse_transcripts(gzip.decompress(transcripts.read_bytes()))
    keys = {key for key, _ in prompts}
    sounds = {path.relative_to(voice).with_suffix("").as_posix() for path in voice.rglob("*.g722")}
    prompts += [(key, "") for key in sorted(sounds - keys)]

    rows: list[Row] = []
    dropped: list[Dropped] = []
    for key, text in prompts:
        recording = voice / f"{key}.g722"
        row = Row(
            id=f"asterisk-{language}/{key}",
            path=(audio_dir / language / f"{key}.wav").absolute(),
            text=CONTINUATION.sub("", text),
            language=language,
            source=_source(language),
            speaker=voice.name,
            licence=LICENCES.get(language, DEFAULT_LICENCE),
        )
        reason = _own_rule(key, row.text, recording, keys)
        if reason is not None:
            dropped.append(drop(row, reason, repr(text), by_source_rule=True))
            continue
        try:
            _convert(recording, row.path)
        except AudioError as error:
            dropped.append(drop_undecodable(row, error))
            continue
        rows.append(row)
    utterances, faulty = admit(rows, count_tokens=count_tokens)
    return utterances, dropped + faulty


def parse_transcripts(raw: bytes) -> list[tuple[str, str]]:
    """Return (path without extension, text) for each line `path: text`, white space folded.

    Lines are decoded one by one: files exist that mix UTF-8 and Latin-1.
    """
    prompts = []
    for encoded in raw.split(b"\n"):
        try:
            line = encoded.decode("utf-8")
        except UnicodeDecodeError:
            line = encoded.decode("latin-1")
        line = " ".join(line.replace("\ufeff", "").split())
        if line and not line.startswith(";"):
            key, _, text = line.partition(":")
            prompts.append((key.strip(), text.strip()))
    return prompts


def lost_accents(text: str) -> bool:
    """Tell whether a `?` or a replacement character stands where a letter was.

    A question mark ends a word, and after it the text ends or a new sentence begins.
    """
    for mark in re.finditer(r"\?+", text):
        before = text[: mark.start()].rstrip(QUOTES)
        after = text[mark.end() :].lstrip("!" + QUOTES)
        ends_word = before[-1:].isalnum()
        ends_sentence = not after or (after[0].isspace() and not after.lstrip(" " + QUOTES)[:1].islower())
        if not (ends_word and ends_sentence):
            return True
    return "\ufffd" in text


def _own_rule(key: str, text: str, recording: Path, keys: set[str]) -> str | None:
    """Name the first rule by which this source leaves a prompt out, if there is one."""
    size = recording.stat().st_size if recording.is_file() else None
    rules = {
        "silence": key.startswith("silence/"),
        "no_audio": size is None,
        "no_transcript": not text,
        "stage_direction": key in SOUND_EFFECTS or BRACKETS.search(text),
        "id_in_text": any(word.endswith(":") and word[:-1] in keys for word in text.split()),
        "lost_accents": lost_accents(text),
        "symbol_for_word": SYMBOLS.search(text),
        "one_word": len(normalize(text).split()) < 2,
        "over_30_s": (size or 0) > MAX_SECONDS * G722_BYTES_PER_SECOND,
    }
    return next((reason for reason, applies in rules.items() if applies), None)


def _source(language: str) -> str:
    return f"asterisk-core-sounds-{language}"


def _voice_folder(root: Path, language: str) -> Path:
    sounds = root / "usr/share/asterisk/sounds"
    for folder in sorted(sounds.glob(f"{language}_*")):
        if any(folder.rglob("*.g722")):
            return folder
    raise FileNotFoundError(f"no .g722 files in {sounds}/{language}_*: fetch {language!r} first")


def _convert(recording: Path, wav: Path) -> None:
    """Write a recording as 16 kHz mono 16-bit WAV; a file already there is whole, so it stays."""
    if wav.exists():
        return
    samples = decode_audio(recording)
    wav.parent.mkdir(parents=True, exist_ok=True)
    partial = wav.with_suffix(f".{os.getpid()}.part")
    with wave.open(str(partial), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes())
    partial.replace(wav)


def _download(packages: list[str], folder: Path) -> None:
    """Download packages, after refreshing apt's lists if it does not know them."""
    logger.info("downloading %s", ", ".join(packages))
    command = ["apt-get", "download", *packages]
    try:
        _run(command, folder)
    except SourceUnavailableError:
        logger.info("refreshing apt's package lists")
        try:
            _run(["apt-get", "update"], folder)
        except SourceUnavailableError as error:
            raise SourceUnavailableError(
                "apt does not have the packages, and apt-get update, which needs root, failed too"
            ) from error
        _run(command, folder)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SourceUnavailableError(f"`{' '.join(command)}` failed: {last}")
