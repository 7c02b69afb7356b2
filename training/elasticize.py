"""A checkpoint teaches itself to answer from short context, on speech that nobody has transcribed.

Its own words at 30 s, and how sure it is of each, are what it learns to give from a context as long as the clip. What
comes of it is compared with its parent at 30 s, language by language, and is published as its child if it is no worse.
It makes nothing better but the price; `training.run` does the rest.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue

from registry import Registry, Version
from registry.files import write_atomically
from speech.checkpoint import WEIGHTS
from speech.context import ElasticContext
from speech.convert import export_ctranslate2
from speech.engine import load_engine
from speech.smoke import write_smoke_clip
from speech.text import NORMALIZER_VERSION
from training import provenance
from training.alone import alone_in
from training.config import TrainingConfig
from training.context import MAX_ELASTIC_LOSS, MIN_CLIPS, Cost, Trial, cost_of, margins_to_try, try_margin
from training.data.manifest import Utterance, fingerprint
from training.evaluate import Hypothesis, Progress, transcribe_utterances
from training.finetune import FineTuned, computes_in_bf16, fine_tune
from training.learned import known_of, write_learned
from training.own_words import OWN_WORDS, SUFFIXES, find_audio, hear
from training.parity import MAX_CLIPS, ParityError, measure_parity
from training.shell import StepError
from training.smoke import candidates, choose_smoke_clip
from training.teacher import teach

MAX_LOSS = 0.01
"""By how much the WER of a language may exceed the parent's at 30 s, where transcripts say what is right. Beside it the
upper 95 % bound must stay below `training.context.MAX_ELASTIC_LOSS`, with transcripts or without."""


TARGETS = "2"
"""Raised whenever targets have other tokens: lessons of before would stand beside the wrong ones."""


class LanguageCost(BaseModel):
    """What the child costs in one language, against its parent at 30 s."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    transcribed: bool  # by people; False: the parent's words are the reference, and its own WER is zero
    learned: bool  # there was audio in that language to learn from
    cost: Cost

    @property
    def holds(self) -> bool:
        """Whether it is no worse."""
        within = self.cost.difference.value <= MAX_LOSS or not self.transcribed
        return within and (self.cost.difference.high <= MAX_ELASTIC_LOSS or self.cost.clips < MIN_CLIPS)


class Attempt(BaseModel):
    """One margin, tried: all clips together, by length, and by language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: Trial
    languages: dict[str, LanguageCost]

    @property
    def holds(self) -> bool:
        """Whether the child may be served at this margin."""
        return self.trial.holds and all(language.holds for language in self.languages.values())


class Evidence(BaseModel):
    """Every margin that was tried, up to the first that holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: tuple[Attempt, ...]

    @property
    def margin(self) -> int | None:
        """The smallest that holds; None if none does."""
        return next((attempt.trial.margin for attempt in self.attempts if attempt.holds), None)


