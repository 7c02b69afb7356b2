"""What every measure is given: the version, the clips, the contenders, and rounds that are saved as they end."""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import clips, environment
from benchmarks.accuracy import compare
from benchmarks.clips import Clip
from benchmarks.entries import WordErrors
from benchmarks.rounds import Round, Rounds
from benchmarks.servers import Command
from benchmarks.workers import ROOT, Worker
from registry import Version
from speech.engine.tuning import Tuning
from training.shell import Shell

FASTER_WHISPER = "faster-whisper 1.2.1, int8"
SHORT_CLIPS_A_LANGUAGE = 32
THREADS = 2
"""Of every contender, whatever the machine has: the targets are for two cores."""


@dataclass(frozen=True)
class LongFile:
    """A long file on the disk."""

    path: Path
    language: str
    text: str


@dataclass(frozen=True)
class Bench:
    """One run of the benchmarks.

    Attributes:
        runs: the project's folder for data and versions.
        folder: where rounds, clips, logs and the peers live: runs/bench.
        registry: the registry's folder.
        version: what is measured.
        clips: held-out clips, by length.
        rounds: timed rounds; they count for this code only.
        texts: untimed passes of the peers; they count for this version and these peers.
        shell: says how far it is.
        full: all clips for all contenders, and more rounds.
        peers: the peers' interpreter.
        tuning: how our engine is best run here, which the service reads from its cache.
    """

    runs: Path
    folder: Path
    registry: Path
    version: Version
    clips: Sequence[Clip]
    rounds: Rounds
    texts: Rounds
    shell: Shell
    full: bool
    peers: Path
    tuning: Tuning

    @property
    def n_rounds(self) -> int:
        """Return how often a timed round is repeated."""
        return 9 if self.full else 5

    @cached_property
    def short_clips(self) -> list[Clip]:
        """Return clips of each language over all lengths, in no order."""
        return clips.spread(self.clips, len(self.clips) if self.full else SHORT_CLIPS_A_LANGUAGE)

    @cached_property
    def long_file(self) -> LongFile:
        """Return the ten-minute file, of the first language's clips."""
        language = min(clip.language for clip in self.clips)
        folder = self.folder / "clips" / self.version.id
        path = folder / f"long-{language}.wav"
        text = path.with_suffix(".txt")
        if not text.is_file():
            every, unheard = clips.of_language(self.version, self.runs, language, folder)
            text.write_text(clips.write_long_file(every, unheard, path), encoding="utf-8")
        return LongFile(path, language, text.read_text(encoding="utf-8"))

    def ours(self, tuning: Mapping[str, Any] | None = None) -> Worker:
        """Return our engine with its defaults, or with some of `speech.engine.tuning.Tuning`."""
        options = {
            "version": str(self.version.path),
            "context": dict(self.version.manifest.context),
            "tuning": tuning,
        }
        return Worker(Path(sys.executable), "whisperloop", options, self.log("whisperloop"))

    def faster_whisper(self, threads: int = THREADS, workers: int = 1, *, batch_size: int | None = None) -> Worker:
        """Return faster-whisper; with a batch size, its `BatchedInferencePipeline`."""
        options = {
            "model": str(self.version.path / "ctranslate2"),
            "threads": threads,
            "workers": workers,
            "batch_size": batch_size,
        }
        return Worker(self.peers, "faster_whisper", options, self.log("faster-whisper"))

    def service(self) -> Command:
        """Return how our service is started, with its default settings, and tuned."""
        environment = {
            "WHISPERLOOP_REGISTRY": str(self.registry),
            "WHISPERLOOP_MODEL": self.version.ref,
            "WHISPERLOOP_CACHE": str(self.folder / "cache"),
        }
        arguments = (sys.executable, "-m", "service", "--port", "{port}")
        return Command("our service", arguments, environment, self.log("service"))

    def faster_whisper_server(self) -> Command:
        """Return how faster-whisper's service is started."""
        arguments = (
            *(str(self.peers), "-m", "benchmarks.peers.faster_whisper_server", "--port", "{port}"),
            *("--model", str(self.version.path / "ctranslate2"), "--threads", str(THREADS)),
        )
        return Command("faster-whisper's server", arguments, {}, self.log("faster-whisper-server"))

    def log(self, name: str) -> Path:
        """Return a log file."""
        return self.folder / "logs" / f"{name}.log"

    def interleave(
        self, measure: str, n_rounds: int, contenders: Mapping[str, Callable[[], Round]]
    ) -> dict[str, list[Round]]:
        """Run round 1 of every contender, then round 2 of every one; what was saved before is not run again.

        A machine that is slow for a minute is slow for all of them.
        """
        done: dict[str, list[Round]] = {name: [] for name in contenders}
        with self.shell.progress(measure, n_rounds * len(contenders)) as advance:
            for number in range(n_rounds):
                for name, run_round in contenders.items():
                    result = self.rounds.get(measure, name, number)
                    if result is None:
                        result = self.rounds.add(measure, name, number, run_round())
                    done[name].append(result)
                    advance(1)
        return done

    def word_errors(self) -> WordErrors:
        """Score our engine and faster-whisper over all held-out clips, in one untimed pass of each."""
        name = FASTER_WHISPER
        theirs = self.texts.get("texts", name, 0)
        if theirs is None:
            self.shell.say(f"word errors: one pass of {name} over {len(self.clips)} clips")
            with self.faster_whisper() as peer:
                theirs = self.texts.add("texts", name, 0, peer.transcribe(files(self.clips), one_by_one=True))
        ours = self.rounds.get("texts", "ours", 0)
        if ours is None:
            with self.ours() as engine:
                ours = self.rounds.add("texts", "ours", 0, engine.transcribe(files(self.clips)))
        return compare(self.clips, ours["texts"], theirs["texts"])


def files(chosen: Sequence[Clip]) -> list[tuple[Path, str | None]]:
    """Return what an engine is asked: decoded samples."""
    return [(clip.npy, clip.language) for clip in chosen]


def uploads(chosen: Sequence[Clip]) -> list[tuple[Path, str | None]]:
    """Return what a service is asked: WAV files."""
    return [(clip.wav, clip.language) for clip in chosen]


def medians(rounds: Sequence[Round], key: str) -> float:
    """Return the median over rounds."""
    return float(median(one[key] for one in rounds))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` per cent of the values are."""
    return float(np.percentile(np.asarray(values), share))


def key_of(parts: Sequence[Any], code: Sequence[str]) -> str:
    """Return a name for what was measured: its parts, and the Python files in some folders of the repository."""
    digest = hashlib.sha256(repr(list(parts)).encode())
    for folder in code:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    digest.update(environment.REQUIREMENTS.read_bytes())
    return digest.hexdigest()[:16]
