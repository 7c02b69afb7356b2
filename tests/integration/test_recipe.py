"""Replay, guards and alpha with the real base and real speech, from the sources to the chosen weights."""

import csv
import shutil

import pytest

from speech.tokens import WhisperTokenizer
from training.config import make_config
from training.evaluate import read_hypotheses
from training.interpolate import Choice
from training.prepare import prepare
from training.run import _tune
from training.shell import Shell

pytestmark = pytest.mark.full


def write_folder(folder, utterances, language):
    """Write clips in audiofolder's layout."""
    folder.mkdir()
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "transcription"])
        for i, utterance in enumerate(utterances):
            shutil.copyfile(utterance.audio.path, folder / f"{language}_{i}.wav")
            writer.writerow([f"{language}_{i}.wav", utterance.text])
    return {"kind": "folder", "path": folder, "language": language}


def test_a_run_rehearses_watches_and_chooses(prompts, base, tmp_path):
    """Half of en is rehearsed with the base's own words, of the other half one part is watched, and an α is taken."""
    short = {
        language: [one for one in prompts(language) if 2 <= one.audio.duration <= 4][:24] for language in ("it", "en")
    }
    italian, english = (write_folder(tmp_path / code, clips, code) for code, clips in short.items())
    settings = {"base": "whisper@production", "max_steps": 3, "eval_steps": 3, "batch_size": 4, "full_context_share": 0}
    general = {"replay": [english], "guards": [english], "replay_share": 0.5, "alphas": [0.5, 1.0]}
    config = make_config("test", {**settings, **general, "test_clips": 4, "dev_clips": 4, "sources": [italian]})
    data = prepare(config, WhisperTokenizer.from_folder(base.path), tmp_path / "data")
    run, cache, lines = tmp_path / "run", tmp_path / "evaluations", []
    tuned = _tune(config, base, data, run, cache, lines.append, Shell().progress)

    watched = {clip.id for clip in data.guards}
    rehearsed = {clip.id for clip in data.replay}
    assert rehearsed
    assert not rehearsed & watched
    assert len(rehearsed | watched) == 24
    assert {clip.split for clip in data.guards} == {"dev", "test"}
    (labels,) = cache.glob("*.jsonl.gz")
    assert {hypothesis.id for hypothesis in read_hypotheses(labels)} == rehearsed
    choice = Choice.model_validate_json((run / "alpha.json").read_text())
    assert [trial.alpha for trial in choice.trials] == [0.5, 1.0]
    assert choice.base_guards.keys() == {"en"}
    assert tuned.alpha == choice.alpha
    assert tuned.selected == (3,)
    assert (tuned.checkpoint / "model.safetensors").is_file()
    assert lines[0].startswith("alpha ")
