"""transformers' `Seq2SeqTrainer`, with what Whisper at an elastic context needs, and a budget of time.

What differs from the stock trainer: batches of like length, a loss normalised by tokens over accumulated batches,
evaluation with our own greedy decoding (transformers' `generate` pads to 30 s), and a learning rate that falls to zero
when the time or the steps run out, whichever comes first. It trains alike in one process or in several, and goes on
after a kill as if there had been none (docs/training/resume.md).
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import Seq2SeqTrainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from speech.context import SAMPLES_PER_POSITION
from speech.encoder import encode
from speech.engine import MAX_NEW_TOKENS, max_new_tokens
from speech.engine.torch_engine import greedy
from speech.tokens import MAX_LABEL_TOKENS, WhisperTokenizer
from training.adapters import whisper_of
from training.batches import Batch
from training.checkpoints import Checkpoint, SaveError, checkpoint_path, discard, prune, saving, seal
from training.devices import largest, n_processes, rank, wait_for_all
from training.targets import IGNORED
from training.teacher import lesson_loss
from training.windows import Draw, TrainingWindows

PROMPT_TOKENS = 4  # start, language, task, no timestamps
PRINT_EVERY_S = 30.0
WARMUP_SHARE = 0.1  # of the time


class Budget:
    """How far a run has come, in steps and in seconds, and the learning rate that belongs there."""

    def __init__(self, max_steps: int, warmup_steps: int, seconds: float | None) -> None:
        self.max_steps = max_steps
        self.warmup_steps = warmup_steps
        self.seconds = seconds
        self.spent_s = 0.0  # saved with the scheduler, so a resumed run has only the rest

    def progress(self, step: int) -> float:
        """Return the share of the run that is over, in [0, 1]."""
        by_time = 0.0 if self.seconds is None else self.spent_s / self.seconds
        return min(1.0, max(step / self.max_steps, by_time))

    def __call__(self, step: int) -> float:
        """Return the factor of the peak learning rate: a linear warm-up, then a linear fall to zero."""
        rise = (step + 1) / max(1, self.warmup_steps)
        if self.seconds is not None:  # a slow machine, or a short budget, must not end within the warm-up
            rise = max(rise, self.spent_s / (WARMUP_SHARE * self.seconds))
        return min(1.0, rise) * (1.0 - self.progress(step))


class BudgetCallback(TrainerCallback):  # type: ignore[misc]
    """Keeps the clock, ends the run on time, and shows how far it is."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._last = time.monotonic()
        self._started_s = 0.0
        self._printed_s = -PRINT_EVERY_S
        self._started_progress = 0.0
        self._loss = math.nan
        self._bar = Progress(
            TextColumn("fine-tuning"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        self._task = self._bar.add_task("", total=1.0)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock; a resumed run goes on from what it had spent."""
        state.save_steps = args.save_steps  # a resumed run has its checkpoint's, and may be told others
        self._last = time.monotonic()
        self._started_s = self._budget.spent_s
        self._started_progress = self._budget.progress(state.global_step)
        if self._bar.console.is_terminal and rank() == 0:
            self._bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count the time, and stop when it is spent."""
        now = time.monotonic()
        self._budget.spent_s += now - self._last
        self._last = now
        if self._budget.seconds is not None:  # clocks differ, and with them learning rates would
            self._budget.spent_s = largest(self._budget.spent_s)
        if self._budget.progress(state.global_step) >= 1.0:
            control.should_training_stop = True
            control.should_save = True  # what comes after training may fail; the training need not be lost with it
        if rank() == 0:
            self._show(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Remember the loss; a loss, or a gradient, that is no number ends the run."""
        self._loss = (logs or {}).get("loss", self._loss)
        for name, said in (("loss", "loss"), ("grad_norm", "gradients' norm"), ("eval_loss", "loss on dev")):
            value = (logs or {}).get(name, 0.0)
            if not math.isfinite(value):
                raise FloatingPointError(f"the {said} is {value} at step {state.global_step}: lower the learning rate")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Close the bar, also after an error; more than once does no harm."""
        if self._bar.live.is_started:
            self._bar.stop()

    def _show(self, state: TrainerState) -> None:
        progress = self._budget.progress(state.global_step)
        gained = progress - self._started_progress
        here_s = self._budget.spent_s - self._started_s
        left_s = here_s / gained * (1.0 - progress) if gained > 0 else 0.0
        loss = "–" if math.isnan(self._loss) else f"{self._loss:.3f}"  # none before the first log
        text = f"step {state.global_step}  loss {loss}  {left_s / 60:.1f} min left"
        if self._bar.console.is_terminal:
            self._bar.update(self._task, completed=progress, description=text)
        elif here_s - self._printed_s >= PRINT_EVERY_S:
            self._printed_s = here_s
            self._bar.console.print(f"fine-tuning {progress:4.0%}  {text}", highlight=False)


class InterruptCallback(TrainerCallback):  # type: ignore[misc]
    """Turns SIGINT and SIGTERM into a checkpoint and an orderly stop after the step at hand.

    An exception in the middle of a step would leave weights that no checkpoint could be made of. A second signal ends
    the process as usual; under torchrun, which passes a signal on that the terminal has sent already, it is ignored.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take the signals over; only a process's main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop if a signal came, to whichever process."""
        self.interrupted = bool(largest(self.interrupted))
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Give the signals back."""
        self.restore()

    def _note(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a data loader's worker: the step at hand still needs it
            return
        self.interrupted = True
        if n_processes() == 1:
            self.restore()
        if rank() == 0:
            then = "once more to stop at once" if n_processes() == 1 else "the same command goes on from it"
            Console(stderr=True).print(f"interrupted: a checkpoint is saved after this step; {then}", soft_wrap=True)

    def restore(self) -> None:
        """Give the signals back, also after an error; more than once does no harm."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class CurvesCallback(TensorBoardCallback):  # type: ignore[misc]
    """TensorBoard's curves, on the disk with every checkpoint: what a kill loses of them, a resumed run logs again."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write what is held back."""
        self.tb_writer.flush()


class LikeLengths(Sampler[Draw]):
    """Steps of windows of like length, in an order that follows from seed and epoch alone.

    The stock sampler draws each epoch from where the last one left its generator, so a run resumed in its second epoch
    sees the windows in the order of the first. An epoch is made of whole steps: the last one is filled up with those of
    the steps before it, as any number of processes must find the same steps.
    """

    def __init__(self, windows_per_step: int, *, windows: TrainingWindows, seed: int) -> None:
        self._windows_per_step = windows_per_step
        self._windows = windows
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of another epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._windows_per_step * math.ceil(len(self._windows) / self._windows_per_step)

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator()
        generator.manual_seed(1_000_003 * self._seed + self._epoch)
        lengths = self._windows.positions(self._epoch)
        order = get_length_grouped_indices(lengths, self._windows_per_step, generator=generator)
        whole = order[: len(order) // self._windows_per_step * self._windows_per_step]
        filling = islice(cycle(reversed(whole or order)), len(self) - len(order))
        return (Draw(self._epoch, number) for number in (*order, *filling))


class ElasticTrainer(Seq2SeqTrainer):  # type: ignore[misc]
    """Trains a model that `speech.encoder.make_elastic` has prepared."""

    def __init__(self, *, tokenizer: WhisperTokenizer, budget: Budget, **kwargs: Any) -> None:
        super().__init__(compute_loss_func=token_mean_loss, **kwargs)
        self.remove_callback(PrinterCallback)
        self._progress = BudgetCallback(budget)
        self._interrupt = InterruptCallback()
        self.add_callback(self._progress)
        self.add_callback(self._interrupt)
        # Our loss wants the number of tokens; the model's forward must not be handed it.
        self.model_accepts_loss_kwargs = False
        self._tokenizer = tokenizer
        self._budget = budget
        self._sampler: LikeLengths | None = None
        self._saved: int | None = None  # step of the last whole checkpoint

    def train(self, resume: Checkpoint | None = None) -> Any:
        """Train, from `resume` on if given; after a signal, save a checkpoint and raise KeyboardInterrupt.

        Raises:
            SaveError: a checkpoint could not be written; the one before it is whole.
            KeyboardInterrupt: SIGINT or SIGTERM came.
        """
        # On a CPU, as many threads as before: another number sums in another order, and the last bits differ.
        torch.set_num_threads(torch.get_num_threads() if resume is None else resume.seal.threads)
        if resume is not None:
            self._saved = resume.seal.step
            if resume.seal.finished:
                return self._take(resume)
        try:
            result = super().train(resume_from_checkpoint=None if resume is None else str(resume.path))
        finally:
            self._progress.close()
            self._interrupt.restore()
        if self._interrupt.interrupted:
            raise KeyboardInterrupt
        return result

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """Let the budget rule the learning rate."""
        scheduler: LambdaLR = LambdaLR(optimizer or self.optimizer, self._budget)
        self.lr_scheduler = scheduler
        self._created_lr_scheduler = True
        return scheduler

    def _take(self, finished: Checkpoint) -> None:
        """Take over a run that was killed after its last step; Trainer would make one more."""
        self._load_from_checkpoint(str(finished.path))
        self.state = TrainerState.load_from_json(str(finished.path / TRAINER_STATE_NAME))

    def _get_train_sampler(self, train_dataset: TrainingWindows | None = None) -> LikeLengths:
        self._sampler = LikeLengths(
            self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            windows=train_dataset or self.train_dataset,
            seed=self.args.seed,
        )
        return self._sampler

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        # Neither Trainer nor accelerate finds the sampler of a shard of which the first batches are skipped.
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of the labels, or of a teacher's lessons where the batch has them."""
        if "lesson_tokens" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(input_features=inputs["input_features"], decoder_input_ids=inputs["decoder_input_ids"])
        loss = lesson_loss(
            outputs.logits,
            inputs["lesson_tokens"],
            inputs["lesson_probabilities"],
            inputs["labels"],
            num_items_in_batch,
        )
        # What Trainer does behind its own loss: gradients are averaged over processes, the labels counted over all.
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # Trainer logs first: BudgetCallback ends the run before what a lost loss has spoilt is chosen or saved.
        if self.control.should_save or self.control.should_evaluate:
            self.control.should_log = True
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step = self.state.global_step
        folder = Path(self.args.output_dir)
        path = checkpoint_path(folder, step)
        then = "the same command " + ("starts over" if self._saved is None else f"goes on from step {self._saved}")
        finished = self._budget.progress(step) >= 1.0 or (
            self.control.should_training_stop and not self._interrupt.interrupted
        )
        try:
            with saving(f"the checkpoint of step {step}", folder, then):
                if self.args.should_save:
                    discard(path)  # what a kill left
                wait_for_all()
                super()._save_checkpoint(model, trial)
                wait_for_all()
                if self.args.should_save:
                    seal(path, step=step, finished=finished, threads=torch.get_num_threads())
        except SaveError:
            discard(path)
            raise
        self._saved = step
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            prune(folder, None if best is None else Path(best))

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return loss, greedily decoded tokens (batch, 224), and labels (batch, 448), padded with IGNORED."""
        prepared = self._prepare_inputs(inputs)
        with torch.inference_mode(), self.compute_loss_context_manager():
            features, decoder_input_ids = prepared["input_features"], prepared["decoder_input_ids"]
            outputs = model(input_features=features, decoder_input_ids=decoder_input_ids, use_cache=False)
            loss = token_mean_loss(outputs, prepared["labels"])
            if prediction_loss_only:
                return loss, None, None
            whisper = whisper_of(self.accelerator.unwrap_model(model))
            encoded = encode(whisper.model.encoder, features)
            prompts = decoder_input_ids[:, :PROMPT_TOKENS].tolist()
            # The batch has no windows whose own length would say it.
            limit = max_new_tokens(encoded.shape[1] * SAMPLES_PER_POSITION)
            hypotheses = greedy(whisper, encoded, prompts, limit, self._tokenizer)
        labels = prepared["labels"]
        predictions = torch.full((len(hypotheses), MAX_NEW_TOKENS), IGNORED, device=labels.device)
        for row, hypothesis in enumerate(hypotheses):
            predictions[row, : len(hypothesis.tokens)] = torch.tensor(hypothesis.tokens, device=labels.device)
        return loss, predictions, nn.functional.pad(labels, (0, MAX_LABEL_TOKENS - labels.shape[1]), value=IGNORED)


def token_mean_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Return the cross-entropy a token, over all tokens of an optimiser step.

    Dividing each forward pass by its own count would weigh a clip by what it is accumulated with (transformers#37766).
    """
    total = nn.functional.cross_entropy(
        outputs.logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (labels.ne(IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


def make_compute_metrics(
    tokenizer: WhisperTokenizer, metric: Any, languages: Sequence[str]
) -> Callable[[Any], dict[str, float]]:
    """Return the function that turns an `EvalPrediction` into corpus WER and CER.

    Several processes get batches of one number and size: clips from the beginning come again at the end, after those
    of the set, and Trainer does not take them away.

    Args:
        tokenizer: of the model.
        metric: `training.metrics.word_error_rate`, loaded.
        languages: of the set's clips, in their order.
    """
    n_clips = len(languages)

    def compute(prediction: Any) -> dict[str, float]:
        texts = [
            [tokenizer.decode([token for token in row if token != IGNORED]) for row in rows.tolist()]
            for rows in (prediction.predictions[:n_clips], prediction.label_ids[:n_clips])
        ]
        scores: dict[str, float] = metric.compute(predictions=texts[0], references=texts[1], languages=languages)
        return scores

    return compute
