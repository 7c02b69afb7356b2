"""A training run that is killed, and started again."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from training.data.manifest import write_manifest
from training.finetune import fine_tune
from training.trainer import last_checkpoint


def weights(folder):
    """Return the arrays of a checkpoint."""
    return load_file(folder / "model.safetensors")


PROGRAM = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from training import trainer
from training.config import make_config
from training.data.manifest import read_manifest
from training.finetune import fine_tune

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == int(sys.argv[5]):
            os.kill(os.getpid(), int(sys.argv[6]))

init = trainer.ElasticTrainer.__init__
def with_kill(self, **kwargs):
    init(self, **kwargs)
    self.add_callback(Kill())
trainer.ElasticTrainer.__init__ = with_kill

manifest = Path(sys.argv[2])
clips = read_manifest(manifest)
config = make_config("test", __import__("json").loads(sys.argv[4]))
fine_tune(config, Path(sys.argv[1]), clips[:8], clips[8:], manifest.parent, Path(sys.argv[3]))
"""


@pytest.mark.parametrize(
    ("number", "step", "resumed_from"), [(signal.SIGKILL, 5, "checkpoint-3"), (signal.SIGTERM, 4, "checkpoint-5")]
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    tiny, noise_clips, short_config, tmp_path, number, step, resumed_from
):
    """SIGKILL costs the steps since the last checkpoint, SIGTERM none (step 5 is at hand); the weights are the same."""
    clips, root = noise_clips
    undisturbed = fine_tune(short_config(), tiny.checkpoint, clips[:8], clips[8:], root, tmp_path / "undisturbed")
    write_manifest(root / "manifest.jsonl", clips)
    settings = short_config().model_dump_json()
    arguments = [tiny.checkpoint, root / "manifest.jsonl", tmp_path / "stopped", settings, step, int(number)]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    stopped = subprocess.run(command, check=False, capture_output=True, text=True)
    assert stopped.returncode != 0
    assert last_checkpoint(tmp_path / "stopped" / "checkpoints").name == resumed_from, stopped.stderr
    resumed = fine_tune(short_config(), tiny.checkpoint, clips[:8], clips[8:], root, tmp_path / "stopped")
    for name, array in weights(undisturbed.checkpoint).items():
        # Sums over two threads are not repeatable to the last bit; another order of clips would differ by 1e-4.
        np.testing.assert_allclose(weights(resumed.checkpoint)[name], array, atol=1e-6, err_msg=name)
