"""Fine-tune a Whisper checkpoint on a manifest: set up, load, train, evaluate, save.

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
from transformers import Seq2SeqTrainingArguments, WhisperForConditionalGeneration, set_seed
from transformers.utils.logging import disable_progress_bar

from registry.files import fsync_tree, write_atomically
from speech.checkpoint import CHECKPOINT_FILES, WEIGHTS, checkpoint_files
from speech.encoder import make_elastic
from speech.tokens import WhisperTokenizer
from training import metrics
from training.batches import ElasticCollator, Utterances
from training.checkpoints import last_checkpoint, saving
from training.config import TrainingConfig
from training.data.manifest import Utterance
from training.devices import divide_batch, n_processes, rank, wait_for_all
from training.trainer import Budget, CurvesCallback, ElasticTrainer, make_compute_metrics

METRIC = Path(metrics.__file__).parent / "word_error_rate.py"


@dataclass(frozen=True)
class FineTuned:
    """Where the result lies, and what training said of it."""

    checkpoint: Path
    steps: int
    dev: dict[str, float]  # wer, cer, loss on the dev set, at the end


def fine_tune(
    config: TrainingConfig,
    base: Path,
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    audio_root: Path,
    run: Path,
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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bf16 = config.bf16 if config.bf16 is not None else computes_in_bf16(device)

    # Load
    tokenizer = WhisperTokenizer.from_folder(base)
    model = WhisperForConditionalGeneration.from_pretrained(
        base, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
    )
    model.config.use_cache = False
    make_elastic(model)
    collator = ElasticCollator(
        n_mels=model.config.num_mel_bins,
        pad_token=tokenizer.eot,
        margins=config.train_margins,
        full_context_share=config.full_context_share,
        seed=config.seed,
    )
    by_length = sorted(dev, key=lambda utterance: utterance.audio.duration)

    # Train
    trainer = ElasticTrainer(
        tokenizer=tokenizer,
        budget=Budget(config.max_steps, config.warmup, config.time_budget_s),
        model=model,
        args=_arguments(config, run, bf16=bf16),
        train_dataset=Utterances(train, audio_root, tokenizer),
        eval_dataset=Utterances(by_length, audio_root, tokenizer, margin=config.serving_margin),
        data_collator=collator,
        callbacks=_curves(run / "logs", 0 if resume is None else resume.seal.step) if rank() == 0 else [],
        compute_metrics=make_compute_metrics(tokenizer, evaluate.load(str(METRIC))),
    )
    trainer.train(resume)

    # Evaluate
    scores = trainer.evaluate()
    dev_scores = {name: float(scores[f"eval_{name}"]) for name in ("wer", "cer", "loss")}

    # Save
    if rank() == 0:
        with saving("the fine-tuned checkpoint", run, "the same command goes on from the last step"):
            save_checkpoint(trainer.model, base, run / "checkpoint")
            fsync_tree(run / "checkpoint")
            result = {"steps": trainer.state.global_step, "dev": dev_scores}
            write_atomically(done, json.dumps(result).encode())
    wait_for_all()
    return _read_result(done, run)


def _curves(logs: Path, step: int) -> list[CurvesCallback]:
    """Return what writes TensorBoard's logs; a resumed run takes back what was logged after `step`."""
    return [CurvesCallback(SummaryWriter(str(logs), purge_step=step + 1 if step else None))]


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
        bf16=bf16,
        seed=config.seed,
        eval_strategy="steps",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=None,  # ElasticTrainer removes old ones, once a new one is sealed
        logging_steps=5,
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


def computes_in_bf16(device: str) -> bool:
    """Say whether `device` multiplies bfloat16 in hardware; elsewhere it is emulated, and slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "avx512_bf16" in flags.read_text(encoding="utf-8", errors="replace")


def save_checkpoint(model: Any, base: Path, target: Path) -> None:
    """Write the weights in float32 safetensors beside `base`'s tokenizer and configs, which training leaves alone.

    Trainer rewrites scalar token ids of the generation config as lists (transformers#45584); taking the base's file
    keeps it whole.
    """
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(target, max_shard_size="100GB")
    for file in checkpoint_files(base):
        if file.suffix == ".json" and file.name in CHECKPOINT_FILES:
            shutil.copyfile(file, target / file.name)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if not (target / WEIGHTS).is_file():
        raise RuntimeError(f"{target / WEIGHTS} was not written in one piece")


def _read_result(path: Path, run: Path) -> FineTuned:
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    result = json.loads(path.read_text(encoding="utf-8"))
    return FineTuned(checkpoint=run / "checkpoint", steps=result["steps"], dev=result["dev"])
