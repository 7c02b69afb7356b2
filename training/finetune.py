"""Fine-tune a Whisper checkpoint on a manifest: set up, load, train, choose, evaluate, save.

Reads a folder and a manifest, and writes a folder. It neither publishes nor judges: `training.run` does.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import evaluate
import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import Seq2SeqTrainingArguments, TrainerCallback, WhisperForConditionalGeneration, set_seed
from transformers.utils.logging import disable_progress_bar

from registry.files import fsync_tree, write_atomically
from speech.checkpoint import CHECKPOINT_FILES, WEIGHTS, checkpoint_files
from speech.encoder import make_elastic
from speech.tokens import WhisperTokenizer
from training import metrics
from training.adapters import add_adapters, merged_weights, whisper_of
from training.batches import ElasticCollator, Utterances
from training.checkpoints import last_checkpoint, saving
from training.config import TrainingConfig
from training.data.manifest import Utterance
from training.devices import divide_batch, n_processes, rank, wait_for_all
from training.selection import SelectionCallback, Weights, mean_weights
from training.teacher import Lessons, TaughtCollator, TaughtWindows
from training.trainer import Budget, CurvesCallback, ElasticTrainer, make_compute_metrics
from training.windows import TrainingWindows

METRIC = Path(metrics.__file__).parent / "word_error_rate.py"


@dataclass(frozen=True)
class FineTuned:
    """Where the result lies, and what training said of it."""

    checkpoint: Path
    steps: int
    dev: dict[str, float]  # wer (of characters, where a language has no blanks), cer, loss of the checkpoint on dev
    selected: tuple[int, ...]  # steps whose weights it is the mean of
    alpha: float = 1.0  # its place between the base (0) and the fine-tuned weights, see `training.interpolate`


def fine_tune(
    config: TrainingConfig,
    base: Path,
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    audio_root: Path,
    run: Path,
    *,
    replay: Sequence[Utterance] = (),
    lessons: Lessons | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> FineTuned:
    """Fine-tune `base` and write the checkpoint to `run / "checkpoint"`; an interrupted run is resumed.

    Of several processes (`training.devices`), all call this, and the first one writes.

    Args:
        config: of the run.
        base: folder of a transformers checkpoint in safetensors.
        train: utterances to learn from.
        dev: utterances for the in-loop evaluation.
        audio_root: what relative audio paths start from.
        run: folder for checkpoints, TensorBoard logs (`logs/`) and the result.
        replay: general speech to rehearse, as much of it as the config says.
        lessons: what a teacher says in each of `train`, to learn that instead of the texts alone.
        callbacks: told of each step, as transformers tells them.

    Raises:
        SaveError: the disk is full, or fails; the last whole checkpoint is kept.
        ConfigError: the processes cannot share a batch.
        KeyboardInterrupt: a signal came, and a checkpoint was saved.
    """
    done = run / "finetuned.json"
    if done.is_file():
        return _read_result(done, run)
    resume = last_checkpoint(run / "checkpoints")

    # Set up
    set_seed(config.seed)
    disable_progress_bar()  # of loading and saving, which take a second; training has a bar of its own
    bf16 = config.bf16 if config.bf16 is not None else computes_in_bf16()

    # Load
    tokenizer = WhisperTokenizer.from_folder(base)
    model = WhisperForConditionalGeneration.from_pretrained(
        base, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
    )
    model.config.use_cache = False
    model.config.apply_spec_augment = False  # the recipe's blanks lie on the clip; transformers' fall on padding, too
    make_elastic(model)
    if config.freeze_encoder:
        model.model.encoder.requires_grad_(requires_grad=False)
    if config.lora is not None:
        model = add_adapters(model, config.lora, encoder=not config.freeze_encoder)
    n_mels = model.config.num_mel_bins
    windows = (
        TrainingWindows(config, train, replay, audio_root, tokenizer, n_mels)
        if lessons is None
        else TaughtWindows(config, train, audio_root, tokenizer, n_mels, lessons)
    )
    collator = ElasticCollator(
        n_mels=n_mels,
        pad_token=tokenizer.eot,
        margins=config.train_margins,
        full_context_share=config.full_context_share,
        seed=config.seed,
    )
    by_length = sorted(dev, key=lambda utterance: utterance.audio.duration)

    # Train
    selection = SelectionCallback(
        run / "snapshots",
        merged_weights,
        select=config.select,
        count=config.average_checkpoints,
        patience=config.early_stopping_patience,
        min_delta=config.early_stopping_min_delta,
    )
    trainer = ElasticTrainer(
        tokenizer=tokenizer,
        budget=Budget(config.max_steps, config.warmup, config.time_budget_s),
        model=model,
        args=_arguments(config, run, bf16=bf16),
        train_dataset=windows,
        eval_dataset=Utterances(by_length, audio_root, tokenizer, margin=config.serving_margin),
        data_collator=collator if lessons is None else TaughtCollator(collator),
        callbacks=[*_curves(run / "logs", 0 if resume is None else resume.seal.step), selection, *callbacks],
        compute_metrics=make_compute_metrics(
            tokenizer, evaluate.load(str(METRIC)), [utterance.language for utterance in by_length]
        ),
    )
    trainer.train(resume)
    steps = trainer.state.global_step

    # Choose
    scores = _last_scores(trainer) or trainer.evaluate()
    wait_for_all()  # the first process writes the weights, all of them read
    chosen = selection.chosen()
    weights = mean_weights([snapshot.path for snapshot in chosen])

    # Evaluate
    if [snapshot.step for snapshot in chosen] != [steps]:
        trainer.remove_callback(selection)
        trainer.model = _with_weights(trainer.model, weights)
        scores = trainer.evaluate()
    dev_scores = {name: float(scores[f"eval_{name}"]) for name in ("wer", "cer", "loss")}

    # Save
    if rank() == 0:
        with saving("the fine-tuned checkpoint", run, "the same command goes on from the last step"):
            save_checkpoint(_with_weights(trainer.model, weights), base, run / "checkpoint")
            fsync_tree(run / "checkpoint")
            result = {"steps": steps, "dev": dev_scores, "selected": sorted(snapshot.step for snapshot in chosen)}
            write_atomically(done, json.dumps(result).encode())
    wait_for_all()
    return _read_result(done, run)


def _curves(logs: Path, step: int) -> list[CurvesCallback]:
    """Return what writes TensorBoard's logs; a resumed run takes back what was logged after `step`."""
    if rank() > 0:
        return []
    return [CurvesCallback(SummaryWriter(str(logs), purge_step=step + 1 if step else None))]


