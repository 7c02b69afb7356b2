"""Which weights are taken, and when a run stops."""

import math

import pytest
import torch
from transformers import TrainerControl, TrainerState

from training.finetune import fine_tune
from training.selection import SelectionCallback, mean_weights, since_improvement, snapshots, write_snapshot


@pytest.mark.parametrize(
    ("wers", "min_delta", "since"),
    [
        ([], 0.0, 0),
        ([0.5], 0.0, 0),
        ([0.5, 0.4, 0.4], 0.0, 1),
        ([0.5, 0.4, 0.45, 0.42], 0.0, 2),
        ([0.5, 0.495, 0.49], 0.02, 2),
        ([0.5, 0.49, 0.47], 0.02, 0),
    ],
)
def test_patience_counts_from_the_last_improvement(wers, min_delta, since):
    """Only a WER that is lower than the lowest by more than the least difference starts the count anew."""
    assert since_improvement(wers, min_delta) == since


@pytest.mark.parametrize(
    ("select", "count", "steps"), [("best", 1, [30]), ("best", 2, [30, 10]), ("last", 2, [40, 30])]
)
def test_the_best_or_the_last_are_chosen(tmp_path, select, count, steps):
    """By WER, of equals the later; or the last ones."""
    for step, wer in ((10, 0.2), (20, 0.3), (30, 0.2), (40, 0.25)):
        write_snapshot(tmp_path, step, wer, {"w": torch.tensor([float(step)])})
    callback = SelectionCallback(tmp_path, dict, select=select, count=count, patience=None, min_delta=0.0)
    assert [one.step for one in callback.chosen()] == steps


def test_a_mean_is_a_mean(tmp_path):
    """Averaged weights are the arithmetic mean, in float32."""
    for step, value in ((1, 1.0), (2, 2.0), (3, 6.0)):
        write_snapshot(tmp_path, step, 0.1, {"w": torch.full((2, 2), value)})
    mean = mean_weights([one.path for one in snapshots(tmp_path)])
    assert mean["w"].dtype == torch.float32
    torch.testing.assert_close(mean["w"], torch.full((2, 2), 3.0))


def test_a_snapshot_cut_short_is_no_snapshot(tmp_path):
    """What a killed run left half written is not looked at."""
    (tmp_path / "step-5.tmp").write_bytes(b"half")
    assert snapshots(tmp_path) == []


def test_a_resumed_run_forgets_what_came_after(tmp_path):
    """What an interrupted run had kept beyond the checkpoint that is gone on from is not chosen from."""
    for step in (10, 20, 30):
        write_snapshot(tmp_path, step, 0.5 - step / 100, {"w": torch.zeros(1)})
    callback = SelectionCallback(tmp_path, dict, select="best", count=1, patience=None, min_delta=0.0)
    callback.on_train_begin(None, TrainerState(global_step=20, is_world_process_zero=True), TrainerControl())
    assert sorted(one.step for one in snapshots(tmp_path)) == [10, 20]


class Recorded:
    """Runs fine-tuning with scores that a test sets, and keeps what was evaluated."""

    def __init__(self, monkeypatch, wers):
        from training import finetune

        self.weights = {}
        scores = iter(wers)

        class Trainer(finetune.ElasticTrainer):
            def evaluate(trainer, *args, **kwargs):  # noqa: N805
                weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
                self.weights.setdefault(trainer.state.global_step, weights)  # not the result's own evaluation
                return super().evaluate(*args, **kwargs)

        def make_compute_metrics(*_):
            return lambda _: {"wer": next(scores), "cer": 0.0}

        monkeypatch.setattr(finetune, "ElasticTrainer", Trainer)
        monkeypatch.setattr(finetune, "make_compute_metrics", make_compute_metrics)


def load(result):
    """Return a result's weights."""
    from safetensors.torch import load_file

    return load_file(result.checkpoint / "model.safetensors")


