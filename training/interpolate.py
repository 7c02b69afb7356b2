"""Between base and fine-tuned: the weights (1 - α) · base + α · fine-tuned (WiSE-FT, Wortsman et al. 2022).

Fine-tuning on two languages makes a third one worse; half the way there keeps most of the gain for a fraction of the
harm (docs/training/recipe.md). α is chosen on dev, and guards go before gains. Measured with the engine and the context
that the version will be served with; the base is measured at 30 s, which is all that it may know.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.numpy import save_file

from registry.files import write_atomically
from speech.checkpoint import CHECKPOINT_FILES, WEIGHTS, read_arrays
from speech.context import ElasticContext
from speech.convert import export_ctranslate2
from speech.engine import load_engine
from speech.scores import corpus_rate
from training.config import TrainingConfig
from training.data.manifest import Utterance
from training.evaluate import POOLED, Hypothesis, Progress, by_language, transcribe_utterances
from training.finetune import FineTuned


class Trial(BaseModel):
    """One α and how it did on dev."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float
    dev_wer: float  # of characters, where a language writes no blanks between words
    dev_cer: float
    guards: dict[str, float]  # WER of each guard language, likewise

    def excess(self, base_guards: Mapping[str, float]) -> float:
        """Return by how much the WER of the worst guard language exceeds the base's; 0 without guards."""
        return max((wer - base_guards[language] for language, wer in self.guards.items()), default=0.0)


class Choice(BaseModel):
    """Which α was taken, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float
    guards_held: bool
    margin: float
    base_guards: dict[str, float]
    trials: tuple[Trial, ...]


def choose_alpha(
    config: TrainingConfig,
    base: Path,
    tuned: FineTuned,
    dev: Sequence[Utterance],
    guards: Sequence[Utterance],
    run: Path,
    say: Callable[[str], None],
    progress: Progress,
) -> FineTuned:
    """Return the weights between base and fine-tuned that do best on dev and no guard language harm.

    Nothing is measured where there is nothing to choose. A choice that was made is read from the run's folder.

    Args:
        config: says which alphas, and the margin of the guards.
        base: folder of the base's checkpoint and its export.
        tuned: what fine-tuning left.
        dev: utterances to choose by.
        guards: utterances of languages that must not become worse.
        run: folder of the run; also what relative audio paths start from.
        say: called with one line on what was chosen.
        progress: shows how far it is.
    """
    alphas = sorted(set(config.alphas_to_try))
    if alphas == [1.0]:
        return tuned
    if config.alphas is None and not guards:
        say("alpha: 1, as every guard is for the test set, and there is none to choose by")
        return tuned
    record, target = run / "alpha.json", run / "interpolated"
    if not record.is_file():
        with progress("choosing alpha", len(alphas) * (len(dev) + len(guards)) + len(guards)) as advance:
            heard = transcribe_utterances(load_engine(base, ElasticContext()), guards, run, advance)
            base_guards = _wers(heard)
            trials = []
            for alpha in alphas:
                between = _export(base, tuned.checkpoint, alpha, run / "alphas")
                engine = load_engine(between, ElasticContext(elastic=True, margin=config.serving_margin))
                on_dev = transcribe_utterances(engine, dev, run, advance)
                on_guards = transcribe_utterances(engine, guards, run, advance)
                trials.append(_trial(alpha, on_dev, on_guards))
        choice = choose(trials, base_guards, config.guard_margin)
        shutil.rmtree(run / "alphas", ignore_errors=True)
        interpolate(base, tuned.checkpoint, choice.alpha, target)
        write_atomically(record, choice.model_dump_json(indent=2).encode())
    choice = Choice.model_validate_json(record.read_text(encoding="utf-8"))
    say(_describe(choice))
    taken = next(trial for trial in choice.trials if trial.alpha == choice.alpha)
    scores = {"wer": taken.dev_wer, "cer": taken.dev_cer}
    return FineTuned(target, tuned.steps, scores, tuned.selected, choice.alpha)


def choose(trials: Sequence[Trial], base_guards: Mapping[str, float], margin: float) -> Choice:
    """Take the lowest dev WER among the trials that hold the guards, the smaller α of equals.

    If none holds them, the one that harms them least is taken: the gate has the last word.
    """
    # Rates that are equal in words must not differ by rounding.
    held = [trial for trial in trials if trial.excess(base_guards) <= margin + 1e-9]
    best = min(held, key=lambda t: (t.dev_wer, t.alpha)) if held else min(trials, key=lambda t: t.excess(base_guards))
    return Choice(
        alpha=best.alpha, guards_held=bool(held), margin=margin, base_guards=dict(base_guards), trials=tuple(trials)
    )


TIED = "proj_out.weight"
"""Some checkpoints write it though it is the embedding's."""


def interpolate(base: Path, tuned: Path, alpha: float, target: Path) -> None:
    """Write the checkpoint between two of one shape, in float32, with the tuned one's tokenizer and configs.

    Args:
        base: folder of a transformers checkpoint in safetensors; α = 0.
        tuned: another one with the same arrays; α = 1.
        alpha: in [0, 1].
        target: folder to write; replaced if it is there.

    Raises:
        ValueError: the two have not the same arrays.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    before = read_arrays(base)  # of one file, or of shards
    with safe_open(tuned / WEIGHTS, framework="np") as after:
        different = (set(before) ^ set(after.keys())) - {TIED}
        if different:
            raise ValueError(f"{base} and {tuned} have not the same arrays: {', '.join(sorted(different))}")
        arrays = {}
        for name in set(after.keys()) - {TIED}:
            start = before[name].astype(np.float32)
            end = after.get_tensor(name).astype(np.float32)
            arrays[name] = end if alpha == 1.0 else start + np.float32(alpha) * (end - start)
    save_file(arrays, target / WEIGHTS, metadata={"format": "pt"})
    for name in CHECKPOINT_FILES:
        if name != WEIGHTS and (tuned / name).is_file():
            shutil.copyfile(tuned / name, target / name)


def _export(base: Path, tuned: Path, alpha: float, folder: Path) -> Path:
    interpolate(base, tuned, alpha, folder)
    export_ctranslate2(folder, folder / "ctranslate2")
    return folder


def _trial(alpha: float, on_dev: Sequence[Hypothesis], on_guards: Sequence[Hypothesis]) -> Trial:
    return Trial(
        alpha=alpha,
        dev_wer=corpus_rate([h.errors for h in on_dev]),
        dev_cer=corpus_rate([h.characters for h in on_dev]),
        guards=_wers(on_guards),
    )


def _wers(hypotheses: Sequence[Hypothesis]) -> dict[str, float]:
    groups = by_language(hypotheses)
    return {
        language: corpus_rate([h.errors for h in group]) for language, group in groups.items() if language != POOLED
    }


def _describe(choice: Choice) -> str:
    tried = "; ".join(
        ", ".join([f"{trial.alpha:g}: dev {trial.dev_wer:.3f}", *(f"{k} {v:.3f}" for k, v in trial.guards.items())])
        for trial in choice.trials
    )
    line = f"alpha {choice.alpha:g} of WER at {tried}"
    if choice.base_guards:
        line += "; base " + ", ".join(f"{k} {v:.3f}" for k, v in choice.base_guards.items())
    if not choice.guards_held:
        line += f"; none keeps the guards within {choice.margin:g} of the base, so the least harmful is taken"
    return line
