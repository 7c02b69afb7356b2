"""What training will take: audio, steps, hours, disk, money.

A step is timed where the caller wants that (`time_steps`), else estimated: its operations are those of
three forward passes (Kaplan et al., arXiv:2001.08361: 6 floating-point operations a parameter and position), at a share
of the rate at which this machine multiplies matrices. Not estimated are what a slow disk or few cores that decode add.
"""

import json
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speech.context import MAX_POSITIONS, POSITIONS_PER_SECOND
from speech.tokens import WhisperTokenizer
from training.config import TrainingConfig
from training.data.checks import SPECIAL_TOKENS
from training.data.manifest import Utterance
from training.lint.report import Cost

OPERATIONS_PER_PARAMETER = 6
ACHIEVED_SHARE = 0.35
"""Of the matrix rate, by a whole training step."""

PROBE_STEPS = 3
MATRIX = 1024
MEASURE_S = 0.5

KEPT_CHECKPOINTS = 2
BYTES_PER_PARAMETER_OF_A_CHECKPOINT = 12  # float32 weights and Adam's two moments
BYTES_PER_PARAMETER_OF_A_VERSION = 4 + 2  # float32 checkpoint, float16 export


def estimate(
    config: TrainingConfig,
    base: Path,
    utterances: Sequence[Utterance],
    tokenizer: WhisperTokenizer,
    *,
    seconds_per_step: float | None = None,
    price_per_hour: float | None = None,
) -> Cost:
    """Say what training on the train split will take.

    Args:
        config: of the run.
        base: folder of the checkpoint to start from.
        utterances: of the data set.
        tokenizer: of the base.
        seconds_per_step: if it was measured; else it is estimated.
        price_per_hour: of the machine.
    """
    train = [u for u in utterances if u.split == "train"]
    per_step = config.batch_size * config.gradient_accumulation_steps
    steps_per_epoch = math.ceil(len(train) / per_step)
    how = f"measured over {PROBE_STEPS} steps"
    encoder, decoder = parameters(base)
    if seconds_per_step is None:
        device, rate = matrix_rate()
        operations = OPERATIONS_PER_PARAMETER * per_step * _per_clip(config, train, tokenizer, encoder, decoder)
        seconds_per_step = operations / (ACHIEVED_SHARE * rate)
        how = f"estimated from {rate / 1e9:,.0f} GFLOP/s of this machine's {device}"
    seconds = config.max_steps * seconds_per_step
    steps = config.max_steps
    if config.time_budget_s is not None and config.time_budget_s < seconds:
        seconds = config.time_budget_s
        steps = max(1, int(seconds / seconds_per_step))
    n_bytes = BYTES_PER_PARAMETER_OF_A_CHECKPOINT * KEPT_CHECKPOINTS + BYTES_PER_PARAMETER_OF_A_VERSION
    return Cost(
        hours=sum(u.audio.duration for u in train) / 3600,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        epochs=steps / steps_per_epoch if steps_per_epoch else 0.0,
        seconds_per_step=seconds_per_step,
        how=how,
        training_hours=seconds / 3600,
        disk_gb=n_bytes * (encoder + decoder) / 1e9,
        price=None if price_per_hour is None else price_per_hour * seconds / 3600,
    )


def _per_clip(
    config: TrainingConfig, train: Sequence[Utterance], tokenizer: WhisperTokenizer, encoder: int, decoder: int
) -> float:
    """Return parameters times positions of the mean clip."""
    if not train:
        return 0.0
    margin = float(np.mean(config.train_margins))
    short = np.mean([min(MAX_POSITIONS, POSITIONS_PER_SECOND * u.audio.duration + margin) for u in train])
    share = config.full_context_share
    positions = share * MAX_POSITIONS + (1 - share) * float(short)
    tokens = float(np.mean([len(tokenizer.encode(u.text)) for u in train[:1000]])) + SPECIAL_TOKENS
    return encoder * positions + decoder * tokens


def parameters(base: Path) -> tuple[int, int]:
    """Return how many parameters a checkpoint's encoder and decoder have, from the headers of its weights."""
    counts = [0, 0]
    for path in base.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                counts["decoder." in name or "proj_out" in name] += math.prod(entry["shape"])
    return counts[0], counts[1]


def matrix_rate() -> tuple[str, float]:
    """Return where training will run, and how many floating-point operations a second large matrices get there."""
    import torch  # seconds to import

    from training.finetune import computes_in_bf16

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if computes_in_bf16() else torch.float32
    matrix = torch.ones(MATRIX, MATRIX, device=device, dtype=dtype)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    matrix @ matrix
    wait()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < MEASURE_S:
        matrix @ matrix
        wait()
        done += 1
    return device, 2 * MATRIX**3 * done / (time.perf_counter() - started)


def time_steps(
    config: TrainingConfig, base: Path, utterances: Sequence[Utterance], audio_root: Path, runs: Path
) -> float:
    """Train a few real steps with the config, in a folder that is deleted, and return the seconds that one took.

    Args:
        config: of the run.
        base: folder of the checkpoint to start from.
        utterances: of the data set.
        audio_root: what relative audio paths start from.
        runs: where there is room for a checkpoint.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from training.finetune import fine_tune

    few = {"max_steps": PROBE_STEPS, "warmup_steps": 0, "time_budget_s": None, "save_steps": 10**6, "eval_steps": 10**6}
    train = [u for u in utterances if u.split == "train"]
    dev = [u for u in utterances if u.split == "dev"][: config.batch_size]
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="probe-", dir=runs))
    try:
        fine_tune(config.model_copy(update=few), base, train, dev, audio_root, folder)
        events = EventAccumulator(str(folder / "logs"))
        events.Reload()
        return 1 / float(events.Scalars("train/train_steps_per_second")[-1].value)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
