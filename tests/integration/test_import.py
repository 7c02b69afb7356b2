"""The imported base is the source, exactly."""

import subprocess
import sys

import ctranslate2
import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from speech.audio import decode_audio
from speech.context import MAX_POSITIONS, ElasticContext
from speech.convert import read_ctranslate2
from speech.encoder import encode
from speech.engine import Window
from speech.engine.ctranslate2_engine import CTranslate2Engine
from speech.engine.torch_engine import TorchEngine
from speech.engine.tuning import Tuning
from speech.features import log_mel_spectrogram, pad_or_trim
from training.data.manifest import load_audio

N_CLIPS = 20


@pytest.fixture(scope="module")
def windows(italian, tmp_path_factory):
    """Return twenty clips of all lengths."""
    by_length = sorted(italian, key=lambda utterance: utterance.audio.duration)
    chosen = by_length[:: len(by_length) // N_CLIPS][:N_CLIPS]
    return [Window(load_audio(utterance, tmp_path_factory.getbasetemp()), "it") for utterance in chosen]


@pytest.fixture(scope="module")
def model(base):
    """Return the imported checkpoint as transformers loads it, in float32."""
    return WhisperForConditionalGeneration.from_pretrained(base.path, dtype=torch.float32).eval()


def test_every_array_survives_the_way_there_and_back(base, base_source):
    """Import and export give back each array of the source file bit for bit."""
    source = read_ctranslate2(base_source / "model.bin")
    export = read_ctranslate2(base.path / "ctranslate2" / "model.bin")
    assert source.keys() <= export.keys()
    for name, array in source.items():
        assert array.dtype == export[name].dtype, name
        np.testing.assert_array_equal(array, export[name], err_msg=name)


def test_the_encoder_says_what_the_source_says(model, base_source, windows):
    """The imported encoder's output equals that of CTranslate2 in float32 on the source file."""
    features = np.stack([log_mel_spectrogram(pad_or_trim(window.audio)) for window in windows[:3]])
    source = ctranslate2.models.Whisper(str(base_source), device="cpu", compute_type="float32")
    expected = np.array(source.encode(ctranslate2.StorageView.from_array(features), to_cpu=True))
    with torch.inference_mode():
        ours = encode(model.model.encoder, torch.from_numpy(features)).numpy()
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


def test_our_encoder_is_transformers_own(model, windows):
    """At 3,000 frames our forward pass of the encoder equals transformers'."""
    features = torch.from_numpy(np.stack([log_mel_spectrogram(pad_or_trim(window.audio)) for window in windows[:3]]))
    with torch.inference_mode():
        expected = model.model.encoder(features).last_hidden_state
        ours = encode(model.model.encoder, features)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_the_same_tokens_on_twenty_clips(base, base_source, windows, tmp_path):
    """The imported checkpoint on torch, and the source on CTranslate2 in float32, decode the same tokens."""
    source = tmp_path / "source"  # the source's own model.bin, beside the two files that its publisher left out
    source.mkdir()
    for path in (base.path / "ctranslate2").iterdir():
        if path.name not in {"model.bin", "config.json", "vocabulary.json"}:
            (source / path.name).symlink_to(path)
    for name in ("model.bin", "config.json", "vocabulary.txt"):
        (source / name).symlink_to(base_source / name)
    context = ElasticContext()
    expected = CTranslate2Engine.load(source, context, Tuning("float32")).transcribe(windows)
    ours = TorchEngine.load(base.path, context, device="cpu").transcribe(windows)
    assert {result.positions for result in ours} == {MAX_POSITIONS}
    assert [result.tokens for result in ours] == [result.tokens for result in expected]
    assert all(result.tokens for result in ours)


def test_both_engines_agree_at_elastic_context(base, windows):
    """Torch and CTranslate2 in float32 decode the same tokens at a short context, language detected or given."""
    context = ElasticContext(elastic=True, margin=50)
    mixed = [Window(window.audio, None if i % 2 else "it") for i, window in enumerate(windows[:8])]
    expected = CTranslate2Engine.load(base.path / "ctranslate2", context, Tuning("float32")).transcribe(mixed)
    ours = TorchEngine.load(base.path, context, device="cpu").transcribe(mixed)
    for one, other in zip(ours, expected, strict=True):
        assert (one.tokens, one.language, one.positions) == (other.tokens, other.language, other.positions)
        assert one.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-4)
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=0.02)


def test_a_second_import_publishes_nothing(registry, base, base_source):
    """Importing the same source again finds the version that is there."""
    command = [sys.executable, "-m", "registry", "import", str(base_source), "--name", "whisper"]
    done = subprocess.run([*command, "--registry", str(registry.root)], check=True, capture_output=True, text=True)
    assert "already there" in done.stdout
    assert [version.id for version in registry.versions("whisper")] == [base.id]


def test_a_transformers_directory_is_imported_as_well(registry, base, tmp_path):
    """The checkpoint that one import wrote is the source of another, and comes out the same."""
    command = [sys.executable, "-m", "registry", "import", str(base.path), "--name", "again"]
    subprocess.run([*command, "--registry", str(tmp_path)], check=True, capture_output=True)
    (again,) = type(registry)(tmp_path).versions("again")
    for name in ("model.safetensors", "tokenizer.json", "ctranslate2/model.bin"):
        assert again.manifest.files[name] == base.manifest.files[name]


def test_an_int8_model_is_refused(base_source, base, tmp_path):
    """A quantised CTranslate2 model is refused with a word that says why, and nothing is published."""
    quantised = tmp_path / "int8"
    command = [str(sys.executable).replace("python", "ct2-transformers-converter"), "--model", str(base.path)]
    subprocess.run(
        [*command, "--output_dir", str(quantised), "--quantization", "int8"], check=True, capture_output=True
    )
    (quantised / "tokenizer.json").write_bytes((base_source / "tokenizer.json").read_bytes())
    command = [sys.executable, "-m", "registry", "import", str(quantised), "--name", "whisper"]
    done = subprocess.run([*command, "--registry", str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "quantised" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_a_clip_is_heard(base, italian, tmp_path):
    """A plain WAV of the prompts, decoded from its file, has its words recognised in the main."""
    clip = next(u for u in italian if u.id.endswith("/agent-alreadyon"))
    engine = CTranslate2Engine.load(base.path / "ctranslate2", ElasticContext())
    (result,) = engine.transcribe([Window(decode_audio(tmp_path / clip.audio.path), "it")])
    assert "seguito dal tasto" in result.text
