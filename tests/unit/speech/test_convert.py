"""The promises of conversion: bit for bit there and back, and no guesses."""

import json
import re
import struct
from types import SimpleNamespace

import ctranslate2
import numpy as np
import pytest
from ctranslate2.specs import whisper_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from speech.checkpoint import WEIGHTS, CheckpointError, check_checkpoint, read_arrays
from speech.convert import HEADS, checkpoint_from_ctranslate2, export_ctranslate2, is_ctranslate2, read_ctranslate2

TYPES = {
    np.dtype(np.float32): 0,
    np.dtype(np.int8): 1,
    np.dtype(np.int16): 2,
    np.dtype(np.int32): 3,
    np.dtype(np.float16): 4,
}


def write_model(path, arrays, *, spec="WhisperSpec", revision=3, aliases=(), type_id=None):
    """Write a `model.bin` in CTranslate2's layout, whatever it is worth."""

    def text(word):
        return struct.pack("<H", len(word) + 1) + word.encode() + b"\x00"

    parts = [struct.pack("<I", 6), text(spec), struct.pack("<II", revision, len(arrays))]
    for name, array in arrays.items():
        parts += [text(name), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)]
        parts += [struct.pack("<BI", TYPES[array.dtype] if type_id is None else type_id, array.nbytes), array.tobytes()]
    parts.append(struct.pack("<I", len(aliases)))
    parts += [text(word) for alias in aliases for word in alias]
    path.write_bytes(b"".join(parts))


def same(one, other):
    """Say whether two sets of arrays are equal bit for bit."""
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype
        and one[key].shape == other[key].shape
        and one[key].tobytes() == other[key].tobytes()
        for key in one
    )


@pytest.fixture
def exported(tiny, tmp_path):
    """Return a copy of the tiny model's export, and its arrays, to be tampered with."""
    folder = tmp_path / "exported"
    folder.mkdir()
    for path in tiny.export.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return SimpleNamespace(folder=folder, path=folder / "model.bin", arrays=read_ctranslate2(folder / "model.bin"))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_there_and_back_is_bit_identical(checkpoint, tmp_path, dtype):
    """From transformers to CTranslate2 and back no bit of any array changes."""
    arrays = {key: array.astype(dtype) for key, array in load_file(checkpoint / WEIGHTS).items()}
    save_file(arrays, checkpoint / WEIGHTS)
    export_ctranslate2(checkpoint, tmp_path / "export", dtype=dtype)
    checkpoint_from_ctranslate2(tmp_path / "export", tmp_path / "back")
    assert len(arrays) > 80
    assert same(read_arrays(tmp_path / "back"), arrays)


def test_a_float16_export_is_the_rounded_checkpoint(tiny, tmp_path):
    """Exporting float32 as float16 rounds once, and does nothing else."""
    export_ctranslate2(tiny.checkpoint, tmp_path / "export")
    checkpoint_from_ctranslate2(tmp_path / "export", tmp_path / "back")
    expected = {key: array.astype(np.float16) for key, array in load_file(tiny.checkpoint / WEIGHTS).items()}
    assert same(read_arrays(tmp_path / "back"), expected)


def test_what_comes_back_is_a_checkpoint(tiny, tmp_path):
    """It passes its own check, and its configs say what the original's said."""
    checkpoint_from_ctranslate2(tiny.export, tmp_path / "back")
    check_checkpoint(tmp_path / "back")
    for name in ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / "back" / name).read_text()) == json.loads((tiny.checkpoint / name).read_text())