def test_the_best_weights_are_the_result(tiny, noise_clips, short_config, tmp_path, monkeypatch):
    """The weights of the lowest WER on dev are saved, not the last; they are evaluated again."""
    clips, root = noise_clips
    recorded = Recorded(monkeypatch, [0.5, 0.2, 0.3, 0.2])
    settings = short_config(max_steps=3, eval_steps=1)
    result = fine_tune(settings, tiny.checkpoint, clips[:4], clips[4:5], root, tmp_path)
    assert (result.steps, result.selected, result.dev["wer"]) == (3, (2,), 0.2)
    for name, tensor in load(result).items():
        torch.testing.assert_close(tensor, recorded.weights[2][name], rtol=0, atol=0)
    assert not (tmp_path / "snapshots").exists()


def test_the_mean_of_the_last_is_the_result(tiny, noise_clips, short_config, tmp_path, monkeypatch):
    """With two to be averaged, the saved weights are the mean of the last two evaluated ones."""
    clips, root = noise_clips
    recorded = Recorded(monkeypatch, [0.1, 0.2, 0.3, 0.25])
    settings = short_config(max_steps=3, eval_steps=1, select="last", average_checkpoints=2)
    result = fine_tune(settings, tiny.checkpoint, clips[:4], clips[4:5], root, tmp_path)
    assert (result.selected, result.dev["wer"]) == ((2, 3), 0.25)
    mean = {name: (recorded.weights[2][name] + tensor) / 2 for name, tensor in recorded.weights[3].items()}
    for name, tensor in load(result).items():
        torch.testing.assert_close(tensor, mean[name], rtol=0, atol=1e-6)


def test_a_run_that_is_interrupted_chooses_the_same(tiny, noise_clips, short_config, tmp_path, monkeypatch):
    """Stopped after the best weights were kept and resumed from a checkpoint before them, a run has the same result."""
    from training import finetune

    clips, root = noise_clips
    settings = short_config(max_steps=5, eval_steps=2, save_steps=3)
    arguments = (tiny.checkpoint, clips[:4], clips[4:5], root)
    wers = {2: 0.5, 4: 0.2, 5: 0.3}

    class Trainer(finetune.ElasticTrainer):
        stop_at = None

        def evaluate(self, *args, **kwargs):
            self.compute_metrics = lambda _: {"wer": wers[self.state.global_step], "cer": 0.0}
            return super().evaluate(*args, **kwargs)

        def training_step(self, *args, **kwargs):
            if self.state.global_step == self.stop_at:
                raise InterruptedError
            return super().training_step(*args, **kwargs)

    monkeypatch.setattr(finetune, "ElasticTrainer", Trainer)
    whole = fine_tune(settings, *arguments, tmp_path / "whole")
    monkeypatch.setattr(Trainer, "stop_at", 4)
    with pytest.raises(InterruptedError):
        fine_tune(settings, *arguments, tmp_path / "stopped")
    assert [one.step for one in snapshots(tmp_path / "stopped" / "snapshots")] == [4]
    monkeypatch.setattr(Trainer, "stop_at", None)
    resumed = fine_tune(settings, *arguments, tmp_path / "stopped")
    assert (whole.selected, resumed.selected) == ((4,), (4,))
    expected = load(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load(resumed).items())


def test_a_run_that_no_longer_improves_stops(tiny, noise_clips, short_config, tmp_path, monkeypatch):
    """After the patience is spent, the run ends, and its best weights are the result."""
    clips, root = noise_clips
    Recorded(monkeypatch, [0.5, 0.4, 0.45, 0.4, math.nan, math.nan])
    settings = short_config(max_steps=60, eval_steps=1, early_stopping_patience=2)
    result = fine_tune(settings, tiny.checkpoint, clips[:4], clips[4:5], root, tmp_path)
    assert (result.steps, result.selected) == (4, (4,))  # of equals, the later
