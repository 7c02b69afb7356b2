"""The rows of docs/training/figures.md: fine-tunings that differ from the recipe (recipe.toml) in one thing.

Each is a run of `training.finetune` of its own, of the same base on the same clips with the same seed. English is never
learned, but in the rows of replay, from its other half. All are measured on the same held-out clips, with the engine
that serves on this device.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.recipe.clock import StepClock
from registry import Registry, Version
from registry.files import write_atomically
from speech.context import ElasticContext
from speech.convert import export_ctranslate2
from speech.device import takes_gpu
from speech.engine import Engine, load_engine
from speech.text import normalize
from speech.tokens import WhisperTokenizer
from training.config import TrainingConfig, read_config
from training.data.general import with_texts
from training.data.manifest import Utterance
from training.data.mix import mix
from training.data.splits import split
from training.evaluate import Hypothesis, read_hypotheses, transcribe_utterances, write_hypotheses
from training.finetune import fine_tune
from training.interpolate import interpolate
from training.prepare import Data, prepare
from training.targets import Target, text_target

RECIPE = Path(__file__).parent / "recipe.toml"
FOLDS = 5
ALPHAS = (0.3, 0.5, 0.7, 0.85)
MARGINS = (0, 16, 32, 64, 96, 128)


@dataclass(frozen=True)
class Row:
    """One fine-tuning and how its result is served."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the config."""
    alphas: tuple[float, ...] = (1.0,)
    """Weights between the base's (0) and the fine-tuned ones (1) to be measured."""
    contexts: tuple[ElasticContext, ...] = ()
    """To be measured at, beside the one that the recipe is served at."""
    replay: bool = False
    doubled_start: bool = False
    fold: int | None = None
    """Held-out sentences are this fifth's."""


@dataclass(frozen=True)
class Heard:
    """What a row's result, or the base, made of the held-out clips."""

    row: str
    alpha: float
    context: ElasticContext
    steps: int
    learned: list[Hypothesis]
    guard: list[Hypothesis]
    seconds_a_step: float = math.nan
    """Of the fine-tuning, its first steps left out; not a number if there was none."""


ROWS = (
    Row(
        "the recipe",
        alphas=(*ALPHAS, 1.0),
        contexts=(*(ElasticContext(elastic=True, margin=margin) for margin in MARGINS), ElasticContext()),
    ),
    Row("start token doubled", doubled_start=True),
    Row("replay of English, the base's words", replay=True),
    Row("replay of English, its transcripts", {"replay_labels": "own"}, replay=True),
    Row("SpecAugment", {"augment": {"mask_time_share": 0.05, "mask_mel_share": 0.1}}),
    Row("speed 0.9, 1, 1.1", {"augment": {"speed_factors": [0.9, 1.0, 1.1]}}),
    Row("noise in half of the windows", {"augment": {"noise_share": 0.5}}),
    Row("clips stitched in a third of the windows", {"stitch_share": 0.33}),
    Row("one margin in training, 0.64 s", {"train_margins_s": [0.64]}),
    Row("never 30 s in training", {"full_context_share": 0.0}),
    Row("always 30 s in training", {"full_context_share": 1.0}, contexts=(ElasticContext(),)),
    Row("encoder frozen", {"freeze_encoder": True}),
    Row("LoRA, rank 32, 1e-3", {"lora": {}, "learning_rate": 1e-3}),
    Row("learning rate 1e-5", {"learning_rate": 1e-5}),
)

PADDING = (
    Row(
        "clips as long as they are",
        {"learning_rate": 1e-5},
        contexts=(*(ElasticContext(elastic=True, margin=margin) for margin in (64, 96, 128)), ElasticContext()),
    ),
    Row("the same, padded to 30 s", {"learning_rate": 1e-5, "full_context_share": 1.0}, contexts=(ElasticContext(),)),
)
"""At the rate that was best of `ROWS`: which of two recipes is better shows where neither is overdone."""

CROSS_VALIDATION = tuple(Row(f"fold {fold + 1}", fold=fold) for fold in range(FOLDS))


@dataclass(frozen=True)
class Laboratory:
    """What all rows share."""

    config: TrainingConfig
    base: Version
    data: Data
    folder: Path

    @classmethod
    def set_up(cls, registry: Path, runs: Path, steps: int) -> "Laboratory":
        """Read the recipe and its data, and name the folder by what the results depend on."""
        config = read_config(RECIPE, max_steps=steps)
        base = Registry(registry).resolve(config.base)
        data = prepare(config, WhisperTokenizer.from_folder(base.path), runs / "data")
        device = "cuda" if takes_gpu("auto") else "cpu"
        key = f"{config.model_dump_json()}\n{base.manifest_sha256()}\n{data.fingerprint}\n{device}"
        name = hashlib.sha256(key.encode()).hexdigest()[:12]
        return cls(config, base, data, runs.resolve() / "bench" / "recipes" / name)

    def clips(self, fold: int | None) -> dict[str, list[Utterance]]:
        """Return train, dev and test; of a fold, with its sentences held out."""
        utterances = self.data.utterances
        if fold is not None:
            given = [one.model_copy(update={"split": "test" if fold_of(one) == fold else None}) for one in utterances]
            utterances, _ = split(
                given, seed=self.config.seed, test_per_language=0, dev_per_language=self.config.dev_clips or 1
            )
        return {name: [one for one in utterances if one.split == name] for name in ("train", "dev", "test")}

    def served(self) -> ElasticContext:
        """Return the context that the recipe's result is served at."""
        return ElasticContext(elastic=True, margin=self.config.serving_margin)