def _last_scores(trainer: ElasticTrainer) -> dict[str, float] | None:
    """Return the scores of the last step if it was evaluated in the loop."""
    last = [entry for entry in trainer.state.log_history if "eval_wer" in entry][-1:]
    return last[0] if last and last[0]["step"] == trainer.state.global_step else None


def _with_weights(model: Any, weights: Weights) -> WhisperForConditionalGeneration:
    """Return the Whisper alone, without adapters, with other weights."""
    whisper = whisper_of(model) if whisper_of(model) is model else model.unload()
    whisper.load_state_dict(weights)
    return whisper


def _arguments(config: TrainingConfig, run: Path, *, bf16: bool) -> Seq2SeqTrainingArguments:
    batch_size, accumulation = divide_batch(config.batch_size, config.gradient_accumulation_steps, n_processes())
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(run / "checkpoints"),
        learning_rate=config.learning_rate,
        max_steps=config.max_steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=accumulation,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=bf16,
        seed=config.seed,
        eval_strategy="steps",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=None,  # ElasticTrainer removes old ones, once a new one is sealed
        logging_steps=5,
        logging_nan_inf_filter=False,  # it would put the last finite loss in place of one that must end the run
        report_to=[],  # TensorBoard has a callback of its own, with a folder that outlives the checkpoints
        predict_with_generate=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=config.dataloader_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        disable_tqdm=True,  # BudgetCallback shows the time that is left of the budget, not of max_steps
        use_cpu=not torch.cuda.is_available(),
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # noqa: SLF001 - no DataParallel; several GPUs take several processes
    return arguments


def computes_in_bf16() -> bool:
    """Say whether this machine multiplies bfloat16 in hardware; elsewhere it is emulated, and slower than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "avx512_bf16" in flags.read_text(encoding="utf-8", errors="replace")


def save_checkpoint(model: Any, base: Path, target: Path) -> None:
    """Write the weights in float32 safetensors beside `base`'s tokenizer and configs, which training leaves alone.

    Trainer rewrites scalar token ids of the generation config as lists (transformers#45584); taking the base's file
    keeps it whole. Only tokens that configs of 2022 and 2023 force do not come through: `generate` would write the
    base's language whatever is said, or refuse.
    """
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(target, max_shard_size="100GB")
    for file in checkpoint_files(base):
        if file.suffix == ".json" and file.name in CHECKPOINT_FILES:
            shutil.copyfile(file, target / file.name)
    for name, now in (("config.json", {"dtype": "float32"}), ("generation_config.json", {})):
        before = json.loads((target / name).read_text(encoding="utf-8"))
        kept = {key: value for key, value in before.items() if key not in {"torch_dtype", "forced_decoder_ids"}}
        (target / name).write_text(json.dumps(kept | now, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if not (target / WEIGHTS).is_file():
        raise RuntimeError(f"{target / WEIGHTS} was not written in one piece")


def _read_result(path: Path, run: Path) -> FineTuned:
    for folder in ("checkpoints", "snapshots"):
        shutil.rmtree(run / folder, ignore_errors=True)
    result = json.loads(path.read_text(encoding="utf-8"))
    return FineTuned(
        checkpoint=run / "checkpoint", steps=result["steps"], dev=result["dev"], selected=tuple(result["selected"])
    )
