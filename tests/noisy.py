"""A base that is worse than whisper-base, and a little speech: what makes a real gain in a few steps, for tests."""

import csv
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from speech.text import normalize

NOISE = 0.35  # of each array's own standard deviation
N_TRAIN, N_TEST, N_DEV = 24, 14, 16  # the gate wants ten sentences


def write_noisy(checkpoint, target):
    """Write a transformers checkpoint with noise on the weights of its feed-forward layers, the same each time."""
    shutil.copytree(checkpoint, target, ignore=shutil.ignore_patterns("ctranslate2", "*.safetensors"))
    generator = np.random.default_rng(0)
    arrays = {
        name: (a + NOISE * a.std() * generator.standard_normal(a.shape)).astype(np.float32) if ".fc" in name else a
        for name, a in load_file(Path(checkpoint) / "model.safetensors").items()
    }
    save_file({name: a.astype(np.float32) for name, a in arrays.items()}, Path(target) / "model.safetensors")


def write_folder(utterances, target):
    """Write a folder in audiofolder's layout with clips of 2 to 6 s, no sentence twice, and a `split` column."""
    sentences = {normalize(utterance.text): utterance for utterance in utterances if 2 <= utterance.audio.duration <= 6}
    chosen = list(sentences.values())[: N_TRAIN + N_TEST + N_DEV]
    splits = ["train"] * N_TRAIN + ["test"] * N_TEST + ["dev"] * N_DEV
    with (target / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "transcription", "split"])
        for i, (utterance, split) in enumerate(zip(chosen, splits, strict=True)):
            shutil.copyfile(utterance.audio.path, target / f"clip_{i}.wav")
            writer.writerow([f"clip_{i}.wav", utterance.text, split])
