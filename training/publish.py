"""What goes into a version: checkpoint, CTranslate2 export, smoke clip, scores, hypotheses, provenance, card.

Called once a run, between fine-tuning and the gate. The context that the version will be served with is measured and
settled here, before it is sealed.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import JsonValue

from registry import HubReference, Registry, RegistryError, Version
from speech.convert import export_ctranslate2
from speech.engine import load_engine
from speech.scores import Errors, rate_interval
from speech.smoke import write_smoke_clip
from speech.text import NORMALIZER_VERSION
from training import provenance
from training.card import Facts, Scores, model_card
from training.config import TrainingConfig
from training.context import Evidence, choose_context, margins_to_try
from training.curves import draw_curves, logged_seconds, read_curves
from training.data.manifest import Utterance, fingerprint
from training.evaluate import (
    Hypothesis,
    Progress,
    blocks_of,
    by_language,
    transcribe_utterances,
    write_hypotheses,
)
from training.finetune import FineTuned
from training.gate import Bounds
from training.learned import known_of, learned, unseen, write_learned
from training.measure import DECODING
from training.parity import MAX_CLIPS, ParityError, measure_parity
from training.prepare import Data
from training.smoke import candidates, choose_smoke_clip

CURVES = "curves"
"""The folder of a version that holds the pictures of its card."""

TEST_HYPOTHESES = "hyps/test.jsonl.gz"
"""What the version made of the test split, decoded as it is served; inside its folder."""


def publish_version(
    config: TrainingConfig,
    registry: Registry,
    base: Version,
    against: Version,
    data: Data,
    tuned: FineTuned,
    folder: Path,
    before: Sequence[Hypothesis],
    say: Callable[[str], None],
    progress: Progress,
) -> Version:
    """Export, evaluate, describe and publish a fine-tuned checkpoint.

    Args:
        config: of the run.
        registry: where to.
        base: what training started from.
        against: what the version is compared with.
        data: of the run.
        tuned: what fine-tuning left.
        folder: of the run; also what relative audio paths start from.
        before: hypotheses of `against` for the test split, for the card.
        say: called with one line on what was decided.
        progress: shows how far a stage is.

    Raises:
        ParityError: the export does not say what the checkpoint says.
    """
    started = time.monotonic()
    staged = folder / "version"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(tuned.checkpoint, staged)
    export_ctranslate2(staged, staged / "ctranslate2")

    evidence = _choose_context(config, staged, data.of("dev"), folder, progress)
    context = evidence.context
    say(evidence.describe())
    judged = [*data.of("dev"), *data.of("test")]
    with progress("comparing the export", 2 * min(len(judged), MAX_CLIPS)) as advance:
        parity = measure_parity(staged, context, judged, folder, config.seed, advance)
    if not parity.holds:
        raise ParityError(parity)
    say(f"export: the checkpoint's words on {parity.same:.0%} of {parity.clips} clips")
    to_try = data.of("dev") if candidates(data.of("dev")) else data.of("test")
    with progress("choosing a smoke clip", len(candidates(to_try))) as advance:
        smoke = choose_smoke_clip(staged, context, to_try, folder, advance)
    if smoke is None:
        say("smoke clip: none; on no short dev clip do checkpoint and export agree to the token")
    else:
        write_smoke_clip(staged, smoke)
    with progress("measuring the candidate", len(data.of("test"))) as advance:
        after = transcribe_utterances(load_engine(staged, context), data.of("test"), folder, advance)

    write_hypotheses(staged / TEST_HYPOTHESES, after)
    # Scores are of clips that neither has learned in another round; what was said in all of them is kept.
    kept = {clip.id for clip in unseen("the test set", data.of("test"), (base, against))}
    before, new = [[h for h in hypotheses if h.id in kept] for hypotheses in (before, after)]
    scores = _scores(new, config.seed)
    metrics = {
        "test": {
            "wer": {k: bounds.model_dump() for k, bounds in scores.wer.items()},
            "cer": {k: bounds.model_dump() for k, bounds in scores.cer.items()},
            "clips": len(new),
            "decoding": DECODING,
            "fingerprint": fingerprint(data.of("test")),
        },
        "dev": tuned.dev,
        "parity": parity.model_dump(),
        "normalizer_version": NORMALIZER_VERSION,
    }
    logs = folder / "logs"
    pictures = [f"{CURVES}/{name}" for name in draw_curves(read_curves(logs), staged / CURVES)]
    seconds = {"training": logged_seconds(logs), "publishing": time.monotonic() - started}
    origin = {
        "base": base.ref,
        "against": against.ref,
        "config": provenance.settings(config),
        "seeds": {"config": config.seed},
        "training": provenance.settings(dataclasses.asdict(tuned)),
        "git": provenance.git_state(),
        "packages": provenance.versions(),
        "device": provenance.device(),
        "command": provenance.command_line(),
        **provenance.cost(seconds, config.price_per_hour),
    }
    description = provenance.describe_data(data.utterances, data.report)
    if data.replay:
        description["replay"] = provenance.describe_sources(data.replay)
    for name, content in (("metrics", metrics), ("provenance", origin), ("data", description)):
        (staged / f"{name}.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_learned(staged, learned([*data.of("train"), *data.replay], known_of(base)))
    card = model_card(
        Facts(
            config=config,
            base=base.ref,
            base_on_hub=hub_base(registry, base),
            against=against.ref,
            utterances=data.utterances,
            replay=data.replay,
            before=_scores(before, config.seed),
            after=scores,
            context=context,
            pictures=pictures,
        )
    )
    (staged / "README.md").write_text(card, encoding="utf-8")

    manifest_context: dict[str, JsonValue] = {**context.to_manifest(), "evidence": evidence.to_manifest()}
    version = registry.publish(
        config.name,
        staged,
        parent=base.ref,
        base=against.ref,
        context=manifest_context,
        normalizer_version=NORMALIZER_VERSION,
    )
    shutil.rmtree(staged)
    return version


def _choose_context(
    config: TrainingConfig, checkpoint: Path, dev: Sequence[Utterance], root: Path, progress: Progress
) -> Evidence:
    margins = margins_to_try(config)
    with progress("measuring the context", (1 + len(margins)) * len(dev)) as advance:
        return choose_context(
            lambda context: load_engine(checkpoint, context),
            dev,
            root,
            margins=margins,
            seed=config.seed,
            advance=advance,
        )


def hub_base(registry: Registry, version: Version) -> str | None:
    """Return the Hub repository that a version comes from, through all that it was trained from; None if from none."""
    seen: set[str] = set()
    while version.ref not in seen:
        seen.add(version.ref)
        if (copy := version.copy()) is not None:
            return copy.repo
        try:
            origin = json.loads((version.path / "provenance.json").read_bytes())
        except (OSError, ValueError):
            return None
        source = str(origin.get("source", ""))
        if source.startswith("hub:"):
            return HubReference.parse(source).repo
        if version.manifest.parent is None:
            return None
        try:
            version = registry.resolve(version.manifest.parent)
        except RegistryError:
            return None
    return None


def _scores(hypotheses: Sequence[Hypothesis], seed: int) -> Scores:
    def bounds(errors: Callable[[Hypothesis], Errors]) -> dict[str, Bounds]:
        found = {}
        for language, group in by_language(hypotheses).items():
            interval = rate_interval([errors(h) for h in group], blocks_of(group)[0], seed=seed)
            found[language] = Bounds(value=interval.value, low=interval.low, high=interval.high)
        return found

    return Scores(wer=bounds(lambda h: h.words), cer=bounds(lambda h: h.characters))