def test_a_sharded_checkpoint_is_exported(checkpoint, tiny, tmp_path):
    """Two files of weights make the same model as one."""
    arrays = load_file(checkpoint / WEIGHTS)
    (checkpoint / WEIGHTS).unlink()
    weight_map = {key: f"model-{i % 2}.safetensors" for i, key in enumerate(arrays)}
    for name in set(weight_map.values()):
        save_file({key: arrays[key] for key in arrays if weight_map[key] == name}, checkpoint / name)
    (checkpoint / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    export_ctranslate2(checkpoint, tmp_path / "export", dtype="float32")
    assert (tmp_path / "export" / "model.bin").read_bytes() == (tiny.export / "model.bin").read_bytes()


def test_the_real_ctranslate2_computes_what_transformers_does(tiny):
    """The export's encoder output is that of the checkpoint, to rounding."""
    import torch
    from transformers import WhisperForConditionalGeneration

    features = np.random.default_rng(4).standard_normal((2, 80, 3000)).astype(np.float32)
    whisper = ctranslate2.models.Whisper(str(tiny.export), compute_type="float32", intra_threads=1)
    ours = np.array(whisper.encode(ctranslate2.StorageView.from_array(features)))
    model = WhisperForConditionalGeneration.from_pretrained(tiny.checkpoint).eval()
    with torch.inference_mode():
        expected = model.model.encoder(torch.from_numpy(features)).last_hidden_state.numpy()
    assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_real_ctranslate2_knows_a_multilingual_model(tiny):
    """Vocabulary and mels are what it needs to detect languages."""
    whisper = ctranslate2.models.Whisper(str(tiny.export), intra_threads=1)
    assert whisper.is_multilingual
    assert whisper.n_mels == 80


def test_the_export_says_what_must_not_be_generated(tiny, tokenizer):
    """Suppressed tokens, languages and alignment heads come from the generation config."""
    generation = json.loads((tiny.checkpoint / "generation_config.json").read_text())
    config = json.loads((tiny.export / "config.json").read_text())
    assert config["suppress_ids"] == generation["suppress_tokens"]
    assert config["suppress_ids_begin"] == generation["begin_suppress_tokens"]
    assert config["lang_ids"] == list(tokenizer.languages.values())
    assert config["alignment_heads"] == generation["alignment_heads"]


def test_without_alignment_heads_the_upper_half_is_named(checkpoint, tmp_path):
    """As CTranslate2's own converter does for models that name none."""
    path = checkpoint / "generation_config.json"
    generation = json.loads(path.read_text())
    path.write_text(json.dumps({**generation, "alignment_heads": None}))
    export_ctranslate2(checkpoint, tmp_path / "export")
    assert json.loads((tmp_path / "export" / "config.json").read_text())["alignment_heads"] == [[1, 0], [1, 1]]


def test_the_export_brings_its_tokenizer_with_all_timestamps(tiny, tokenizer):
    """CTranslate2's folder needs no other one, and its vocabulary is the model's."""
    vocabulary = json.loads((tiny.export / "vocabulary.json").read_text(encoding="utf-8"))
    assert len(vocabulary) == tokenizer.timestamp_begin + 1501
    assert vocabulary[tokenizer.sot] == "<|startoftranscript|>"
    assert vocabulary[-1] == "<|30.00|>"
    assert "<|30.00|>" in (tiny.export / "tokenizer.json").read_text(encoding="utf-8")


def test_a_ctranslate2_folder_is_recognised(tiny, tmp_path):
    """By its model.bin's own words, not by its name."""
    assert is_ctranslate2(tiny.export)
    assert not is_ctranslate2(tiny.checkpoint)
    assert not is_ctranslate2(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"\x80\x04 a pickle with another name")
    assert not is_ctranslate2(tmp_path)


@pytest.mark.parametrize("quantization", ["int8", "int8_float16", "int16"])
def test_a_quantised_model_is_refused(tiny, tmp_path, quantization):
    """What was rounded away cannot be had back; the message says what to import instead."""
    export_ctranslate2(tiny.checkpoint, tmp_path / "quantised", dtype=quantization)
    assert is_ctranslate2(tmp_path / "quantised")
    with pytest.raises(CheckpointError, match=r"quantised.*Import the float16 or float32"):
        checkpoint_from_ctranslate2(tmp_path / "quantised", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_bfloat16_is_refused(exported):
    """It has no counterpart in numpy, so it would have to be guessed."""
    write_model(exported.path, {"a": np.zeros(2, np.int16)}, type_id=5)
    with pytest.raises(CheckpointError, match="bfloat16"):
        read_ctranslate2(exported.path)


@pytest.mark.parametrize(("spec", "revision"), [("TransformerSpec", 7), ("WhisperSpec", 2), ("WhisperSpec", 4)])
def test_another_specification_is_refused(exported, spec, revision):
    """Another model, or a layout that is not known, is named."""
    write_model(exported.path, {}, spec=spec, revision=revision)
    with pytest.raises(CheckpointError, match=f"holds {spec} revision {revision}"):
        read_ctranslate2(exported.path)


def test_writing_and_reading_agree(exported):
    """The tests' own writer makes what ctranslate2 makes: nothing below is refused for another reason."""
    aliases = [("decoder/projection/weight", "decoder/embeddings/weight")]
    write_model(exported.path, {k: v for k, v in exported.arrays.items() if k != aliases[0][0]}, aliases=aliases)
    assert same(read_ctranslate2(exported.path), exported.arrays)
    checkpoint_from_ctranslate2(exported.folder, exported.folder / "back")


@pytest.mark.parametrize("share", [0, 0.0001, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_model_is_refused(exported, share):
    """Wherever a download stopped, it is noticed."""
    content = exported.path.read_bytes()
    exported.path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="damaged"):
        read_ctranslate2(exported.path)


def test_bytes_after_the_end_are_refused(exported):
    """A file that goes on is not the file that was written."""
    exported.path.write_bytes(exported.path.read_bytes() + b"\x00")
    with pytest.raises(CheckpointError, match="1 bytes too many"):
        read_ctranslate2(exported.path)


def test_a_missing_model_is_named(tmp_path):
    """No model.bin is no CTranslate2 model."""
    with pytest.raises(CheckpointError, match=r"no model\.bin"):
        checkpoint_from_ctranslate2(tmp_path, tmp_path / "back")


def test_an_array_too_many_is_refused(exported):
    """What has no place in Whisper is not dropped in silence."""
    write_model(exported.path, {**exported.arrays, "decoder/layer_0/adapter/weight": np.ones((2, 2), np.float32)})
    with pytest.raises(CheckpointError, match="decoder/layer_0/adapter/weight"):
        checkpoint_from_ctranslate2(exported.folder, exported.folder / "back")


def test_every_missing_array_is_named(exported):
    """Nothing is filled in, neither an array nor the number of heads."""
    needed = [name for name, array in exported.arrays.items() if array.ndim > 0 or name in HEADS]
    assert len(needed) > 70
    for name in needed:
        write_model(exported.path, {key: array for key, array in exported.arrays.items() if key != name})
        with pytest.raises(CheckpointError, match=f"lacks 1 arrays, as {re.escape(name)}$"):
            checkpoint_from_ctranslate2(exported.folder, exported.folder / "back")
    assert not (exported.folder / "back").exists()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("encoder/layer_0/self_attention/linear_0/weight", 3),
        ("decoder/layer_1/self_attention/linear_0/bias", 3),
        ("decoder/layer_0/attention/linear_1/weight", 2),
    ],
)
def test_a_fused_array_has_all_its_parts(exported, name, parts):
    """Rows that are missing from a fused projection are not cut out of the next part."""
    write_model(exported.path, {**exported.arrays, name: exported.arrays[name][:20]})
    with pytest.raises(CheckpointError, match=f"{name} has 20 rows, not {parts} times 16"):
        checkpoint_from_ctranslate2(exported.folder, exported.folder / "back")


def test_an_alias_of_nothing_is_refused(exported):
    """A second name for an array that is not there is damage."""
    write_model(exported.path, exported.arrays, aliases=[("x", "nothing")])
    with pytest.raises(CheckpointError, match=r"damaged.*nothing"):
        read_ctranslate2(exported.path)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Return where a damaged model may be written again and again."""
    return tmp_path_factory.mktemp("damaged") / "model.bin"


@settings(max_examples=200, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 2999), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_damaged_model_is_read_or_refused_in_words(tiny, damaged, flips):
    """Wrong bytes among its names, shapes and sizes raise nothing but a CheckpointError."""
    content = bytearray((tiny.export / "model.bin").read_bytes())
    for position, byte in flips:
        content[position] = byte
    damaged.write_bytes(content)
    try:
        arrays = read_ctranslate2(damaged)
    except CheckpointError as error:
        arrays, message = None, str(error)
        assert message
    assert arrays is None or len(arrays) > 70


def test_an_untied_projection_is_refused(exported):
    """Whisper's projection is its embedding; another one would be lost."""
    untied = exported.arrays["decoder/embeddings/weight"].copy()
    untied[5, 5] += 1
    write_model(exported.path, {**exported.arrays, "decoder/projection/weight": untied})
    with pytest.raises(CheckpointError, match="not tied"):
        checkpoint_from_ctranslate2(exported.folder, exported.folder / "back")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("encoder/layer_0/self_attention/linear_0/bias", 16),
        ("decoder/layer_1/self_attention/linear_0/bias", 31),
        ("decoder/layer_0/attention/linear_1/bias", 0),
        ("decoder/layer_1/attention/linear_1/bias", 15),
    ],
)
def test_a_key_projection_has_no_bias(exported, name, row):
    """The key's part of a fused bias is zeros; anything else would be lost."""
    bias = exported.arrays[name].copy()
    assert bias[row] == 0
    bias[row] = 0.5
    write_model(exported.path, {**exported.arrays, name: bias})
    with pytest.raises(CheckpointError, match="key projection"):
        checkpoint_from_ctranslate2(exported.folder, exported.folder / "back")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_files_beside_the_model_are_needed(exported, name):
    """A tokenizer cannot be made up, nor what must be suppressed."""
    (exported.folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        checkpoint_from_ctranslate2(exported.folder, exported.folder / "back")


def test_a_damaged_tokenizer_beside_the_model_is_refused(exported):
    """What is no tokenizer is named before anything is written."""
    (exported.folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be used"):
        checkpoint_from_ctranslate2(exported.folder, exported.folder / "back")
    assert not (exported.folder / "back").exists()


@pytest.mark.parametrize(("key", "value"), [("d_model", 8), ("vocab_size", 2000)])
def test_the_config_must_fit_the_arrays(checkpoint, tmp_path, key, value):
    """A config that says another width or vocabulary than the weights have is refused, not followed."""
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=r"config\.json says"):
        export_ctranslate2(checkpoint, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_the_export_wants_every_array(checkpoint, tmp_path):
    """A checkpoint without one of its arrays is not exported."""
    arrays = load_file(checkpoint / WEIGHTS)
    del arrays["model.decoder.layers.1.fc2.bias"]
    save_file(arrays, checkpoint / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"1 arrays are missing, as model\.decoder\.layers\.1\.fc2\.bias"):
        export_ctranslate2(checkpoint, tmp_path / "export")


def test_the_export_wants_no_other_array(checkpoint, tmp_path):
    """An adapter that was not merged is noticed; the tied projection may be stored."""
    arrays = load_file(checkpoint / WEIGHTS)
    tied = {**arrays, "proj_out.weight": arrays["model.decoder.embed_tokens.weight"]}
    save_file(tied, checkpoint / WEIGHTS)
    export_ctranslate2(checkpoint, tmp_path / "export")
    save_file({**arrays, "model.decoder.layers.0.fc1.lora_A.weight": np.ones(2, np.float32)}, checkpoint / WEIGHTS)
    with pytest.raises(CheckpointError, match="lora_A"):
        export_ctranslate2(checkpoint, tmp_path / "other")


def test_the_export_checks_the_checkpoint_first(checkpoint, tmp_path):
    """What is unsafe is not exported either."""
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "auto_map": {}}))
    with pytest.raises(CheckpointError, match="auto_map"):
        export_ctranslate2(checkpoint, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_the_supported_specification_is_ctranslate2s_own():
    """When ctranslate2 changes its layout, this says so before any model is misread."""
    spec = whisper_spec.WhisperSpec(2, 2, 2, 2)
    assert (spec.name, spec.revision) == ("WhisperSpec", 3)


@pytest.mark.parametrize(("quantization", "dtype"), [(None, np.float32), ("float16", np.float16)])
def test_a_model_of_ctranslate2s_own_converter_is_imported_exactly(tiny, tmp_path, quantization, dtype):
    """What others converted comes back as the weights that they converted."""
    from ctranslate2.converters import TransformersConverter

    converter = TransformersConverter(str(tiny.checkpoint), copy_files=["tokenizer.json"])
    converter.convert(str(tmp_path / "theirs"), quantization=quantization)
    checkpoint_from_ctranslate2(tmp_path / "theirs", tmp_path / "back")
    expected = {key: array.astype(dtype) for key, array in load_file(tiny.checkpoint / WEIGHTS).items()}
    assert same(read_arrays(tmp_path / "back"), expected)
