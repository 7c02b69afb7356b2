"""One recipe in one process and in two, by a real torchrun: the same steps, losses and weights, and one voice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.checkpoints import last_checkpoint
from training.data.manifest import write_manifest
from training.finetune import fine_tune

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PROGRAM = """
import json, signal, sys
from pathlib import Path
import torch
from transformers import TrainerCallback
from training import trainer
from training.config import make_config
from training.data.manifest import read_manifest
from training.devices import follow, on_all, rank
from training.finetune import fine_tune

base, manifest, run, settings, stop = sys.argv[1:]
torch.set_num_threads(1)

class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == int(stop):
            signal.raise_signal(signal.SIGKILL if rank() else signal.SIGTERM)

begin = trainer.ElasticTrainer.__init__
def init(one, **arguments):
    begin(one, **arguments)
    one.add_callback(Stop())
trainer.ElasticTrainer.__init__ = init

if rank() > 0:
    follow()
else:
    clips = read_manifest(Path(manifest))
    config = make_config("test", json.loads(settings))
    on_all(fine_tune, config, Path(base), clips[:7], clips[7:], Path(manifest).parent, Path(run))
"""


@pytest.fixture
def train(tiny, noise_clips, short_config, tmp_path):
    """Return the function that fine-tunes the tiny Whisper in one process or in two, and gives the run's folder."""
    clips, root = noise_clips
    write_manifest(root / "manifest.jsonl", clips)
    script = tmp_path / "train.py"
    script.write_text(PROGRAM)

    def run(name, launcher, *, stop=0, check=True, **settings):
        config = short_config(**{"learning_rate": 1e-3, "save_steps": 2, "max_steps": 5, **settings})
        arguments = [tiny.checkpoint, root / "manifest.jsonl", tmp_path / name, config.model_dump_json(), stop]
        done = subprocess.run(
            [*launcher, str(script), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        assert not check or done.returncode == 0, done.stderr
        return tmp_path / name

    return run


def losses(run):
    """Return the training loss of each logged step."""
    curves = EventAccumulator(str(run / "logs"))
    curves.Reload()
    return [event.value for event in curves.Scalars("train/loss")]


def weights(run):
    """Return the arrays that the run made."""
    return load_file(run / "checkpoint" / "model.safetensors")


NOTHING_NEW = """
from training.devices import follow, leading, rank
if rank() > 0:
    follow()
else:
    with leading():
        print("no change")
"""


def test_who_follows_is_let_go_where_there_is_nothing_to_do(tmp_path):
    """A retraining that finds no change ends on all devices, and not after days."""
    script = tmp_path / "nothing.py"
    script.write_text(NOTHING_NEW)
    done = subprocess.run(
        [*TORCHRUN, str(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, "no change" in done.stdout) == (0, True), done.stderr


def test_two_processes_take_the_steps_of_one(train, noise_clips, short_config, tmp_path):
    """Seven clips in steps of four, epochs filled up: one process's losses within 1e-5, its weights and its scores."""
    settings = {"batch_size": 2, "gradient_accumulation_steps": 2}
    alone = train("alone", [sys.executable], **settings)
    together = train("together", TORCHRUN, **settings)
    np.testing.assert_allclose(losses(together), losses(alone), rtol=0, atol=1e-5)
    for name, array in weights(alone).items():
        np.testing.assert_allclose(weights(together)[name], array, atol=1e-5, err_msg=name)
    said = json.loads((together / "finetuned.json").read_text())
    assert said["steps"] == 5
    # The scores of weights that one process would not move: each clip was counted once, whoever decoded it.
    clips, root = noise_clips
    still = short_config(learning_rate=1e-30, max_steps=1, warmup_steps=0, batch_size=2)
    judged = fine_tune(still, together / "checkpoint", clips[:7], clips[7:], root, tmp_path / "judged")
    assert (judged.dev["wer"], judged.dev["cer"]) == (said["dev"]["wer"], said["dev"]["cer"])
    assert len(list((together / "logs").iterdir())) == 1, "the first process alone writes curves"


@pytest.mark.full
@pytest.mark.parametrize("launcher", [[sys.executable], TORCHRUN], ids=["one", "two"])
def test_a_run_of_two_that_lost_one_goes_on(train, launcher):
    """The second process is killed in the second epoch; torchrun ends the first; one or two end what two began."""
    settings = {"batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 6, "save_steps": 1}
    alone = train("alone", [sys.executable], **settings)
    broken = train("broken", TORCHRUN, stop=4, check=False, **settings)
    assert last_checkpoint(broken / "checkpoints").seal.step == 3
    assert not (broken / "finetuned.json").exists()
    train("broken", launcher, **settings)
    for name, array in weights(alone).items():
        np.testing.assert_allclose(weights(broken)[name], array, atol=1e-5, err_msg=name)
