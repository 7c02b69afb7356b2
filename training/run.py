"""One turn of the loop's training half: base → data → fine-tune → export → evaluate → publish → gate → alias.

Everything that takes long is kept in the run's folder, named by what it was made from: a run that was interrupted goes
on, a run that is done is not done again. Production moves only by a passed verdict.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from registry import Registry, Version, hash_file
from registry.files import write_atomically
from registry.importing import import_model
from speech.checkpoint import CheckpointError, check_checkpoint
from speech.tokens import WhisperTokenizer
from training.alone import alone_in
from training.augment import noise_files
from training.config import ConfigError, TrainingConfig
from training.contest import PAGE, Contest, TestSet, hold, keep, looks_at, promote
from training.data.general import with_texts
from training.data.manifest import Utterance, fingerprint, write_manifest
from training.data.mix import mix
from training.devices import on_all
from training.evaluate import Hypothesis, Progress, read_hypotheses, wer_intervals
from training.finetune import FineTuned, fine_tune
from training.gate import Verdict
from training.interpolate import choose_alpha
from training.learned import unseen
from training.learning_rate import unusual
from training.lint.codes import CODES
from training.lint.lint import check_rows, judged, lint
from training.lint.report import LintError, LintReport
from training.measure import DECODING, score
from training.prepare import Data, prepare
from training.publish import TEST_HYPOTHESES, publish_version
from training.shell import StepError
from training.testset import guards_of

TOLD = frozenset(
    {code for code in CODES if code.endswith("_across_splits")} | {"speakers_mixed", "dev_speakers", "trained_guard"}
)
"""Warnings of lint that a run tells: a gain on what was all but learned is none."""

LOGS = "logs"
"""TensorBoard's files, in a run's folder."""

_OUTCOMES = {
    "promote": "promoted to production",
    "refuse": "refused: production stays as it was",
    "undecided": "neither promoted nor refused: production stays as it was",
}


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
    config: TrainingConfig,
    registry: Registry,
    runs: Path,
    *,
    say: Callable[[str], None],
    progress: Progress,
    guards: Mapping[str, Sequence[Utterance]] | None = None,
    accept: Sequence[str] = (),
    unattended: bool = False,
    may_promote: bool = True,
) -> Outcome:
    """Train a candidate, publish it, and promote it if the gate lets it through.

    Args:
        config: of the run.
        registry: where the base is and where the version goes.
        runs: folder for data caches, evaluations and the run's own folder.
        say: called with one line at each stage.
        progress: shows how far a stage is.
        guards: other speech on which the candidate must not be worse, by name.
        accept: codes of lint's errors that are to be warnings.
        unattended: rows that cannot be used are errors of lint, too: nobody is there to read that they were left out.
        may_promote: False leaves production alone whatever the gate says.

    Raises:
        RegistryError: the base or production is missing or damaged.
        ConfigError: config and data do not go together, or the base is no Whisper that can be trained.
        TooManyDroppedError: too many rows are faulty.
        LintError: lint finds errors in the data; nothing was trained.
        StepError: another process runs in the run's folder.
    """
    base = resolve_base(config.base, registry, say)
    registry.verify(base)
    try:
        check_checkpoint(base.path)
    except CheckpointError as error:  # it was imported before the rule was known
        raise ConfigError(f"{base.ref} cannot be a base: {error}") from error
    tokenizer = WhisperTokenizer.from_folder(base.path)
    data = prepare(config, tokenizer, runs / "data")
    for line in _describe(data):
        say(line)
    if warning := unusual(config, base.path):
        say(f"warning: {warning}")
    folder = runs / "training" / f"{config.name}-{run_key(config, base, data)}"
    # Two processes in it would seal the one's weights with the other's figures.
    busy = StepError(f"another process runs in {folder}: wait until it has ended, or stop it")
    with alone_in(folder, busy):
        write_manifest(folder / "manifest.jsonl", data.utterances)
        if data.replay or data.guards:
            write_manifest(folder / "general.jsonl", [*data.replay, *data.guards])
        data.report.write(folder / "data-report.json")
        if data.report.dropped:
            say(f"each clip that was left out, and why: {folder / 'data-report.json'}")
        _lint(data, tokenizer, accept, unattended, config.seed, folder, say, progress)
        return _run(config, registry, runs, base, data, folder, say, progress, guards, may_promote)


def _run(
    config: TrainingConfig,
    registry: Registry,
    runs: Path,
    base: Version,
    data: Data,
    folder: Path,
    say: Callable[[str], None],
    progress: Progress,
    guards: Mapping[str, Sequence[Utterance]] | None,
    may_promote: bool,
) -> Outcome:
    against = _against(config, registry, base, folder)
    registry.verify(against)
    test = data.of("test")
    guarding = {**guards_of(data.guards), **(guards or {})}
    compared = {clip.id for clip in unseen("the test set", test, (base, against))}  # rather now than after training
    for name, clips in guarding.items():
        unseen(f"the guard {name}", clips, (base, against))
    before = score(against, test, folder, runs / "evaluations", progress).hypotheses
    say(_scores(f"{against.ref} before", [h for h in before if h.id in compared], config.seed))

    tuned = _tune(config, base, data, folder, runs / "evaluations", say, progress)
    say(f"fine-tuned in {tuned.steps} steps; dev WER {tuned.dev['wer']:.3f}, CER {tuned.dev['cer']:.3f}")

    published = folder / "published.json"
    if published.is_file():
        version = registry.resolve(json.loads(published.read_text(encoding="utf-8"))["ref"])
    else:
        version = publish_version(config, registry, base, against, data, tuned, folder, before, say, progress)
        write_atomically(published, json.dumps({"ref": version.ref}).encode())
    after = _heard(version, test, folder, runs / "evaluations", progress)
    say(_scores(f"{version.ref} after", [h for h in after if h.id in compared], config.seed))

    # Production may have moved since this run began, or since it was first done: it is today's that must be beaten.
    production = _production(config.name, registry)
    measured = against
    if production is not None and production.id not in {version.id, against.id}:
        against = production
    seen = [*data.of("train"), *data.replay]
    own = fingerprint(data.utterances)  # as data.json has it; `data.fingerprint` is also of what is rehearsed
    judged = TestSet(test, folder, guarding, seen, own)
    contest = hold(
        version,
        against,
        base,
        judged,
        cache=runs / "evaluations",
        seed=config.seed,
        rules=config.gate,
        say=say,
        progress=progress,
        known={measured.ref: before, version.ref: after},
        looks=looks_at(registry, version, test),
    )
    promoted = decide(registry, contest, judged, folder, may_promote=may_promote)
    verdict = contest.verdict
    for line in (*verdict.reasons, *verdict.notes):
        say(line)
    if production is not None and production.id == version.id:
        say(f"{version.ref} is already in production")
    elif verdict.passed and not promoted:
        say(f"{version.ref} may be promoted: python -m registry alias {version.ref} production --reason …")
    else:
        say(f"{version.ref} is {_OUTCOMES[verdict.decision]}")
        say(f"each utterance, with its sound: {folder / PAGE}")
    return Outcome(version, verdict, promoted, contest.test, contest.before, contest.after, folder)


def _lint(
    data: Data,
    tokenizer: WhisperTokenizer,
    accept: Sequence[str],
    unattended: bool,
    seed: int,
    folder: Path,
    say: Callable[[str], None],
    progress: Progress,
) -> None:
    """Refuse faulty data before anything is spent on them; the base does not listen.

    What passed is not read again, and a run that has published is not refused afterwards.

    Raises:
        LintError: there are errors.
    """
    if (folder / "published.json").is_file():
        return
    kept = folder / "lint.json"
    report = _passed(kept)
    if report is None:
        rows = [row for row in data.report.dropped if row.by_source_rule]
        report = lint(
            data.utterances, rows, tokenizer=tokenizer, accept=accept, drawn=data.drawn, seed=seed, progress=progress
        )
        report.write(kept)
    faulty = [row for row in data.report.dropped if not row.by_source_rule]
    findings = [*report.findings, *(judged(check_rows(faulty), accept) if unattended else ())]
    errors = [found for found in findings if found.level == "error"]
    for found in findings:
        if found.level == "error" or found.accepted or found.code in TOLD:
            say(f"{found.level} {found.line}")
    if errors:
        raise LintError(errors)


def _passed(path: Path) -> LintReport | None:
    """Return a report that was kept, if it is one, of today's form, without errors."""
    try:
        report = LintReport.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return None if report.errors else report


