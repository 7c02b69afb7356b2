"""Two versions and one test set: measure both, judge, keep the verdict and the page, and move the alias if it may.

`training.run` and `python -m training gate` both come here, so that there is one way into production.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from registry import Registry, RegistryError, Version
from registry.errors import DamagedRecordError
from training.data.manifest import Utterance, fingerprint
from training.evaluate import Hypothesis, Progress
from training.gate import Verdict, judge
from training.gate_page import write_page
from training.guards import Measured
from training.learned import known_of, read_learned, unseen
from training.measure import measure, score
from training.refusals import of_overlap, of_version
from training.rules import Rules
from training.shell import StepError

VERDICT, PAGE = "verdict.json", "gate.html"

MANY_LOOKS = 10
"""Versions that were compared on the same clips, from which on a verdict says so. An interval of 95 % lies above the
truth once in forty times, so a version that is no better passes one of so many looks, MAPSSWE and guards aside."""


@dataclass(frozen=True)
class TestSet:
    """What two versions are compared on."""

    __test__ = False  # no test of pytest's

    test: Sequence[Utterance]
    audio_root: Path  # what relative audio paths start from
    guards: Mapping[str, Sequence[Utterance]]
    train: Sequence[Utterance] | None = None  # what the candidate was trained on; None: not known
    data_fingerprint: str | None = None  # that the candidate's data must have; None: it is judged on other data


@dataclass(frozen=True)
class Contest:
    """What came of it."""

    candidate: Version
    against: Version
    verdict: Verdict
    test: list[Utterance]  # that they were compared on
    before: list[Hypothesis]
    after: list[Hypothesis]
    measured: tuple[Measured, Measured] | None


def hold(
    candidate: Version,
    against: Version,
    zero_shot: Version | None,
    data: TestSet,
    *,
    cache: Path,
    seed: int,
    rules: Rules,
    say: Callable[[str], None],
    progress: Progress,
    known: Mapping[str, list[Hypothesis]] = MappingProxyType({}),
    refusals: Sequence[str] = (),
    looks: int = 0,
) -> Contest:
    """Measure both versions as they are served, and judge.

    What is refused already by the test clips is not measured any further. Clips that either version says to have
    learned are left out, and a note says how many: what is held out today may have been learned from in another round.

    Args:
        candidate: may it take the other's place?
        against: production, or the base.
        zero_shot: what training started from; None: not known, or the same as `against`.
        data: to compare them on.
        cache: folder of what was measured before.
        seed: of the bootstrap and the generated guards.
        rules: of the gate.
        say: called with a line on what was read instead of measured.
        progress: shows how far a measurement is.
        known: hypotheses that are at hand, by reference of the version.
        refusals: reasons to refuse that are known already, such as lint's errors.
        looks: how many other versions were compared on these clips before (`looks_at`).

    Raises:
        StepError: of a language of the test set, or of a guard, no clip is left that neither has learned.
    """

    def heard(version: Version) -> list[Hypothesis]:
        if version.ref in known:
            return known[version.ref]
        scored = score(version, data.test, data.audio_root, cache, progress)
        if not scored.is_new:
            say(f"{version.ref}: {scored}")
        return scored.hypotheses

    # What the candidate itself was trained on refuses, where it is at hand; what its base brought is left out.
    sides = (against, candidate if data.train is None or zero_shot is None else zero_shot)
    test = unseen("the test set", data.test, sides)
    guards = {name: unseen(f"the guard {name}", clips, sides) for name, clips in data.guards.items()}
    before, after = heard(against), heard(candidate)
    untrained = None if zero_shot is None or zero_shot.ref == against.ref else heard(zero_shot)
    own = fingerprint(data.test) if data.data_fingerprint is not None else None
    found, notes = of_version(candidate, test=own, data=data.data_fingerprint)
    if looks >= MANY_LOOKS:
        notes.append(
            f"{looks} other versions were compared on these very clips, and of those that are no better than "
            "production, one in forty passes by luck: give new test clips now and then"
        )
    for name, kept, of in [("test", test, data.test), *((name, guards[name], data.guards[name]) for name in guards)]:
        if len(kept) < len(of):
            notes.append(
                f"{len(of) - len(kept)} of {len(of)} clips of {name} are left out: "
                f"{' or '.join(dict.fromkeys(side.ref for side in sides))} has learned them, or what it came from"
            )
    notes += [
        f"not all is known of what {version.ref}, or what it came from, has learned: it may know test clips by heart"
        for version in {side.ref: side for side in sides}.values()
        if not known_of(version).is_complete
    ]
    judged_by = {clip.id for clip in test}
    if data.train is None and read_learned(candidate) is None:
        notes.append("whether a test clip was trained on is not known: the training data are not at hand")
    if data.train is not None:
        found += of_overlap(data.train, [*data.test, *(u for guard in data.guards.values() for u in guard)])

    def of_test(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
        return [hypothesis for hypothesis in hypotheses if hypothesis.id in judged_by]

    before, after = of_test(before), of_test(after)

    def decide(measured: tuple[Measured, Measured] | None) -> Verdict:
        return judge(
            before,
            after,
            base_ref=against.ref,
            candidate_ref=candidate.ref,
            test_fingerprint=fingerprint(data.test),
            seed=seed,
            zero_shot=None if untrained is None else of_test(untrained),
            measured=measured,
            refusals=[*refusals, *found],
            notes=notes,
            rules=rules,
        )

    verdict, measured = decide(None), None
    if verdict.decision != "refuse":
        of_both = [
            measure(version, test, guards, data.audio_root, seed, cache, progress) for version in (against, candidate)
        ]
        measured = (of_both[0], of_both[1])
        verdict = decide(measured)
    return Contest(candidate, against, verdict, test, before, after, measured)


def looks_at(registry: Registry, candidate: Version, test: Sequence[Utterance]) -> int:
    """Return how many other versions of the model were compared on these very clips: each was a chance to pass."""
    wanted, seen = fingerprint(test), set()
    for path in registry.verdicts(candidate.name):
        try:
            verdict = registry.verdict(candidate.name, path.name)
        except DamagedRecordError:  # it is counted for a note alone
            continue
        if verdict.get("test_fingerprint") == wanted:
            seen.add(verdict.get("candidate"))
    return len(seen - {candidate.ref})


def force(contest: Contest, reason: str) -> Contest:
    """Note that somebody promotes the candidate whatever the verdict, and why; the verdict itself stays."""
    return replace(contest, verdict=contest.verdict.model_copy(update={"forced": reason}))


def keep(contest: Contest, registry: Registry, data: TestSet, folder: Path, logs: Path | None = None) -> str:
    """Record the verdict beside the versions, write it and its page into `folder`, and return its file's name.

    The page holds speech and what was said: it stays in the run's folder.
    """
    candidate, verdict = contest.candidate, contest.verdict
    path = registry.record_verdict(candidate.name, candidate.id, contest.against.id, verdict.model_dump(mode="json"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / VERDICT).write_text(verdict.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_page(
        folder / PAGE, verdict, contest.before, contest.after, data.test, data.audio_root, contest.measured, logs
    )
    return path.name


def promote(contest: Contest, registry: Registry, verdict_file: str) -> None:
    """Move production to the candidate, if production is still what it was compared with.

    Raises:
        StepError: production is a version that nobody has compared the candidate with.
        AliasConflictError: production moved just now.
    """
    candidate, verdict = contest.candidate, contest.verdict
    if not verdict.passed and verdict.forced is None:
        raise ValueError("the gate did not let it through")
    production = registry.alias(candidate.name, "production")
    if production is not None and production.version == candidate.id:
        return
    if production is not None and production.version != contest.against.id:
        raise StepError(
            f"{candidate.name}@production is {production.version}, but {candidate.ref} was compared with "
            f"{contest.against.ref}; judge it against {candidate.name}@production"
        )
    reason = "passed the gate" if verdict.passed else f"forced past the gate ({verdict.decision}): {verdict.forced}"
    registry.move_alias(
        candidate.name,
        "production",
        candidate.id,
        expected=None if production is None else production.version,
        reason=reason,
        verdict=verdict_file,
    )


def zero_shot_of(candidate: Version, registry: Registry) -> Version | None:
    """Return the version that a candidate was trained from; None if it names none of this registry."""
    if candidate.manifest.parent is None:
        return None
    try:
        return registry.resolve(candidate.manifest.parent)
    except RegistryError:
        return None
