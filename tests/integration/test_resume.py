"""Training that is killed, stopped, or out of room, and started again: it ends with the same bits."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, Features, Value

from training.checkpoints import last_checkpoint

N_TRAIN, N_DEV = 8, 3
SHORT = {
    "max_steps": 7,
    "warmup_steps": 1,
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "eval_steps": 5,
    "save_steps": 2,
    "learning_rate": 1e-3,
    "bf16": False,
    "no_speech_share": 0.2,
    "average_checkpoints": 2,
}


@pytest.fixture(scope="module")
def folder(noise_clips, tmp_path_factory):
    """Return the clips of noise in audiofolder's layout."""
    target = tmp_path_factory.mktemp("speech")
    clips, root = noise_clips
    with (target / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "split"])
        for i, clip in enumerate(clips):
            shutil.copy(root / clip.audio.path, target)
            split = "train" if i < N_TRAIN else "dev" if i < N_TRAIN + N_DEV else "test"
            writer.writerow([clip.audio.path, clip.text, split])
    return target


@pytest.fixture(scope="module")
def random_base(tiny, tmp_path_factory):
    """Return the tiny Whisper with dropout, which draws from torch's generator."""
    base = tmp_path_factory.mktemp("random") / "base"
    shutil.copytree(tiny.checkpoint, base, ignore=shutil.ignore_patterns("ctranslate2"))
    config = json.loads((base / "config.json").read_text())
    config |= {"dropout": 0.1}
    (base / "config.json").write_text(json.dumps(config))
    return base