def resolve_base(reference: str, registry: Registry, say: Callable[[str], None]) -> Version:
    """Find the base in the registry; a `hub:` reference is imported first, as `python -m registry import` does it."""
    if not reference.startswith("hub:"):
        return registry.resolve(reference)
    say(f"importing {reference}")
    return import_model(reference, None, registry)


def decide(registry: Registry, contest: Contest, data: TestSet, folder: Path, *, may_promote: bool = True) -> bool:
    """Keep the verdict beside the versions and in the run's folder, and move production if it passed and may."""
    version = contest.candidate
    production = _production(version.name, registry)
    if production is not None and production.id == version.id:
        return True  # an earlier run of the same was promoted
    verdict_file = keep(contest, registry, data, folder, folder / LOGS)
    promotes = contest.verdict.passed and may_promote
    if promotes:  # first: if production has moved meanwhile, no alias moves
        promote(contest, registry, verdict_file)
    candidate = registry.alias(version.name, "candidate")
    if candidate is None or candidate.version != version.id:
        expected = None if candidate is None else candidate.version
        reason = "published by a training run"
        registry.move_alias(version.name, "candidate", version.id, expected=expected, reason=reason)
    return promotes


def _tune(
    config: TrainingConfig,
    base: Version,
    data: Data,
    folder: Path,
    cache: Path,
    say: Callable[[str], None],
    progress: Progress,
) -> FineTuned:
    """Fine-tune, and choose how far to go from the base towards the result."""
    replay = data.replay
    if replay and config.replay_labels == "base":
        heard = score(base, replay, folder, cache, progress).hypotheses
        replay = with_texts(replay, {hypothesis.id: hypothesis.hypothesis for hypothesis in heard})
    own, replay = mix(data.of("train"), config.seed), mix(replay, config.seed)
    tuned = on_all(fine_tune, config, base.path, own, data.of("dev"), folder, folder, replay=replay)
    watched = [utterance for utterance in data.guards if utterance.split == "dev"]
    return choose_alpha(config, base.path, tuned, data.of("dev"), watched, folder, say, progress)


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


