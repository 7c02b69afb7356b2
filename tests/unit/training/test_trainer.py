"""The budget, the loss, checkpoints, and fine-tuning itself, on a Whisper of random weights."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Seq2SeqTrainingArguments, TrainerState, WhisperForConditionalGeneration

import training.trainer
from speech.engine.torch_engine import greedy
from speech.tokens import WhisperTokenizer
from training import finetune
from training.batches import ElasticCollator
from training.config import read_config
from training.finetune import fine_tune
from training.targets import IGNORED
from training.trainer import Budget, BudgetCallback, LikeLengths, make_compute_metrics, token_mean_loss
from training.windows import Draw, TrainingWindows


def weights(folder):
    """Return the arrays of a checkpoint."""
    return load_file(folder / "model.safetensors")


def test_the_learning_rate_rises_and_falls_with_the_steps():
    """Warm-up to the peak, then down to nothing at the last step."""
    budget = Budget(max_steps=100, warmup_steps=10, seconds=None)
    rates = [budget(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9]
    assert rates[100] == 0
    assert all(later < earlier for earlier, later in pairwise(rates[9:]))


def test_time_ends_a_run_as_steps_do():
    """When the time is spent, the run is over and the learning rate is zero, whatever the steps."""
    budget = Budget(max_steps=1000, warmup_steps=0, seconds=60)
    budget.spent_s = 30
    assert budget(10) == pytest.approx(0.5)
    budget.spent_s = 61
    assert budget.progress(11) == 1.0
    assert budget(11) == 0.0


def test_a_short_budget_does_not_end_in_the_warm_up():
    """After a tenth of the time the learning rate is at its height, however few steps were made."""
    budget = Budget(max_steps=1000, warmup_steps=50, seconds=60)
    budget.spent_s = 6.0
    assert budget(2) == pytest.approx(0.9)


def test_a_resumed_run_is_saved_as_its_recipe_says_now():
    """Trainer takes how often from the checkpoint; whoever stops a run to save it more often means the recipe."""
    arguments = Seq2SeqTrainingArguments(save_steps=5, report_to=[])
    state = TrainerState(save_steps=100, global_step=200)
    BudgetCallback(Budget(max_steps=1000, warmup_steps=0, seconds=None)).on_train_begin(arguments, state, None)
    assert state.save_steps == 5


def test_the_loss_is_a_mean_over_tokens():
    """Eight clips in one pass, or one by one, divided by the tokens of all eight, give one and the same gradient."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, 30, generator=generator, requires_grad=True)
    labels = torch.randint(0, 30, (8, 5), generator=generator)
    for row in range(8):
        labels[row, 1 + row % 5 :] = IGNORED
    n_tokens = labels.ne(IGNORED).sum()
    token_mean_loss(Outputs(logits), labels, n_tokens).backward()
    together = logits.grad.clone()
    logits.grad = None
    for row in range(8):
        token_mean_loss(Outputs(logits[row : row + 1]), labels[row : row + 1], n_tokens).backward()
    torch.testing.assert_close(logits.grad, together)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(token_mean_loss(Outputs(logits), labels), expected)


class Outputs:
    """What a model's forward returns, as far as the loss looks."""

    def __init__(self, logits):
        self.logits = logits