def fold_of(utterance: Utterance) -> int:
    """Return the fifth that a sentence belongs to, whoever says it and however it is written."""
    sentence = f"{utterance.language}:{normalize(utterance.text)}"
    return hashlib.sha256(sentence.encode()).digest()[0] % FOLDS


def base_row(laboratory: Laboratory, fold: int | None = None) -> Heard:
    """Measure the base at 30 s."""
    name = "base" if fold is None else f"base-fold-{fold + 1}"
    return _hear(laboratory, Row(name, fold=fold), laboratory.base.path, 0.0, ElasticContext())


def run_rows(laboratory: Laboratory, rows: Sequence[Row], jobs: int, say: Callable[[str], None]) -> list[list[Heard]]:
    """Fine-tune and measure each row; what is done is not done again. Several at once, where the device can."""
    if jobs == 1:
        return [_said(run_row(laboratory, row), say) for row in rows]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_row, laboratory, row) for row in rows]
        return [_said(future.result(), say) for future in futures]


def _said(heard: list[Heard], say: Callable[[str], None]) -> list[Heard]:
    say(f"  {heard[0].row}: {heard[0].steps} steps")
    return heard


def run_row(laboratory: Laboratory, row: Row) -> list[Heard]:
    """Fine-tune by one row and measure at each of its alphas and contexts; the weights are not kept."""
    clips = laboratory.clips(row.fold)
    folder = laboratory.folder / _slug(row.name)
    served = laboratory.served()
    wanted = [(alpha, served) for alpha in row.alphas] + [(1.0, one) for one in row.contexts if one != served]
    done = folder / "done.json"
    clock = StepClock()
    if not done.is_file() or not all(_kept(laboratory, row, alpha, context).is_file() for alpha, context in wanted):
        done.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # the weights are gone, and more is to be heard than was
        config = changed(laboratory.config, row)
        replay = _rehearsed(laboratory) if row.replay and config.replay_labels == "base" else laboratory.data.replay
        with _start_doubled() if row.doubled_start else nullcontext():
            tuned = fine_tune(
                config,
                laboratory.base.path,
                mix(clips["train"], config.seed),
                clips["dev"],
                laboratory.folder,
                folder,
                replay=mix(replay, config.seed) if row.replay else (),
                callbacks=[clock],
            )
        for alpha, context in wanted:
            checkpoint = tuned.checkpoint
            if alpha != 1.0:
                checkpoint = folder / "between"
                interpolate(laboratory.base.path, tuned.checkpoint, alpha, checkpoint)
            _hear(laboratory, row, checkpoint, alpha, context)
        for weights in ("checkpoint", "between"):
            shutil.rmtree(folder / weights, ignore_errors=True)
        write_atomically(done, json.dumps({"steps": tuned.steps, "seconds_a_step": clock.seconds_a_step}).encode())
    told = json.loads(done.read_text(encoding="utf-8"))
    return [replace(_hear(laboratory, row, None, alpha, context), **told) for alpha, context in wanted]


def changed(config: TrainingConfig, row: Row) -> TrainingConfig:
    """Return the recipe with a row's changes, and without replay unless that is what the row is about."""
    content = config.model_dump(mode="json") | row.changes
    if not row.replay:
        content |= {"replay": [], "replay_share": None}
    return TrainingConfig.model_validate(content)


def _hear(laboratory: Laboratory, row: Row, checkpoint: Path | None, alpha: float, context: ElasticContext) -> Heard:
    """Transcribe what is held out, unless that was done before."""
    kept = _kept(laboratory, row, alpha, context)
    if not kept.is_file():
        if checkpoint is None:
            raise FileNotFoundError(kept)
        held_out = laboratory.clips(row.fold)["test"]
        engine = _engine(checkpoint, context)
        write_hypotheses(kept, transcribe_utterances(engine, [*held_out, *laboratory.data.guards], laboratory.folder))
    heard = read_hypotheses(kept)
    guards = {one.id for one in laboratory.data.guards}
    return Heard(
        row.name,
        alpha,
        context,
        0,
        [one for one in heard if one.id not in guards],
        [one for one in heard if one.id in guards],
    )


def _kept(laboratory: Laboratory, row: Row, alpha: float, context: ElasticContext) -> Path:
    """Return where lies what was heard."""
    at = f"{context.margin}" if context.elastic else "full"
    return laboratory.folder / _slug(row.name) / f"alpha-{alpha:g}-margin-{at}.jsonl.gz"


def _engine(checkpoint: Path, context: ElasticContext) -> Engine:
    if not takes_gpu("auto") and not (checkpoint / "ctranslate2").is_dir():
        export_ctranslate2(checkpoint, checkpoint / "ctranslate2")
    return load_engine(checkpoint, context)


def _rehearsed(laboratory: Laboratory) -> list[Utterance]:
    """Return the replay with the base's own words."""
    kept = laboratory.folder / "replay.jsonl.gz"
    if not kept.is_file():
        engine = _engine(laboratory.base.path, ElasticContext())
        write_hypotheses(kept, transcribe_utterances(engine, laboratory.data.replay, laboratory.folder))
    return with_texts(laboratory.data.replay, {one.id: one.hypothesis for one in read_hypotheses(kept)})


def _start_doubled() -> AbstractContextManager[Any]:
    """Train as most public recipes do: labels that begin with the start token, and the decoder's own before it."""

    def doubled(tokenizer: WhisperTokenizer, text: str, language: str) -> Target:
        target = text_target(tokenizer, text, language)
        return Target([tokenizer.sot, *target.inputs], [tokenizer.sot, *target.labels])

    return patch("training.windows.text_target", doubled)


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name.lower()).split())
