"""A Whisper in transformers' layout: which files it is made of, what they must say, and how to write their configs.

Reads and writes files only; no torch and no transformers. What is not a whole, safe Whisper in float16 or float32
safetensors is refused with the file and the reason.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from speech.audio import SAMPLE_RATE
from speech.context import MAX_POSITIONS
from speech.features import CHUNK_LENGTH, HOP_LENGTH, N_FFT, N_FRAMES, N_SAMPLES
from speech.tokens import MAX_LABEL_TOKENS, N_TIMESTAMPS, WhisperTokenizer, load_tokenizer

Array = NDArray[Any]

WEIGHTS = "model.safetensors"
FLOATS = (np.dtype(np.float16), np.dtype(np.float32))

CHECKPOINT_FILES = (
    WEIGHTS,
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
"""A checkpoint as `transformers.pipeline` wants it; nothing else of a source folder is taken along."""

FORBIDDEN_CONFIG_KEYS = ("auto_map", "_attn_implementation_internal", "custom_pipelines")
"""Keys by which a JSON file makes transformers run code from elsewhere (CVE-2026-4372 and its kin)."""

IMPLEMENTATION_KEYS = ("_attn_implementation", "attn_implementation", "experts_implementation")
IMPLEMENTATIONS = (None, "eager", "sdpa", "flash_attention_2")
"""transformers' own; any other name is that of a kernel on the Hub."""

CONFIG_SIZES = (
    "d_model",
    "vocab_size",
    "encoder_layers",
    "decoder_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
)


class CheckpointError(ValueError):
    """The source is not a Whisper checkpoint that can be used without loss."""


def check_checkpoint(source: Path) -> None:
    """Check that a transformers directory holds a Whisper, whole and without code; its arrays are not read yet.

    Raises:
        CheckpointError: a file is missing, it is no Whisper, or its config asks for code of its own.
    """
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json", "generation_config.json"):
        if not (source / name).is_file():
            raise CheckpointError(f"{name} is missing: not a complete transformers Whisper checkpoint")
    for path in checkpoint_files(source):
        if path.name in CHECKPOINT_FILES and path.suffix == ".json":
            _refuse_code(path.name, read_json(path))
    config = read_json(source / "config.json")
    if config.get("model_type") != "whisper":
        raise CheckpointError(f"config.json: model_type is {config.get('model_type')!r}, not 'whisper'")
    for key in CONFIG_SIZES:
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise CheckpointError(f"config.json: {key} is {config.get(key)!r}, not a size")
    if read_json(source / "generation_config.json").get("is_multilingual") is False:
        raise CheckpointError(
            "this is an English-only checkpoint (.en): take the one without .en, which knows English, too"
        )
    _check_tokens(WhisperTokenizer(read_tokenizer(source)), config["vocab_size"])


def _check_tokens(tokenizer: WhisperTokenizer, vocab_size: int) -> None:
    if tokenizer.fault is not None:
        raise CheckpointError(f"tokenizer.json: {tokenizer.fault}; Whisper's own is needed")
    wanted = tokenizer.timestamp_begin + N_TIMESTAMPS
    if vocab_size < wanted:
        raise CheckpointError(f"config.json: vocab_size is {vocab_size}, and Whisper's tokens are {wanted} here")


def _refuse_code(name: str, content: Mapping[str, Any]) -> None:
    for key in FORBIDDEN_CONFIG_KEYS:
        if key in content:
            raise CheckpointError(f"{name}: {key!r} would run code from outside; such models are refused")
    for key in IMPLEMENTATION_KEYS:
        if content.get(key) not in IMPLEMENTATIONS:
            raise CheckpointError(f"{name}: {key} {content[key]!r} would be code from outside; such models are refused")


def complete_generation_config(folder: Path) -> None:
    """Write what `generate` wants and checkpoints of before 2023 lack: which tokens are languages, tasks and times."""
    path = folder / "generation_config.json"
    there = read_json(path)
    whole = _special_tokens(WhisperTokenizer(read_tokenizer(folder))) | there
    if whole != there:
        path.write_text(json.dumps(whole, indent=2), encoding="utf-8")


def _special_tokens(tokenizer: WhisperTokenizer) -> dict[str, Any]:
    return {
        "is_multilingual": True,
        "lang_to_id": {f"<|{code}|>": token for code, token in tokenizer.languages.items()},
        "task_to_id": tokenizer.tasks,
        "no_timestamps_token_id": tokenizer.no_timestamps,
        "prev_sot_token_id": tokenizer.sot_prev,
    }


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read a Whisper's `tokenizer.json`, timestamps completed."""
    try:
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        WhisperTokenizer(tokenizer)
    except Exception as error:
        raise CheckpointError(f"tokenizer.json cannot be used: {error}") from error
    return tokenizer