@pytest.fixture(scope="module")
def runs(folder, random_base):
    """Return the function that makes runs, in a program of its own, and gives what became of each."""

    def make(places, *, base=random_base, speech=folder, source=None, threads=1, **settings):
        source = source or {"kind": "folder", "path": str(speech), "language": "it"}
        config = {**SHORT, **settings, "sources": [source]}
        plan = {"base": str(base), "threads": threads, "config": config}
        plan["runs"] = [[str(run), place] for run, place in places]
        done = subprocess.run(
            [sys.executable, "-m", "tests.killing"],
            input=json.dumps(plan),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    return make


@pytest.fixture(scope="module")
def clean(runs, tmp_path_factory):
    """Return a run that was left to itself, and how many calls it made."""
    run = tmp_path_factory.mktemp("clean")
    [calls] = runs([(run, {})])
    return run, calls


def result(run):
    """Return all that a run made: the bits of the weights, the steps, the scores."""
    return (run / "checkpoint" / "model.safetensors").read_bytes(), json.loads((run / "finetuned.json").read_text())


def end_and_go_on(runs, clean, tmp_path, places, **settings):
    """End a run at each place, let it go on, and compare it with the clean one; return how each ended first."""
    folders = [tmp_path / str(i) for i in range(len(places))]
    ends = runs([*zip(folders, places, strict=True), *((folder, None) for folder in folders)], **settings)
    assert all(end["signal"] == 0 and "error" not in end for end in ends[len(places) :]), ends
    for run, place in zip(folders, places, strict=True):
        assert result(run) == result(clean), place
        assert not (run / "checkpoints").exists()
    return ends[: len(places)]


def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(runs, clean, tmp_path):
    """Killed while a checkpoint is half written, in the middle of a file, and between two steps."""
    places = [{"files": 5}, {"bytes": 100_000, "step": 3}, {"signal": signal.SIGKILL, "step": 5}]
    ends = end_and_go_on(runs, clean[0], tmp_path, places)
    assert [end["signal"] for end in ends] == [signal.SIGKILL, signal.SIGXFSZ, signal.SIGKILL]


def test_a_signal_costs_no_step_and_a_full_disk_no_checkpoint(runs, clean, tmp_path):
    """SIGINT and SIGTERM end a run in order; a full disk is said in one line, with the place and the remedy."""
    places = [{"signal": signal.SIGINT, "step": 3}, {"signal": signal.SIGTERM, "step": 3}, {"limit": 50_000, "step": 3}]
    ends = end_and_go_on(runs, clean[0], tmp_path, places)
    assert ends[:2] == [{"signal": 0, "error": "KeyboardInterrupt: "}] * 2
    assert ends[2]["error"] == (
        f"SaveError: the checkpoint of step 4 could not be written to {tmp_path}/2/checkpoints: File too large. "
        "Free some room there, or name another disk with --runs; the same command goes on from step 2"
    )


def test_after_a_signal_the_step_at_hand_is_saved(runs, tmp_path):
    """The checkpoint of a run that got SIGTERM at the end of step 3 is of step 4, and says that steps are left."""
    runs([(tmp_path, {"signal": signal.SIGTERM, "step": 3})])
    seal = last_checkpoint(tmp_path / "checkpoints").seal
    assert (seal.step, seal.finished) == (4, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_disk_without_room(runs, clean, tmp_path):
    """On a file system of 2.2 MB, which is full before the run ends, it is the same; with more room the run goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2200k", "tmpfs", disk]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        [end] = runs([(disk, None)])
        assert re.search(r"step [56] could not be (written|saved)", end["error"])
        assert "No space left on device. Free some room" in end["error"]
        assert re.search("goes on from (step 4|the last checkpoint)", end["error"])
        assert last_checkpoint(disk / "checkpoints").seal.step == 4
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        runs([(disk, None)])
        assert result(disk) == result(clean[0])
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.full
def test_killed_at_twenty_random_places(runs, clean, tmp_path):
    """At 12 calls of the whole run, data included, 6 calls within saving, and 2 bytes of files: the same bits."""
    run, calls = clean
    draw = np.random.default_rng(20)
    places = [{"calls": int(draw.integers(1, calls["calls"]))} for _ in range(12)]
    places += [{"saving": int(draw.integers(1, calls["saving"]))} for _ in range(6)]
    places += [{"bytes": int(draw.integers(10_000, 300_000)), "step": int(draw.integers(1, 5))} for _ in range(2)]
    ends = end_and_go_on(runs, run, tmp_path, places)
    assert [end["signal"] for end in ends] == [signal.SIGKILL] * 18 + [signal.SIGXFSZ] * 2


@pytest.fixture
def streamed(folder, tmp_path):
    """Return the clips of noise as a data set of the Hub that is streamed, from one shard or two a split."""
    features = Features({"audio": Audio(sampling_rate=16_000), "text": Value("string")})
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    (tmp_path / "set" / "data").mkdir(parents=True)
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        clips = [
            {
                "audio": {"bytes": (folder / row["file_name"]).read_bytes(), "path": row["file_name"]},
                "text": row["text"],
            }
            for row in rows
            if row["split"] == split
        ]
        n_shards = min(2, len(clips))  # `datasets` fails at one without a row
        for shard in range(n_shards):
            table = pa.Table.from_pylist(clips[shard::n_shards], schema=features.arrow_schema)
            pq.write_table(table, tmp_path / "set" / "data" / f"{name}-{shard:05d}-of-{n_shards:05d}.parquet")
    path = str(tmp_path / "set")
    return {"kind": "hub", "path": path, "language": "it", "streaming": True, "max_clips": 7, "shuffle_buffer": 3}


@pytest.mark.full
def test_killed_while_streaming(runs, streamed, tmp_path):
    """Killed at six places while clips are streamed, and at two of the whole run: the same clips, and the same bits."""
    [calls] = runs([(tmp_path / "clean", {})], source=streamed)
    draw = np.random.default_rng(4)
    places = [{"reading": int(draw.integers(1, calls["reading"]))} for _ in range(6)]
    places += [{"calls": int(draw.integers(calls["calls"] // 2, calls["calls"]))} for _ in range(2)]
    ends = end_and_go_on(runs, tmp_path / "clean", tmp_path, places, source=streamed)
    assert [end["signal"] for end in ends] == [signal.SIGKILL] * 8


@pytest.mark.full
def test_killed_again_and_again(runs, clean, tmp_path):
    """A run that is killed at eight starts one after another, wherever it is, ends with the same bits."""
    run, calls = clean
    draw = np.random.default_rng(8)
    kills = [(tmp_path, {"calls": int(draw.integers(calls["calls"] // 3, calls["calls"]))}) for _ in range(8)]
    runs([*kills, (tmp_path, None)])
    assert result(tmp_path) == result(run)


@pytest.mark.full
def test_the_real_base_is_killed_twice(runs, base, italian, tmp_path):
    """whisper-base on two threads, killed after a step and while saving, ends with the bits of a run never killed."""
    speech = tmp_path / "speech"
    speech.mkdir()
    chosen = [utterance for utterance in italian if 2 <= utterance.audio.duration <= 4][:12]
    with (speech / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "split"])
        for i, utterance in enumerate(chosen):
            shutil.copy(utterance.audio.path, speech / f"{i}.wav")
            writer.writerow([f"{i}.wav", utterance.text, "train" if i < 8 else "dev" if i < 10 else "test"])
    settings = {"base": base.path, "speech": speech, "threads": 2, "max_steps": 5, "learning_rate": 1e-5}
    runs([(tmp_path / "clean", None)], **settings)
    places = [{"signal": signal.SIGKILL, "step": 3}, {"files": 6}]
    ends = end_and_go_on(runs, tmp_path / "clean", tmp_path, places, **settings)
    assert [end["signal"] for end in ends] == [signal.SIGKILL] * 2
