"""Replay, guards and alpha in a whole run, with the real base and real speech."""

import csv
import json
import shutil

import pytest

from registry import Registry
from training.config import make_config
from training.data.manifest import read_manifest
from training.evaluate import read_hypotheses
from training.run import run
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


def test_a_run_rehearses_watches_and_chooses(prompts, registry, tmp_path):
    """Half of en is rehearsed with the base's own words, the other half watched; the version says which α was taken."""
    short = {
        language: [one for one in prompts(language) if 2 <= one.audio.duration <= 4][:24] for language in ("it", "en")
    }
    italian, english = (write_folder(tmp_path / code, clips, code) for code, clips in short.items())
    settings = {"name": "recipe", "base": "whisper@production", "max_steps": 3, "eval_steps": 3, "batch_size": 4}
    general = {"replay": [english], "guards": [english], "replay_share": 0.5, "alphas": [0.5, 1.0]}
    sizes = {"test_clips": 4, "dev_clips": 4, "full_context_share": 0.0}
    config = make_config("test", {**settings, **general, **sizes, "sources": [italian]})
    shutil.copytree(registry.root, tmp_path / "registry")
    shell = Shell()
    lines = []
    outcome = run(config, Registry(tmp_path / "registry"), tmp_path / "runs", say=lines.append, progress=shell.progress)

    places = {one.id: one.split for one in read_manifest(outcome.run / "general.jsonl")}
    assert len(places) == 24
    assert set(places.values()) == {"train", "dev", "test"}
    labels = [path for path in (tmp_path / "runs" / "evaluations").iterdir() if len(read_hypotheses(path)) != 4]
    (heard,) = map(read_hypotheses, labels)
    assert {one.id for one in heard} == {name for name, split in places.items() if split == "train"}

    choice = json.loads((outcome.run / "alpha.json").read_text())
    provenance = json.loads((outcome.version.path / "provenance.json").read_text())
    assert provenance["alpha"] == choice["alpha"]
    assert choice["base_guards"].keys() == {"en"}
    assert provenance["selected_steps"] == [3]
    assert str(tmp_path) not in json.dumps(provenance)  # where private speech lies is nobody's business
    assert any(line.startswith("alpha ") for line in lines)