def checkpoint_files(source: Path) -> list[Path]:
    """Return the files of a transformers checkpoint that belong in a version (shards of weights included)."""
    shards = {source / name for name in _shard_names(source)}
    named = [source / name for name in CHECKPOINT_FILES if (source / name).is_file()]
    index = source / f"{WEIGHTS}.index.json"
    return sorted({*named, *shards, *([index] if index.is_file() else [])})


def read_arrays(folder: Path) -> dict[str, Array]:
    """Read every array of the checkpoint, shards included; refuse what is not float16 or float32."""
    arrays: dict[str, Array] = {}
    for name in _shard_names(folder):
        try:
            with safe_open(folder / name, framework="numpy") as file:
                arrays.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - it is no mapping
        except FileNotFoundError as error:
            raise CheckpointError(f"{name} is missing") from error
        except (SafetensorError, TypeError) as error:
            raise CheckpointError(f"{name} cannot be read as float16 or float32 safetensors: {error}") from error
    if quantised := sorted(key for key, array in arrays.items() if array.dtype not in FLOATS):
        raise CheckpointError(
            f"{quantised[0]} is neither float16 nor float32: save the checkpoint unquantised, in one of these"
        )
    return arrays


def _shard_names(folder: Path) -> list[str]:
    index = folder / f"{WEIGHTS}.index.json"
    if (folder / WEIGHTS).is_file() or not index.is_file():
        return [WEIGHTS]
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{index.name} has no weight_map")
    for name in shards.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index.name} names {name!r}, which is not a shard beside it")
    return sorted(set(shards.values()))


def write_configs(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tokenizer: WhisperTokenizer,
    *,
    heads: tuple[int, int],
    dtype: str,
    generation: Mapping[str, Any],
) -> None:
    """Write model, generation, feature extractor's and tokenizer's configs, as openai's own checkpoints have them.

    Args:
        folder: where to.
        shapes: of every array, by transformers' names.
        tokenizer: of the model.
        heads: of the encoder's and of the decoder's attention.
        dtype: "float16" or "float32", as the arrays are stored.
        generation: `alignment_heads`, `suppress_tokens` and `begin_suppress_tokens`.
    """
    vocabulary, width = shapes["model.decoder.embed_tokens.weight"]
    encoder_layers = sum(n.startswith("model.encoder.") and n.endswith(".self_attn.q_proj.weight") for n in shapes)
    decoder_layers = sum(n.startswith("model.decoder.") and n.endswith(".self_attn.q_proj.weight") for n in shapes)
    n_mels = shapes["model.encoder.conv1.weight"][1]
    eot = tokenizer.eot
    special = {"bos_token_id": eot, "eos_token_id": eot, "pad_token_id": eot, "decoder_start_token_id": tokenizer.sot}
    config = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "d_model": width,
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "num_hidden_layers": encoder_layers,
        "encoder_attention_heads": heads[0],
        "decoder_attention_heads": heads[1],
        "encoder_ffn_dim": shapes["model.encoder.layers.0.fc1.weight"][0],
        "decoder_ffn_dim": shapes["model.decoder.layers.0.fc1.weight"][0],
        "max_source_positions": MAX_POSITIONS,
        "max_target_positions": MAX_LABEL_TOKENS,
        "num_mel_bins": n_mels,
        "vocab_size": vocabulary,
        "scale_embedding": False,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "dtype": dtype,
        **special,
    }
    generation_config = {
        **generation,
        **_special_tokens(tokenizer),
        "max_initial_timestamp_index": 50,
        "max_length": MAX_LABEL_TOKENS,
        "return_timestamps": False,
        **special,
    }
    preprocessor = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": n_mels,
        "sampling_rate": SAMPLE_RATE,
        "hop_length": HOP_LENGTH,
        "n_fft": N_FFT,
        "chunk_length": CHUNK_LENGTH,
        "n_samples": N_SAMPLES,
        "nb_max_frames": N_FRAMES,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
    end = "<|endoftext|>"
    tokenizer_config = {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        "model_max_length": MAX_LABEL_TOKENS,
        "add_prefix_space": False,
        "errors": "replace",
        **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), end),
    }
    for name, content in (
        ("config.json", config),
        ("generation_config.json", generation_config),
        ("preprocessor_config.json", preprocessor),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or raise a `CheckpointError` that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} does not hold a JSON object")
    return content