def test_fine_tuning_changes_the_weights_and_nothing_else(tiny, noise_clips, short_config, tmp_path):
    """The result is a checkpoint with the base's tokenizer and configs, scores, and TensorBoard logs."""
    clips, root = noise_clips
    result = fine_tune(short_config(), tiny.checkpoint, clips[:8], clips[8:], root, tmp_path)
    assert result.steps == 6
    assert set(result.dev) == {"wer", "cer", "loss"}
    before, after = weights(tiny.checkpoint), weights(result.checkpoint)
    assert before.keys() == after.keys()
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    for name in ("generation_config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (result.checkpoint / name).read_bytes() == (tiny.checkpoint / name).read_bytes()
    assert isinstance(json.loads((result.checkpoint / "generation_config.json").read_text())["eos_token_id"], int)
    assert WhisperTokenizer.from_folder(result.checkpoint).sot == WhisperTokenizer.from_folder(tiny.checkpoint).sot
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


def test_fine_tuning_learns(tiny, noise_clips, short_config, tmp_path):
    """The loss on the very clips that are trained on falls."""
    clips, root = noise_clips
    first = fine_tune(short_config(max_steps=2), tiny.checkpoint, clips[:4], clips[:4], root, tmp_path / "short")
    later = fine_tune(short_config(max_steps=16), tiny.checkpoint, clips[:4], clips[:4], root, tmp_path / "long")
    assert later.dev["loss"] < first.dev["loss"] - 0.05


def test_a_run_that_is_done_is_not_done_again(tiny, noise_clips, short_config, tmp_path):
    """The second call returns the first one's result without training."""
    clips, root = noise_clips
    first = fine_tune(short_config(), tiny.checkpoint, clips[:8], clips[8:], root, tmp_path)
    stamp = (first.checkpoint / "model.safetensors").stat().st_mtime_ns
    assert fine_tune(short_config(), tiny.checkpoint, clips[:8], clips[8:], root, tmp_path) == first
    assert (first.checkpoint / "model.safetensors").stat().st_mtime_ns == stamp


@given(
    lengths=st.lists(st.integers(1, 1500), min_size=1, max_size=60),
    per_step=st.integers(1, 16),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
)
def test_an_epoch_is_whole_steps_of_all_windows(lengths, per_step, seed, epoch):
    """Every window comes, the last step is filled up, and the order follows from seed and epoch alone."""
    sampler = LikeLengths(per_step, windows=Lengths(lengths), seed=seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(order) == len(sampler)
    assert len(order) % per_step == 0
    assert sorted(order[: len(lengths)]) == [Draw(epoch, number) for number in range(len(lengths))]
    again = LikeLengths(per_step, windows=Lengths(lengths), seed=seed)
    list(again)
    again.set_epoch(epoch)
    assert list(again) == order


class Lengths:
    """Windows, as far as the sampler looks at them."""

    def __init__(self, lengths):
        self._lengths = lengths

    def __len__(self):
        return len(self._lengths)

    def positions(self, epoch):
        """Return the same lengths in each epoch."""
        return self._lengths


def test_steps_hold_windows_of_like_length():
    """Within most steps the longest window is not much longer than the shortest."""
    lengths = [50 + 7 * i % 1400 for i in range(230)]
    order = LikeLengths(8, windows=Lengths(lengths), seed=1)
    steps = np.array([lengths[draw.number] for draw in order]).reshape(-1, 8)
    assert np.median(steps.max(axis=1) - steps.min(axis=1)) < 200


def test_workers_change_no_bit(tokenizer, noise_clips, short_config):
    """Processes that decode audio make the same batches in the same order as none do."""
    clips, root = noise_clips
    data = TrainingWindows(short_config(no_speech_share=0.2), clips, (), root, tokenizer, 80)
    collator = ElasticCollator(80, tokenizer.eot, margins=(0, 10, 32), full_context_share=0.3, seed=1)
    batches = []
    for workers in (0, 2):
        sampler = LikeLengths(4, windows=data, seed=1)
        loader = DataLoader(data, 4, sampler=sampler, collate_fn=collator, num_workers=workers)
        batches.append(list(loader))
    assert len(batches[0]) == len(batches[1]) == 4
    for alone, helped in zip(*batches, strict=True):
        for name, tensor in alone.items():
            assert torch.equal(tensor, helped[name]), name


def test_the_clock_can_end_a_run(tiny, noise_clips, short_config, tmp_path):
    """A run with more steps than time stops, saves, and is whole."""
    clips, root = noise_clips
    settings = short_config(max_steps=100_000, time_budget_s=1.0, eval_steps=100_000)
    result = fine_tune(settings, tiny.checkpoint, clips[:8], clips[8:], root, tmp_path)
    assert 1 <= result.steps < 100_000
    assert (result.checkpoint / "model.safetensors").is_file()


def test_a_clip_that_fills_up_a_batch_is_scored_once(tokenizer):
    """What several processes add at the end of the dev set, so that each has as many clips, is not counted again."""

    class Metric:
        def compute(self, **texts):
            return texts

    rows = np.array([tokenizer.encode("ab"), tokenizer.encode("cd"), tokenizer.encode("ab")])
    rows[1, 0] = IGNORED
    compute = make_compute_metrics(tokenizer, Metric(), ["it", "ja"])
    texts = compute(EvalPrediction(predictions=rows, label_ids=rows))
    assert texts == {"predictions": ["ab", "d"], "references": ["ab", "d"], "languages": ["it", "ja"]}


def test_failure_3_dev_clips_are_decoded_in_their_own_language(
    tiny, noise_clips, short_config, tokenizer, tmp_path, monkeypatch
):
    """What is measured in the loop starts from each clip's own prompt; clips of like length share a batch (failure 29).

    And it is measured in the unit of the clip's language. Whatever the order they come in; and what a batch gives back
    are tokens, not logits, which would fill the memory.
    """
    clips, root = noise_clips
    dev = [one.model_copy(update={"language": ("it", "ru")[i % 2]}) for i, one in enumerate(reversed(clips[4:]))]
    asked, given, told = [], [], []

    class Watched(finetune.ElasticTrainer):
        def prediction_step(self, model, inputs, *args, **kwargs):
            result = super().prediction_step(model, inputs, *args, **kwargs)
            given.append((inputs["input_features"].shape[-1], result[1].shape, result[1].is_floating_point()))
            return result

    def watched(whisper, encoded, prompts, *rest):
        asked.extend(prompts)
        return greedy(whisper, encoded, prompts, *rest)

    def metrics_of(tokenizer, metric, languages):
        told.extend(languages)
        return make_compute_metrics(tokenizer, metric, languages)

    monkeypatch.setattr(finetune, "ElasticTrainer", Watched)
    monkeypatch.setattr(finetune, "make_compute_metrics", metrics_of)
    monkeypatch.setattr(training.trainer, "greedy", watched)
    fine_tune(short_config(max_steps=2, eval_steps=2), tiny.checkpoint, clips[:4], dev, root, tmp_path)
    by_length = sorted(dev, key=lambda one: one.audio.duration)
    assert asked == [tokenizer.prompt(one.language) for one in by_length]
    assert told == [one.language for one in by_length]
    frames = [one[0] for one in given]
    assert frames == sorted(frames)
    assert frames[0] < frames[-1]
    assert {one[1:] for one in given} == {((4, 224), False)}


def test_failure_20_a_base_with_more_mel_bands_gets_its_own_features(tiny, noise_clips, short_config, tmp_path):
    """After a base of 80 bands, one of 128 (as large-v3) learns from the same clips."""
    clips, root = noise_clips
    settings = short_config(max_steps=2, eval_steps=2)
    fine_tune(settings, tiny.checkpoint, clips[:4], clips[4:5], root, tmp_path / "80")
    twin = WhisperForConditionalGeneration.from_pretrained(
        tiny.checkpoint, num_mel_bins=128, ignore_mismatched_sizes=True
    )
    base = tmp_path / "base"
    shutil.copytree(tiny.checkpoint, base)
    twin.save_pretrained(base)
    result = fine_tune(settings, base, clips[:4], clips[4:5], root, tmp_path / "128")
    assert load_file(result.checkpoint / "model.safetensors")["model.encoder.conv1.weight"].shape[1] == 128


def test_failure_22_no_features_are_left_on_the_disk(tiny, noise_clips, short_config, tmp_path):
    """A finished run's folder has the checkpoint, the curves and the result: no spectrogram, no further weights."""
    clips, root = noise_clips
    fine_tune(short_config(), tiny.checkpoint, clips[:8], clips[8:], root, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "logs", "finetuned.json"}


def test_failure_30_no_process_takes_several_gpus(short_config, tmp_path, monkeypatch):
    """Four GPUs in sight of one process are not put under DataParallel, which is slower than one."""
    monkeypatch.setattr(Seq2SeqTrainingArguments, "n_gpu", 4)
    assert finetune._arguments(short_config(), tmp_path, bf16=False)._n_gpu == 1


def test_failure_41_audio_is_decoded_beside_the_training(short_config, tmp_path):
    """The recipe's number of processes arrives, with pinned memory where there is a GPU; recipes for GPUs have some."""
    arguments = finetune._arguments(short_config(dataloader_workers=3), tmp_path, bf16=False)
    assert (arguments.dataloader_num_workers, arguments.dataloader_pin_memory) == (3, torch.cuda.is_available())
    shipped = {path.stem: read_config(path) for path in (Path(training.__file__).parent / "configs").glob("*.toml")}
    assert {name for name, config in shipped.items() if config.dataloader_workers == 0} == {"demo"}


@pytest.mark.parametrize(
    ("cuda", "on_gpu", "flags", "expected"),
    [
        (True, True, "", True),
        (True, False, "avx512_bf16", False),
        (False, True, "flags : avx512f avx512_bf16", True),
        (False, True, "flags : avx512f", False),
        (False, True, None, False),
    ],
)
def test_bf16_is_used_where_the_device_multiplies_it(monkeypatch, tmp_path, cuda, on_gpu, flags, expected):
    """An older GPU, a processor without the instructions, and a system without /proc would only be slowed by it."""
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(flags)
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: on_gpu and not including_emulation)
    monkeypatch.setattr(finetune, "Path", lambda path: cpuinfo if path == "/proc/cpuinfo" else Path(path))
    assert finetune.computes_in_bf16() is expected
