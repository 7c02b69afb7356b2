"""The peers read the very weights that we serve."""

import struct

import numpy as np
import pytest

from benchmarks.formats import GGML_MAGIC, dims, openai_name, vocabulary, write_ggml, write_openai
from speech.checkpoint import read_arrays, read_json


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.encoder.conv1.weight", "encoder.conv1.weight"),
        ("model.encoder.embed_positions.weight", "encoder.positional_embedding"),
        ("model.encoder.layer_norm.bias", "encoder.ln_post.bias"),
        ("model.encoder.layers.3.self_attn.q_proj.weight", "encoder.blocks.3.attn.query.weight"),
        ("model.encoder.layers.3.self_attn_layer_norm.weight", "encoder.blocks.3.attn_ln.weight"),
        ("model.encoder.layers.3.final_layer_norm.bias", "encoder.blocks.3.mlp_ln.bias"),
        ("model.decoder.embed_tokens.weight", "decoder.token_embedding.weight"),
        ("model.decoder.embed_positions.weight", "decoder.positional_embedding"),
        ("model.decoder.layer_norm.weight", "decoder.ln.weight"),
        ("model.decoder.layers.11.encoder_attn.v_proj.bias", "decoder.blocks.11.cross_attn.value.bias"),
        ("model.decoder.layers.11.encoder_attn.out_proj.weight", "decoder.blocks.11.cross_attn.out.weight"),
        ("model.decoder.layers.11.encoder_attn_layer_norm.bias", "decoder.blocks.11.cross_attn_ln.bias"),
        ("model.decoder.layers.11.fc1.weight", "decoder.blocks.11.mlp.0.weight"),
        ("model.decoder.layers.11.fc2.bias", "decoder.blocks.11.mlp.2.bias"),
        ("proj_out.weight", None),
    ],
)
def test_names_are_openais(name, expected):
    """Each array has the name that openai-whisper's modules give it."""
    assert openai_name(name) == expected


def test_openai_checkpoint_holds_every_array(tiny, tmp_path):
    """Nothing but the output layer, which is the embedding again, is left out, and no value changes."""
    import torch

    write_openai(tiny.checkpoint, tmp_path / "model.pt")
    made = torch.load(tmp_path / "model.pt", weights_only=True)
    arrays = {openai_name(name): array for name, array in read_arrays(tiny.checkpoint).items()}
    arrays.pop(None, None)
    assert set(made["model_state_dict"]) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(made["model_state_dict"][name].numpy(), array.astype(np.float32))
    assert made["dims"]["n_audio_state"] == 16


def test_ggml_file_is_read_to_its_end(tiny, tmp_path):
    """Header, filters, words and tensors have the lengths that they declare, and the values are the checkpoint's."""
    write_ggml(tiny.checkpoint, tmp_path / "model.bin")
    content = (tmp_path / "model.bin").read_bytes()
    place = 0

    def take(layout):
        nonlocal place
        values = struct.unpack_from(layout, content, place)
        place += struct.calcsize(layout)
        return values

    assert take("<I") == (GGML_MAGIC,)
    assert take("<11i") == (*dims(read_json(tiny.checkpoint / "config.json")).values(), 1)
    n_mels, n_fft = take("<2i")
    place += 4 * n_mels * n_fft
    words = []
    for _ in range(*take("<i")):
        (length,) = take("<i")
        words += take(f"<{length}s")
    assert words == vocabulary(tiny.checkpoint)
    tensors = {}
    while place < len(content):
        n_dims, length, kind = take("<3i")
        shape = take(f"<{n_dims}i")[::-1]
        (name,) = take(f"<{length}s")
        dtype = np.dtype("<f2" if kind else "<f4")
        size = int(np.prod(shape))
        tensors[name.decode()] = np.frombuffer(content, dtype, size, place).reshape(shape)
        place += dtype.itemsize * size
    arrays = {openai_name(name): array for name, array in read_arrays(tiny.checkpoint).items()}
    arrays.pop(None, None)
    assert set(tensors) == set(arrays)
    assert tensors["encoder.conv1.bias"].shape == (16, 1)
    assert tensors["encoder.conv1.bias"].dtype == tensors["decoder.positional_embedding"].dtype == np.float32
    weight = tensors["decoder.blocks.1.mlp.0.weight"]
    np.testing.assert_allclose(weight, arrays["decoder.blocks.1.mlp.0.weight"], rtol=1e-3, atol=1e-6)
