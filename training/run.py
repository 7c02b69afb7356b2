"""One turn of the loop's training half: base → data → fine-tune → export → evaluate → publish → gate → alias.

Everything that takes long is kept in the run's folder, named by what it was made from: a run that was interrupted goes
on, a run that is done is not done again. Production moves only by a passed verdict.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry import HubReference, Registry, Version
from registry.files import write_atomically
from speech.context import ElasticContext
from speech.engine import Engine, load_engine
from speech.tokens import WhisperTokenizer
from training.config import TrainingConfig
from training.data.general import with_texts
from training.data.manifest import Utterance, fingerprint, write_manifest
from training.devices import on_all
from training.evaluate import (
    Hypothesis,
    Progress,
    read_hypotheses,
    transcribe_utterances,
    wer_intervals,
    write_hypotheses,
)
from training.finetune import fine_tune
from training.gate import Verdict, judge
from training.interpolate import choose_alpha
from training.prepare import Data, prepare
from training.publish import TEST_HYPOTHESES, publish_version
from training.shell import StepError


@dataclass(frozen=True)
class Outcome:
    """What one run came to."""

    version: Version
    verdict: Verdict
    promoted: bool
    test: list[Utterance]
    before: list[Hypothesis]  # of the version that it was compared with
    after: list[Hypothesis]
    run: Path


def run(
    config: TrainingConfig, registry: Registry, runs: Path, *, say: Callable[[str], None], progress: Progress
) -> Outcome:
    """Train a candidate, publish it, and promote it if the gate lets it through.

    Args:
        config: of the run.
        registry: where the base is and where the version goes.
        runs: folder for data caches, evaluations and the run's own folder.
        say: called with one line at each stage.
        progress: shows how far a stage is.

    Raises:
        RegistryError: the base or production is missing or damaged.
        ConfigError: config and data do not go together.
        TooManyDroppedError: too many rows are faulty.
    """
    base = resolve_base(config.base, registry, say)
    registry.verify(base)
    tokenizer = WhisperTokenizer.from_folder(base.path)
    data = prepare(config, tokenizer, runs / "data")
    for line in _describe(data):
        say(line)
    folder = runs / "training" / f"{config.name}-{_key(config, base, data)}"
    write_manifest(folder / "manifest.jsonl", data.utterances)
    if data.replay or data.guards:
        write_manifest(folder / "general.jsonl", [*data.replay, *data.guards])
    data.report.write(folder / "data-report.json")
    if data.report.dropped:
        say(f"each clip that was left out, and why: {folder / 'data-report.json'}")

    against = _against(config, registry, base, folder)
    registry.verify(against)
    test = data.of("test")
    before = measure(against, test, folder, runs / "evaluations", progress)
    say(_scores(f"{against.ref} before", before, config.seed))

    replay = data.replay
    if replay and config.replay_labels == "base":
        heard = measure(base, replay, folder, runs / "evaluations", progress)
        replay = with_texts(replay, {hypothesis.id: hypothesis.hypothesis for hypothesis in heard})
    tuned = on_all(fine_tune, config, base.path, data.of("train"), data.of("dev"), folder, folder, replay=replay)
    guards = [utterance for utterance in data.guards if utterance.split == "dev"]
    tuned = choose_alpha(config, base.path, tuned, data.of("dev"), guards, folder, say, progress)
    say(f"fine-tuned in {tuned.steps} steps; dev WER {tuned.dev['wer']:.3f}, CER {tuned.dev['cer']:.3f}")

    published = folder / "published.json"
    if published.is_file():
        version = registry.resolve(json.loads(published.read_text(encoding="utf-8"))["ref"])
    else:
        version = publish_version(config, registry, base, against, data, tuned, folder, before, say, progress)
        write_atomically(published, json.dumps({"ref": version.ref}).encode())
    after = read_hypotheses(version.path / TEST_HYPOTHESES)
    say(_scores(f"{version.ref} after", after, config.seed))

    # Production may have moved since this run began, or since it was first done: it is today's that must be beaten.
    production = _production(config.name, registry)
    if production is not None and production.id not in {version.id, against.id}:
        against, before = production, measure(production, test, folder, runs / "evaluations", progress)
    verdict, promoted = decide(config, registry, version, against, before, after, fingerprint(test))
    for reason in verdict.reasons:
        say(reason)
    if production is not None and production.id == version.id:
        say(f"{version.ref} is already in production")
    else:
        say(f"{version.ref} is {'promoted to production' if promoted else 'refused: production stays as it was'}")
    return Outcome(version, verdict, promoted, test, before, after, folder)


def resolve_base(reference: str, registry: Registry, say: Callable[[str], None]) -> Version:
    """Find the base in the registry; a `hub:` reference is imported first, as `python -m registry import` does it."""
    if not reference.startswith("hub:"):
        return registry.resolve(reference)
    name = HubReference.parse(reference).repo.split("/")[-1].lower()
    say(f"importing {reference} as {name}")
    command = [sys.executable, "-m", "registry", "import", reference, "--name", name, "--alias", "candidate"]
    done = subprocess.run([*command, "--registry", str(registry.root)], check=False)
    if done.returncode != 0:
        raise StepError(f"the base {reference} could not be imported, as said above; --base names another")
    return registry.resolve(f"{name}@candidate")


def measure(
    version: Version, test: Sequence[Utterance], audio_root: Path, cache: Path, progress: Progress
) -> list[Hypothesis]:
    """Transcribe the test clips as the service would with this version; what was done once is read from `cache`."""
    engine = load_engine(version.path, ElasticContext.from_manifest(version.manifest.context))
    path = _evaluation(version, test, cache, engine)
    if path.is_file():
        return read_hypotheses(path)
    with progress(f"measuring {version.ref}", len(test)) as advance:
        hypotheses = transcribe_utterances(engine, test, audio_root, advance)
    write_hypotheses(path, hypotheses)
    return hypotheses


def _evaluation(version: Version, test: Sequence[Utterance], cache: Path, engine: Engine) -> Path:
    where = engine.description.replace(" ", "-")
    return cache / f"{version.name}-{version.id}-{where}-{fingerprint(test)[:16]}.jsonl.gz"


def decide(
    config: TrainingConfig,
    registry: Registry,
    version: Version,
    against: Version,
    before: Sequence[Hypothesis],
    after: Sequence[Hypothesis],
    test_fingerprint: str,
) -> tuple[Verdict, bool]:
    """Judge, keep the verdict beside the versions, and move production if it passed."""
    verdict = judge(
        before,
        after,
        base_ref=against.ref,
        candidate_ref=version.ref,
        test_fingerprint=test_fingerprint,
        seed=config.seed,
    )
    production = _production(config.name, registry)
    if production is not None and production.id == version.id:
        return verdict, True  # an earlier run of the same was promoted
    path = registry.record_verdict(config.name, version.id, against.id, verdict.model_dump(mode="json"))
    candidate = registry.alias(config.name, "candidate")
    if candidate is None or candidate.version != version.id:
        expected = None if candidate is None else candidate.version
        reason = "published by a training run"
        registry.move_alias(config.name, "candidate", version.id, expected=expected, reason=reason)
    if verdict.passed:
        # Compare and swap with what was judged: if production moved meanwhile, nobody has compared the two.
        judged = against.id if production is not None else None
        reason = "passed the gate"
        registry.move_alias(config.name, "production", version.id, expected=judged, reason=reason, verdict=path.name)
    return verdict, verdict.passed


def _against(config: TrainingConfig, registry: Registry, base: Version, folder: Path) -> Version:
    """Return what the candidate must beat: production if there is one, else the base.

    The answer is kept in the run's folder, or a finished run that is repeated would be compared with itself.
    """
    path = folder / "against.json"
    if path.is_file():
        return registry.resolve(json.loads(path.read_text(encoding="utf-8"))["ref"])
    against = _production(config.name, registry) or base
    write_atomically(path, json.dumps({"ref": against.ref}).encode())
    return against


def _production(name: str, registry: Registry) -> Version | None:
    alias = registry.alias(name, "production") if name in registry.models() else None
    return None if alias is None else registry.version(name, alias.version)


def _key(config: TrainingConfig, base: Version, data: Data) -> str:
    parts = [
        config.model_dump_json(exclude={"sources", "replay", "guards"}),
        base.ref,
        base.manifest_sha256(),
        data.fingerprint,
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _describe(data: Data) -> list[str]:
    kept = ", ".join(
        f"{language} {sum(u.audio.duration for u in data.utterances if u.language == language) / 60:.1f} min in "
        + "/".join(
            str(sum(u.language == language and u.split == name for u in data.utterances))
            for name in ("train", "dev", "test")
        )
        for language in sorted({u.language for u in data.utterances})
    )
    lines = [f"speech: {kept} clips (train/dev/test)"]
    for what, counts in (("left out by their source's rules", data.report.left_out), ("faulty", data.report.faulty)):
        if counts:
            lines.append(f"{sum(counts.values())} {what}: " + ", ".join(f"{n} {code}" for code, n in counts.items()))
    return lines


def _scores(what: str, hypotheses: Sequence[Hypothesis], seed: int) -> str:
    scores = wer_intervals(hypotheses, seed)
    return f"{what}: WER " + ", ".join(f"{k} {i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" for k, i in scores.items())