class Finished(BaseModel):
    """What is kept of a run that is done: it is not done again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str | None  # of the child
    evidence: Evidence


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    version: Version | None  # None: it was worse than its parent, and not published
    evidence: Evidence
    run: Path


def elasticize(
    config: TrainingConfig,
    parent: Version,
    registry: Registry,
    audio: Sequence[Path],
    runs: Path,
    *,
    judged_by: Sequence[Utterance] = (),
    language: str | None = None,
    say: Callable[[str], None],
    progress: Progress,
) -> Outcome:
    """Teach a version short context by its own words, and publish the child if it is no worse; a run goes on.

    Args:
        config: of the training; its sources are not read.
        parent: with a checkpoint, not an export alone.
        registry: where the child goes, under the parent's name.
        audio: folders of recordings of any length, and files.
        runs: folder for the run's own folder.
        judged_by: transcribed clips with absolute paths, of any language; none of them is learned from. Held-out parts
            of the audio judge, too, by what the parent hears in them.
        language: of all the audio; None: the parent says it of each recording.
        say: called with one line at each stage.
        progress: shows how far a stage is.

    Raises:
        StepError: no checkpoint, no audio, too little speech in it, or another process runs in the run's folder.
    """
    if not any((parent.path / name).is_file() for name in (WEIGHTS, f"{WEIGHTS}.index.json")):
        raise StepError(f"{parent.ref} has no {WEIGHTS}: an export alone cannot be trained; import the checkpoint")
    files = find_audio(audio)
    n_found, files = len(files), to_learn_from(files, judged_by)
    if len(files) < n_found:
        say(f"{n_found - len(files)} files are to judge by, and not learned from")
    if not files:
        raise StepError(f"no audio in {', '.join(map(str, audio))}: looked for {', '.join(sorted(SUFFIXES))}")
    # Absolute: the manifest's paths start from it, whatever folder the command is called in.
    folder = (runs / "elasticize" / f"{parent.name}-{_key(config, parent, files, judged_by, language)}").resolve()
    busy = StepError(f"another process runs in {folder}: wait until it has ended, or stop it")
    with alone_in(folder, busy):
        return _elasticize(config, parent, registry, files, folder, judged_by, language, say, progress)


def _elasticize(
    config: TrainingConfig,
    parent: Version,
    registry: Registry,
    files: Sequence[Path],
    folder: Path,
    judged_by: Sequence[Utterance],
    language: str | None,
    say: Callable[[str], None],
    progress: Progress,
) -> Outcome:
    outcome = folder / "outcome.json"
    if outcome.is_file():
        found = Finished.model_validate_json(outcome.read_text(encoding="utf-8"))
        say(f"done before: {found.ref or 'nothing was published'}")
        return Outcome(None if found.ref is None else registry.resolve(found.ref), found.evidence, folder)
    heard = hear(parent, files, language, folder / "manifest.jsonl", say, progress)
    train, dev = [u for u in heard if u.split == "train"], [u for u in heard if u.split == "dev"]
    judges = [*judged_by, *dev]
    if not train or not dev or sum(not u.no_speech for u in judges) < MIN_CLIPS:
        raise StepError(
            f"{len(heard)} stretches of speech are too few: at least {MIN_CLIPS} must be left to judge by, a tenth "
            "of the audio and all that --judge brings"
        )

    with progress("reading what it says at 30 s", len(train)) as advance:
        bf16 = computes_in_bf16() if config.bf16 is None else config.bf16
        lessons = teach(parent.path, train, folder, folder / "lessons.npz", bf16=bf16, advance=advance)
    tuned = fine_tune(config, parent.path, train, dev, folder, folder, lessons=lessons)
    wer = tuned.dev["wer"]
    say(f"taught in {tuned.steps} steps; {len(dev)} held-out clips: WER {wer:.3f} against its own words at 30 s")

    staged = folder / "version"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(tuned.checkpoint, staged)
    export_ctranslate2(staged, staged / "ctranslate2")
    evidence = _judge(config, parent, staged, judges, {u.language for u in train}, folder, progress)
    for line in describe(evidence):
        say(line)
    version = None
    if evidence.margin is None:
        say(f"no margin holds: {parent.ref} stays as it is, and nothing was published")
    else:
        version = _publish(config, registry, parent, staged, tuned, heard, judges, evidence, folder, say, progress)
    shutil.rmtree(staged)
    finished = Finished(ref=None if version is None else version.ref, evidence=evidence)
    write_atomically(outcome, finished.model_dump_json(indent=2).encode())
    return Outcome(version, evidence, folder)


def to_learn_from(files: Sequence[Path], judged_by: Sequence[Utterance]) -> list[Path]:
    """Return the files without those that judge, by whatever name."""
    judging = {utterance.audio.sha256 for utterance in judged_by}

    def digest(file: Path) -> str:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    return [file for file in files if digest(file) not in judging]


def _key(
    config: TrainingConfig, parent: Version, files: Sequence[Path], judged_by: Sequence[Utterance], language: str | None
) -> str:
    parts = [
        TARGETS,
        config.model_dump_json(exclude={"sources", "replay", "guards", "gate", "licence", "price_per_hour"}),
        parent.ref,
        fingerprint(judged_by),
        str(language),
        *(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _judge(
    config: TrainingConfig,
    parent: Version,
    child: Path,
    judges: Sequence[Utterance],
    learned: set[str],
    folder: Path,
    progress: Progress,
) -> Evidence:
    """Compare the child at each margin with its parent at 30 s, until one holds."""
    margins = margins_to_try(config)
    attempts: list[Attempt] = []
    with progress("comparing with its parent", (1 + len(margins)) * len(judges)) as advance:
        before = transcribe_utterances(load_engine(parent.path, ElasticContext()), judges, folder, advance)
        for margin in margins:
            context = ElasticContext(elastic=True, margin=margin)
            after = transcribe_utterances(load_engine(child, context), judges, folder, advance)
            attempts.append(attempt(margin, judges, before, after, learned, config.seed))
            if attempts[-1].holds:
                break
    return Evidence(attempts=tuple(attempts))


def attempt(
    margin: int,
    judges: Sequence[Utterance],
    before: Sequence[Hypothesis],
    after: Sequence[Hypothesis],
    learned: set[str],
    seed: int,
) -> Attempt:
    """Compare what the parent heard at 30 s with what its child hears at a margin.

    Args:
        margin: in positions.
        judges: the clips; those of source `OWN_WORDS` have the parent's words for a transcript.
        before: the parent's hypotheses, one a clip.
        after: the child's.
        learned: languages that there was audio of.
        seed: of the bootstrap.
    """
    languages: dict[str, LanguageCost] = {}
    own = {u.id for u in judges if u.source == OWN_WORDS}
    for transcribed in (True, False):
        pairs = [(b, a) for b, a in zip(before, after, strict=True) if (b.id not in own) == transcribed]
        groups: dict[str, list[tuple[Hypothesis, Hypothesis]]] = {}
        for pair in pairs:
            groups.setdefault(pair[0].language, []).append(pair)
        for language, group in sorted(groups.items()):
            if not any(heard.errors.reference for heard, _ in group):
                continue  # nobody speaks in it: no word can be wrong
            # A language that people transcribed is judged by that.
            languages.setdefault(
                language,
                LanguageCost(
                    transcribed=transcribed,
                    learned=language in learned,
                    cost=cost_of([b for b, _ in group], [a for _, a in group], seed),
                ),
            )
    return Attempt(trial=try_margin(margin, judges, before, after, seed), languages=languages)


def describe(evidence: Evidence) -> Iterator[str]:
    """Yield a line for each margin, and one for each language that decided against it or for it."""
    for one in evidence.attempts:
        yield f"margin {one.trial.margin}: {'holds' if one.holds else 'does not hold'}"
        for code, language in one.languages.items():
            about = "" if language.learned else ", not in the audio"
            by = "transcripts" if language.transcribed else "the parent's words"
            cost = language.cost
            yield (
                f"  {code} ({cost.clips} clips, by {by}{about}): WER {cost.wer_full:.3f} at 30 s, "
                f"{cost.wer_elastic:.3f} elastic, difference {cost.difference}{'' if language.holds else ': worse'}"
            )


def _publish(
    config: TrainingConfig,
    registry: Registry,
    parent: Version,
    staged: Path,
    tuned: FineTuned,
    heard: Sequence[Utterance],
    judges: Sequence[Utterance],
    evidence: Evidence,
    folder: Path,
    say: Callable[[str], None],
    progress: Progress,
) -> Version:
    context = ElasticContext(elastic=True, margin=evidence.attempts[-1].trial.margin)
    with progress("comparing the export", 2 * min(len(judges), MAX_CLIPS)) as advance:
        parity = measure_parity(staged, context, judges, folder, config.seed, advance)
    if not parity.holds:
        raise ParityError(parity)
    clips = [u for u in heard if u.split == "dev"]
    with progress("choosing a smoke clip", len(candidates(clips))) as advance:
        smoke = choose_smoke_clip(staged, context, clips, folder, advance)
    if smoke is not None:
        write_smoke_clip(staged, smoke)
    last = evidence.attempts[-1]
    metrics = {
        "elastic": {code: one.model_dump(mode="json") for code, one in last.languages.items()},
        "parity": parity.model_dump(mode="json"),
        "dev": tuned.dev,
        "normalizer_version": NORMALIZER_VERSION,
    }
    origin = {
        "base": parent.ref,
        "method": "elasticize: its own words at 30 s, without transcripts",
        "config": provenance.settings(config.model_copy(update={"sources": ()})),
        "seeds": {"config": config.seed},
        "training": {"steps": tuned.steps},
        "git": provenance.git_state(),
        "packages": provenance.versions(),
        "device": provenance.device(),
        "command": provenance.command_line(),
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    data = {"fingerprint": fingerprint(heard), "sources": provenance.describe_sources(heard)}
    for name, content in (("metrics", metrics), ("provenance", origin), ("data", data)):
        (staged / f"{name}.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    # Of its own it learned no transcripts: a sentence that it heard right would count as one that it knows by heart.
    write_learned(staged, known_of(parent))
    (staged / "README.md").write_text(_card(parent, last), encoding="utf-8")
    trial = last.trial
    manifest_evidence: dict[str, JsonValue] = {
        "wer_full": trial.all.wer_full,
        "wer_elastic": trial.all.wer_elastic,
        "ci": [trial.all.difference.low, trial.all.difference.high],
        "clips": trial.all.clips,
        "trials": [one.trial.model_dump(mode="json") for one in evidence.attempts],
    }
    version = registry.publish(
        parent.name,
        staged,
        parent=parent.ref,
        base=parent.ref,
        context={**context.to_manifest(), "evidence": manifest_evidence},
        normalizer_version=NORMALIZER_VERSION,
    )
    say(f"published {version.ref}: {parent.ref} at elastic context, margin {context.margin}")
    return version


def _card(parent: Version, last: Attempt) -> str:
    rows = "\n".join(
        f"| {code} | {one.cost.clips} | {'transcripts' if one.transcribed else 'the parent’s words'} "
        f"| {'yes' if one.learned else 'no'} | {one.cost.wer_full:.3f} | {one.cost.wer_elastic:.3f} "
        f"| {one.cost.difference} |"
        for code, one in last.languages.items()
    )
    return f"""---
library_name: transformers
pipeline_tag: automatic-speech-recognition
tags:
- whisper
- whisperloop
---

# {parent.name}, elastic

`{parent.ref}`, taught by its own words at 30 s to answer from a context as long as the clip and a margin of
{last.trial.margin} encoder positions. It learned no new words.

WER of the parent at 30 s and of this version at that margin, decoded greedily by the engine that serves, with the 95 %
interval of the paired difference:

| language | clips | judged by | in the audio it learned from | parent, 30 s | elastic | difference |
|---|--:|---|---|--:|--:|---|
{rows}
"""
