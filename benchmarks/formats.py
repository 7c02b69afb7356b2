"""A transformers checkpoint as the peers read it: openai-whisper's .pt and whisper.cpp's ggml.

openai/whisper's `model.py` has the names, whisper.cpp's `models/convert-h5-to-ggml.py` the layout of a ggml file.
"""

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from speech.checkpoint import Array, read_arrays, read_json
from speech.features import mel_filters
from speech.tokens import WhisperTokenizer

GGML_MAGIC = 0x67676D6C
GGML_F32, GGML_F16 = 0, 1

RENAMES = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"\.self_attn\.", ".attn."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".out."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"^encoder\.layer_norm\.", "encoder.ln_post."),
    (r"^decoder\.layer_norm\.", "decoder.ln."),
    (r"\.embed_positions\.weight$", ".positional_embedding"),
    (r"\.embed_tokens\.", ".token_embedding."),
)
"""From transformers' names to openai's, in this order."""


def openai_name(name: str) -> str | None:
    """Return openai's name of a transformers array; None for the output layer, which is the token embedding again."""
    if name == "proj_out.weight":
        return None
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def dims(config: Mapping[str, Any]) -> dict[str, int]:
    """Return openai's `ModelDimensions` of a transformers config, in the order in which ggml wants them, too."""
    return {
        "n_vocab": config["vocab_size"],
        "n_audio_ctx": config["max_source_positions"],
        "n_audio_state": config["d_model"],
        "n_audio_head": config["encoder_attention_heads"],
        "n_audio_layer": config["encoder_layers"],
        "n_text_ctx": config["max_target_positions"],
        "n_text_state": config["d_model"],
        "n_text_head": config["decoder_attention_heads"],
        "n_text_layer": config["decoder_layers"],
        "n_mels": config["num_mel_bins"],
    }


def _renamed(folder: Path) -> dict[str, Array]:
    return {new: array for old, array in read_arrays(folder).items() if (new := openai_name(old)) is not None}


def write_openai(folder: Path, path: Path) -> None:
    """Write a checkpoint as `whisper.load_model` reads it, in float32."""
    import torch

    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in _renamed(folder).items()}
    partial = path.with_suffix(".partial")
    torch.save({"dims": dims(read_json(folder / "config.json")), "model_state_dict": state}, partial)
    partial.replace(path)


def write_ggml(folder: Path, path: Path) -> None:
    """Write a checkpoint as whisper.cpp reads it: matrices in float16, the rest in float32."""
    sizes = dims(read_json(folder / "config.json"))
    filters = mel_filters(sizes["n_mels"])
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<I", GGML_MAGIC))
        file.write(struct.pack("<11i", *sizes.values(), GGML_F16))
        file.write(struct.pack("<2i", *filters.shape) + filters.astype("<f4").tobytes())
        words = vocabulary(folder)
        file.write(struct.pack("<i", len(words)))
        for word in words:
            file.write(struct.pack("<i", len(word)) + word)
        for name, array in _renamed(folder).items():
            _write_tensor(file, name, array)
    partial.replace(path)


def _write_tensor(file: BinaryIO, name: str, array: Array) -> None:
    bias = re.fullmatch(r"encoder\.conv[12]\.bias", name)
    if bias:
        array = array.reshape(-1, 1)
    small = bias or array.ndim < 2 or name.endswith("positional_embedding")
    encoded = name.encode()
    file.write(struct.pack("<3i", array.ndim, len(encoded), GGML_F32 if small else GGML_F16))
    file.write(struct.pack(f"<{array.ndim}i", *reversed(array.shape)))
    file.write(encoded)
    file.write(array.astype("<f4" if small else "<f2").tobytes())


def vocabulary(folder: Path) -> list[bytes]:
    """Return the bytes of every token before the special ones, in the order of their ids."""
    tokenizer = WhisperTokenizer.from_folder(folder)
    return [tokenizer.token_bytes(token) for token in range(tokenizer.eot)]
