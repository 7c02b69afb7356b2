"""`python -m training run` as a user starts and stops it: alone or by torchrun, with signals."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from registry import Registry
from training.checkpoints import last_checkpoint

ROOT = Path(__file__).parents[2]
ALONE = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def start(tiny, noise_clips, tmp_path):
    """Return the function that starts a run of the tiny Whisper, out of a registry of its own."""
    registry = Registry(tmp_path / "registry")
    version = registry.publish("tiny", shutil.copytree(tiny.checkpoint, tmp_path / "base"), context={"elastic": False})
    registry.move_alias("tiny", "candidate", version.id, expected=None, reason="test")
    clips, root = noise_clips
    speech = tmp_path / "speech"
    speech.mkdir()
    with (speech / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "split"])
        for i, clip in enumerate(clips):
            shutil.copy(root / clip.audio.path, speech)
            writer.writerow([clip.audio.path, clip.text, "train" if i < 8 else "dev" if i < 11 else "test"])

    def run(launcher, max_steps):
        options = {"folder": speech, "language": "it", "name": "tiny", "base": "tiny@candidate", "max-steps": max_steps}
        options |= {"registry": registry.root, "runs": tmp_path / "runs"}
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [*launcher, "-m", "training", "run", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def stop(process, number):
    """Send a signal once the run fine-tunes; return what it said on stderr."""
    for line in process.stdout:
        if line.startswith("fine-tuning"):
            break
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    return said


def saved(tmp_path):
    """Return the last whole checkpoint's step."""
    [folder] = (tmp_path / "runs" / "training").glob("tiny-*/checkpoints")
    return last_checkpoint(folder).seal.step


def test_a_signal_saves_and_says_how_to_go_on(start, tmp_path):
    """After Ctrl-C, and again after SIGTERM, a checkpoint is there, and the second start went on from the first's."""
    process = start(ALONE, 100_000)
    said = stop(process, signal.SIGINT)
    assert process.returncode == 130
    assert said.splitlines() == [
        "interrupted: a checkpoint is saved after this step; once more to stop at once",
        "interrupted: the same command goes on from the last checkpoint",
    ]
    first = saved(tmp_path)
    process = start(ALONE, 100_000)
    stop(process, signal.SIGTERM)
    assert process.returncode == 130
    assert saved(tmp_path) > first


@pytest.mark.full
def test_torchrun_hands_a_signal_on(start, tmp_path):
    """SIGTERM to torchrun: both processes agree on the step after which they stop, and one saves and speaks."""
    said = stop(start(TORCHRUN, 100_000), signal.SIGTERM)
    assert saved(tmp_path) >= 1
    assert said.count("interrupted: a checkpoint is saved after this step; the same command goes on from it\n") == 1


@pytest.mark.full
def test_the_whole_command_under_torchrun(start, tmp_path):
    """One process speaks, publishes and judges; the other trains with it and ends in silence."""
    process = start(TORCHRUN, 3)
    output, said = process.communicate(timeout=600)
    assert output.count("fine-tuned in 3 steps") == 1, said
    assert output.count("is refused: production stays as it was") == 1  # noise teaches nothing
    assert "exitcode  : 3" in said
    assert "rank      : 1" not in said
    assert len(list((tmp_path / "registry" / "models" / "tiny" / "versions").iterdir())) == 2
