"""What both tiers share: a byte-level tokenizer in Whisper's layout, a Whisper of random weights, clips of noise."""

import os
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from speech.audio import SAMPLE_RATE
from speech.checkpoint import write_configs
from speech.convert import export_ctranslate2
from speech.tokens import N_TIMESTAMPS, WhisperTokenizer
from training.config import make_config
from training.data.manifest import AudioSlice, Utterance

# Continuous integration judges a change by the same examples each time; at a desk, every run looks for new ones. No
# example has a deadline: how fast a shared machine is says nothing about the code.
settings.register_profile("whisperloop", derandomize=bool(os.environ.get("CI")), deadline=None)
settings.load_profile("whisperloop")

SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|it|>",
    "<|ru|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
# Two letters and what openai/whisper never generates, a blank and the end at first.
SUPPRESSED = [3, 7, *range(258, 268)]
SUPPRESSED_AT_BEGIN = [220, 257]

GENERATION = {
    "alignment_heads": [[1, 0], [1, 1]],
    "begin_suppress_tokens": SUPPRESSED_AT_BEGIN,
    "suppress_tokens": SUPPRESSED,
}


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """Return a folder with a `tokenizer.json` of bytes and Whisper's special tokens, without timestamps."""
    # The empty token is Whisper's, too: CTranslate2 tells a multilingual model by it.
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), ""]
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder):
    """Return the tokenizer as the rooms see it."""
    return WhisperTokenizer.from_folder(tokenizer_folder)


@dataclass(frozen=True)
class Tiny:
    """A Whisper small enough for a unit test, as it lies on the disk."""

    checkpoint: Path  # transformers, float32
    export: Path  # CTranslate2, float32


def _fill(name, array, generator):
    """Weights wide enough that each token depends on the audio and on the tokens before it."""
    if name.endswith("embed_tokens.weight"):
        array = 0.5 * generator.standard_normal(array.shape)
        array[:, 0] = 0.0
        return array
    if name.endswith("decoder.embed_positions.weight"):
        return generator.standard_normal(array.shape)
    if array.ndim > 1:
        return 1.5 * generator.standard_normal(array.shape) / np.sqrt(array[0].size)
    array = array + 0.1 * generator.standard_normal(array.shape)
    if "decoder.layer_norm" in name:  # the first dimension is always 1: the embeddings' own is a bias of the logits
        array[0] = float(name.endswith("bias"))
    return array


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, tokenizer_folder, tokenizer):
    """Return a Whisper of 2 + 2 layers, 80 mels and random weights, saved by transformers, and its export."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.set_num_threads(1)  # so small a model only loses by sharing
    folder = tmp_path_factory.mktemp("tiny")
    config = WhisperConfig(
        vocab_size=tokenizer.timestamp_begin + N_TIMESTAMPS,
        num_mel_bins=80,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eot),
        decoder_start_token_id=tokenizer.sot,
    )
    model = WhisperForConditionalGeneration(config)
    generator = np.random.default_rng(20)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "model.encoder.embed_positions.weight":
                parameter.copy_(torch.from_numpy(_fill(name, parameter.numpy(), generator)))
    model.save_pretrained(folder)
    shapes = {name: tuple(array.shape) for name, array in model.state_dict().items()}
    write_configs(folder, shapes, tokenizer, heads=(2, 2), dtype="float32", generation=GENERATION)
    (folder / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    export_ctranslate2(folder, folder / "ctranslate2", dtype="float32")
    return Tiny(folder, folder / "ctranslate2")


@pytest.fixture(scope="session")
def noise_clips(tmp_path_factory):
    """Return twelve short clips of noise with texts, and the folder that they lie in."""
    folder = tmp_path_factory.mktemp("noise")
    clips = []
    for i in range(12):
        samples = np.random.default_rng(i).normal(0, 3000, SAMPLE_RATE // 4 + i * 400).astype("<i2")
        with wave.open(str(folder / f"{i}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(samples.tobytes())
        audio = AudioSlice(path=f"{i}.wav", duration=samples.size / SAMPLE_RATE, sha256="0" * 64)
        clips.append(Utterance(id=str(i), audio=audio, text=f"text {i}", language="it", source="test"))
    return clips, folder


@pytest.fixture(scope="session")
def short_config():
    """Return the function that makes a recipe of a few steps, with the settings that a test names."""

    def make(**settings):
        source = {"kind": "folder", "path": "unused"}
        short = {
            "max_steps": 6,
            "warmup_steps": 1,
            "batch_size": 4,
            "eval_steps": 3,
            "save_steps": 3,
            "learning_rate": 1e-3,
        }
        fixed = {"bf16": False, "full_context_share": 0.0, "sources": [source]}
        return make_config("test", {**short, **fixed, **settings})

    return make


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Return a Hub on the loopback interface; the real client talks to it, with a token, and never waits.

    A process of its own finds it by HF_ENDPOINT, as anybody would; in this one the client has read that already.
    """
    import types

    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    from tests.hub_server import TOKEN, HubServer

    server = HubServer()
    home = tmp_path / "hf"
    for name, value in {
        "HF_ENDPOINT": server.endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(sleep=lambda _: None))
    yield server
    server.close()