def _heard(version: Version, test: list[Utterance], folder: Path, cache: Path, progress: Progress) -> list[Hypothesis]:
    """Return what the run's version makes of its test split: as it was published, if the same code decodes today."""
    metrics = json.loads((version.path / "metrics.json").read_text(encoding="utf-8"))
    if metrics["test"].get("decoding") == DECODING:
        return read_hypotheses(version.path / TEST_HYPOTHESES)
    return score(version, test, folder, cache, progress).hypotheses


def _production(name: str, registry: Registry) -> Version | None:
    alias = registry.alias(name, "production") if name in registry.models() else None
    return None if alias is None else registry.version(name, alias.version)


def logs_of(version: Version, runs: Path) -> Path | None:
    """Return the logs of the run that a version came of, for its curves; None if it was made elsewhere."""
    for published in sorted((runs / "training").glob(f"{version.name}-*/published.json")):
        if json.loads(published.read_text(encoding="utf-8"))["ref"] == version.ref:
            return published.parent / LOGS
    return None


def run_key(config: TrainingConfig, base: Version, data: Data) -> str:
    """Return what a run is known by: the same recipe, base and data come to the same.

    Recordings of noise are data, too, wherever they lie. How often it is saved and by how many processes clips are
    decoded changes no result (docs/training/resume.md), and may be changed while the run is stopped.

    Raises:
        ConfigError: there is no noise in `augment.noise_folder`.
    """
    unlearned = {"sources", "replay", "guards", "gate", "licence", "price_per_hour", "save_steps", "dataloader_workers"}
    noise = [] if config.augment.noise_folder is None else noise_files(config.augment.noise_folder)
    parts = [
        config.model_dump_json(exclude={**dict.fromkeys(unlearned, True), "augment": {"noise_folder"}}),
        base.ref,
        base.manifest_sha256(),
        data.fingerprint,
        *map(hash_file, noise),  # in the order in which they are drawn from
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
    for what, counts in (("left out by rule", data.report.left_out), ("faulty", data.report.faulty)):
        if counts:
            lines.append(f"{sum(counts.values())} {what}: " + ", ".join(f"{n} {code}" for code, n in counts.items()))
    return lines


def _scores(what: str, hypotheses: Sequence[Hypothesis], seed: int) -> str:
    scores = wer_intervals(hypotheses, seed)
    return f"{what}: WER " + ", ".join(f"{k} {i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" for k, i in scores.items())
