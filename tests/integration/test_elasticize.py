"""whisper-base teaches itself short context, by the command, from speech without transcripts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from registry import Registry
from speech.text import normalize
from training.data.manifest import write_manifest
from training.elasticize import MAX_LOSS

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

N_AUDIO, N_JUDGES = 130, 96
LANGUAGES = ("it", "ru", "en")


@pytest.fixture(scope="module")
def speech(prompts, tmp_path_factory):
    """Return a folder of audio for each language, and a manifest of transcribed clips with other sentences."""
    root = tmp_path_factory.mktemp("speech")
    judges = []
    for language in LANGUAGES:
        clips = [clip for clip in prompts(language) if 1 <= clip.audio.duration <= 30]
        learned, other = clips[::2][:N_AUDIO], clips[1::2]
        (root / language).mkdir()
        for i, clip in enumerate(learned):
            (root / language / f"{i}.wav").symlink_to(Path(clip.audio.path).resolve())
        sentences = {normalize(clip.text) for clip in learned}
        judges += [clip for clip in other if normalize(clip.text) not in sentences][:N_JUDGES]
    write_manifest(root / "judges.jsonl", judges)
    return root


@pytest.mark.parametrize("languages", [LANGUAGES, ("it", "ru")], ids="+".join)
def test_no_language_is_worse(base, registry, speech, tmp_path, languages):
    """In languages of the audio and beside it, the child's WER is within 0.01 of its parent's at 30 s."""
    command = [sys.executable, "-m", "training", "elasticize", base.ref, "--judge", str(speech / "judges.jsonl")]
    for language in languages:
        command += ["--audio", str(speech / language)]
    command += ["--registry", str(registry.root), "--runs", str(tmp_path), "--alias", "candidate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)  # noqa: T201 - the figures
    assert done.returncode == 0, done.stdout + done.stderr
    store = Registry(registry.root)
    child = store.resolve("whisper@candidate")
    assert child.manifest.parent == base.ref
    assert child.manifest.context["elastic"]
    measured = json.loads((child.path / "metrics.json").read_text())["elastic"]
    # In clips of two seconds other languages are heard, too: a clip or two of each, which decide nothing.
    assert all(measured[code]["learned"] for code in languages)
    for code in LANGUAGES:
        assert measured[code]["transcribed"], code
        assert measured[code]["cost"]["difference"]["value"] <= MAX_LOSS, code
    papers = [(child.path / name).read_text() for name in ("README.md", "provenance.json", "data.json", "metrics.json")]
    assert not any(str(speech) in paper or str(tmp_path) in paper for paper in papers)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert store.resolve("whisper@candidate").ref == child.ref, again.stdout
