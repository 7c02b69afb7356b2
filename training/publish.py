"""What goes into a version: checkpoint, CTranslate2 export, smoke clip, scores, hypotheses, provenance, card.

Called once a run, between fine-tuning and the gate. The context that the version will be served with is measured and
settled here, before it is sealed.
"""

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import JsonValue

from registry import Registry, Version
from speech.convert import export_ctranslate2
from speech.engine import load_engine
from speech.smoke import write_smoke_clip
from speech.text import NORMALIZER_VERSION
from training.card import model_card
from training.config import TrainingConfig
from training.context import MARGINS, Evidence, choose_context
from training.data.manifest import Utterance, fingerprint
from training.evaluate import (
    Hypothesis,
    Progress,
    character_rates,
    transcribe_utterances,
    wer_intervals,
    write_hypotheses,
)
from training.finetune import FineTuned
from training.gate import Bounds
from training.parity import MAX_CLIPS, ParityError, measure_parity
from training.prepare import Data
from training.smoke import candidates, choose_smoke_clip

PACKAGES = ("torch", "transformers", "ctranslate2", "tokenizers", "numpy", "jiwer")

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
    with progress("choosing a smoke clip", len(candidates(data.of("dev")))) as advance:
        smoke = choose_smoke_clip(staged, context, data.of("dev"), folder, advance)
    if smoke is None:
        say("smoke clip: none; on no short dev clip do checkpoint and export agree to the token")
    else:
        write_smoke_clip(staged, smoke)
    with progress("measuring the candidate", len(data.of("test"))) as advance:
        after = transcribe_utterances(load_engine(staged, context), data.of("test"), folder, advance)

    write_hypotheses(staged / TEST_HYPOTHESES, after)
    metrics = {
        "test": {
            "wer": {k: bounds.model_dump() for k, bounds in _bounds(after, config.seed).items()},
            "cer": character_rates(after),
            "fingerprint": fingerprint(data.of("test")),
        },
        "dev": tuned.dev,
        "parity": parity.model_dump(),
        "normalizer_version": NORMALIZER_VERSION,
    }
    provenance = {
        "base": base.ref,
        "config": config.model_dump(
            mode="json", exclude={"sources": True, "replay": True, "guards": True, "augment": {"noise_folder"}}
        ),
        **{
            name: [source.model_dump(mode="json", exclude={"path"}) for source in sources]
            for name, sources in (("sources", config.sources), ("replay", config.replay), ("guards", config.guards))
        },
        "steps": tuned.steps,
        "selected_steps": list(tuned.selected),
        "alpha": tuned.alpha,
        "packages": {package: importlib.metadata.version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "command": "python -m training",
    }
    description = {"fingerprint": data.fingerprint, "report": data.report.model_dump(mode="json")}
    for name, content in (("metrics", metrics), ("provenance", provenance), ("data", description)):
        (staged / f"{name}.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    card = model_card(
        config,
        base.ref,
        data.utterances,
        _bounds(before, config.seed),
        _bounds(after, config.seed),
        against.ref,
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
    # No margin is served that training did not show: what is shorter than the longest one was.
    margins = [margin for margin in MARGINS if margin <= max(config.train_margins)]
    with progress("measuring the context", (1 + len(margins)) * len(dev)) as advance:
        return choose_context(
            lambda context: load_engine(checkpoint, context),
            dev,
            root,
            margins=margins,
            seed=config.seed,
            advance=advance,
        )


def _bounds(hypotheses: Sequence[Hypothesis], seed: int) -> dict[str, Bounds]:
    return {
        language: Bounds(value=interval.value, low=interval.low, high=interval.high)
        for language, interval in wer_intervals(hypotheses, seed).items()
    }
