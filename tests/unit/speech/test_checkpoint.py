"""The promises of the checkpoint: whole, safe, in floats, and with configs that transformers understands."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models

from registry import Registry
from registry.importing import import_model
from speech.checkpoint import (
    CHECKPOINT_FILES,
    CONFIG_SIZES,
    FORBIDDEN_CONFIG_KEYS,
    IMPLEMENTATION_KEYS,
    IMPLEMENTATIONS,
    WEIGHTS,
    CheckpointError,
    check_checkpoint,
    checkpoint_files,
    complete_generation_config,
    read_arrays,
    read_json,
)
from speech.tokens import load_tokenizer

NEEDED = ("config.json", "tokenizer.json", "preprocessor_config.json", "generation_config.json")
CONFIGS = ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer_config.json")


def edit(path, **changes):
    """Change keys of a JSON file; None takes one out."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")


def shard(folder, names=("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")):
    """Split the weights in two, as transformers does with large models."""
    arrays = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weight_map = {key: names[i % 2] for i, key in enumerate(sorted(arrays))}
    for name in names:
        save_file({key: arrays[key] for key, place in weight_map.items() if place == name}, folder / name)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    return arrays


def test_a_whole_checkpoint_is_accepted(checkpoint):
    """What transformers saved and `write_configs` described is a Whisper."""
    check_checkpoint(checkpoint)


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_file_is_named(checkpoint, name):
    """Without one of its files it is not complete."""
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        check_checkpoint(checkpoint)


@pytest.mark.parametrize("model_type", ["wav2vec2", "Whisper", None])
def test_another_model_is_refused(checkpoint, model_type):
    """Only Whisper is Whisper."""
    edit(checkpoint / "config.json", model_type=model_type)
    with pytest.raises(CheckpointError, match="model_type"):
        check_checkpoint(checkpoint)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("key", FORBIDDEN_CONFIG_KEYS)
def test_code_from_elsewhere_is_refused(checkpoint, name, key):
    """A config that asks for code of its own is refused, whichever of them it is and whatever it says."""
    edit(checkpoint / name, **{key: {"AutoModel": "elsewhere--model.Evil"}})
    with pytest.raises(CheckpointError, match=f"{name}: '{key}'"):
        check_checkpoint(checkpoint)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("attention", ["someone/kernel", "kernels-community/flash-attn:evil", "", {"": "eager"}])
@pytest.mark.parametrize("key", IMPLEMENTATION_KEYS)
def test_a_kernel_from_elsewhere_is_refused(checkpoint, name, key, attention):
    """A name that is not of transformers' own would be fetched and run, with the underscore or without."""
    edit(checkpoint / name, **{key: attention})
    with pytest.raises(CheckpointError, match=f"{name}: {key} "):
        check_checkpoint(checkpoint)


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
def test_attention_of_transformers_own_is_accepted(checkpoint, attention):
    """What transformers itself brings along runs nobody else's code."""
    edit(checkpoint / "config.json", _attn_implementation=attention)
    check_checkpoint(checkpoint)


@pytest.mark.parametrize("value", [None, 0, -1, "2", 2.0])
@pytest.mark.parametrize("key", CONFIG_SIZES)
def test_a_size_that_is_none_is_named(checkpoint, key, value):
    """Whoever leaves out a size, or writes something else there, learns which one."""
    edit(checkpoint / "config.json", **{key: value})
    with pytest.raises(CheckpointError, match=rf"config\.json: {key} is"):
        check_checkpoint(checkpoint)


def test_an_english_only_checkpoint_is_refused(checkpoint):
    """A model without language and task tokens is told from a broken one."""
    edit(checkpoint / "generation_config.json", is_multilingual=False)
    with pytest.raises(CheckpointError, match="English-only"):
        check_checkpoint(checkpoint)


@pytest.mark.parametrize("content", ["", "{}", '{"a": 1}'])
def test_a_damaged_tokenizer_is_named(checkpoint, content):
    """What is no tokenizer is a fault of the checkpoint, in words."""
    (checkpoint / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be (read|used)"):
        check_checkpoint(checkpoint)


def test_the_tokenizer_of_another_model_is_refused(checkpoint):
    """A tokenizer without Whisper's special tokens is as good as none."""
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(checkpoint / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be used.*startoftranscript"):
        check_checkpoint(checkpoint)


def test_failure_37_a_tokenizer_that_was_trained_anew_is_refused(checkpoint):
    """One whose special tokens come first would have all text taken for control, and every transcript empty."""
    layout = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"] for token in layout["added_tokens"]}
    text = [token for token in layout["model"]["vocab"] if token not in special]
    order = [token["content"] for token in layout["added_tokens"]] + text
    ids = {token: number for number, token in enumerate(order)}
    layout["model"]["vocab"] = {token: ids[token] for token in (*text, *(special & layout["model"]["vocab"].keys()))}
    for token in layout["added_tokens"]:
        token["id"] = ids[token["content"]]
    (checkpoint / "tokenizer.json").write_text(json.dumps(layout), encoding="utf-8")
    with pytest.raises(CheckpointError, match="do not follow the text tokens"):
        check_checkpoint(checkpoint)


@pytest.mark.parametrize("with_times", [True, False])
def test_failure_37_a_word_that_was_added_is_refused(checkpoint, tokenizer, with_times):
    """Behind the times it would be left out of transcripts; in their place, every time would be another."""
    path = checkpoint / "tokenizer.json"
    layout = json.loads(path.read_text(encoding="utf-8"))
    if not with_times:
        layout["added_tokens"] = [one for one in layout["added_tokens"] if one["id"] < tokenizer.timestamp_begin]
        path.write_text(json.dumps(layout), encoding="utf-8")
    changed = load_tokenizer(path) if with_times else Tokenizer.from_file(str(path))
    changed.add_tokens([AddedToken("cancelletto", special=False)])
    changed.save(str(path))
    with pytest.raises(CheckpointError, match="'cancelletto' was added" if with_times else "do not follow <.notime"):
        check_checkpoint(checkpoint)


def test_failure_37_every_token_of_whispers_has_an_embedding(checkpoint):
    """A model with fewer tokens than its tokenizer would be asked for what it has not; more are harmless padding."""
    size = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    edit(checkpoint / "config.json", vocab_size=size + 7)
    check_checkpoint(checkpoint)
    edit(checkpoint / "config.json", vocab_size=size - 1)
    with pytest.raises(CheckpointError, match=f"vocab_size is {size - 1}, and Whisper's tokens are {size} here"):
        check_checkpoint(checkpoint)


def test_the_known_ways_to_run_code_are_forbidden():
    """These keys have made transformers run what a checkpoint brought along."""
    assert {"auto_map", "_attn_implementation_internal"} <= set(FORBIDDEN_CONFIG_KEYS)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00", '"whisper"'])
def test_a_damaged_config_is_named(checkpoint, content):
    """What is no JSON object says which file it is."""
    (checkpoint / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        check_checkpoint(checkpoint)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    """A config in no encoding is damaged."""
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        read_json(tmp_path / "config.json")


def test_the_files_of_a_version_are_the_checkpoints_own(checkpoint):
    """Optimizer states, scripts and readmes of a source are left behind."""
    for name in ("README.md", "modeling_evil.py", "optimizer.pt", "pytorch_model.bin"):
        (checkpoint / name).write_text("x", encoding="utf-8")
    assert {path.name for path in checkpoint_files(checkpoint)} == set(CHECKPOINT_FILES)


def test_shards_are_files_of_a_version(checkpoint):
    """A large model's shards and their index come along."""
    shard(checkpoint)
    found = {path.name for path in checkpoint_files(checkpoint)}
    assert {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    } <= found
    assert WEIGHTS not in found


def test_shards_are_read_as_one(checkpoint):
    """Every array of every shard, bit for bit."""
    arrays = shard(checkpoint)
    found = read_arrays(checkpoint)
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[key], arrays[key]) for key in arrays)


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "weights.bin", "..", "a/../b.safetensors", 1],
)
def test_a_shard_lies_beside_its_index(checkpoint, name):
    """An index that points elsewhere, or at a pickle, is refused before anything is opened."""
    shard(checkpoint)
    (checkpoint / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": name}}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="not a shard"):
        read_arrays(checkpoint)
    with pytest.raises(CheckpointError, match="not a shard"):
        checkpoint_files(checkpoint)


@pytest.mark.parametrize("index", [{}, {"weight_map": None}, {"weight_map": []}, {"weight_map": {}}])
def test_an_index_without_a_map_is_refused(checkpoint, index):
    """An index that names no shard does not stand for an empty model."""
    (checkpoint / WEIGHTS).unlink()
    (checkpoint / f"{WEIGHTS}.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError, match="has no weight_map"):
        read_arrays(checkpoint)


def test_a_missing_shard_is_named(checkpoint):
    """Half a model is none."""
    shard(checkpoint)
    (checkpoint / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        read_arrays(checkpoint)


def test_missing_weights_are_named(checkpoint):
    """Without weights there is nothing to read."""
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        read_arrays(checkpoint)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_weights_are_refused(checkpoint, share):
    """A download that stopped is noticed."""
    content = (checkpoint / WEIGHTS).read_bytes()
    (checkpoint / WEIGHTS).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_arrays(checkpoint)


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.int16, np.uint8])
def test_only_float16_and_float32_are_weights(tmp_path, dtype):
    """Quantised arrays cannot be had back, and float64 is nobody's Whisper."""
    save_file({"good": np.zeros(2, np.float16), "wrong": np.zeros(2, dtype)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="wrong is neither float16 nor float32"):
        read_arrays(tmp_path)


def test_bfloat16_is_refused_in_words(tmp_path):
    """There is no bfloat16 in numpy; the message is about the file, not about numpy."""
    import torch
    from safetensors.torch import save_file as save_tensors

    save_tensors({"a": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="float16"):
        read_arrays(tmp_path)


def test_float16_is_read_as_it_is(tmp_path):
    """Nothing is cast on the way."""
    save_file({"a": np.arange(3, dtype=np.float16)}, tmp_path / WEIGHTS)
    assert read_arrays(tmp_path)["a"].dtype == np.float16


def test_transformers_understands_the_configs(tiny, tokenizer):
    """Model, generation and feature extractor are what transformers would have written itself."""
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor

    config = WhisperConfig.from_pretrained(tiny.checkpoint)
    assert (config.encoder_layers, config.decoder_layers, config.d_model) == (2, 2, 16)
    assert (config.encoder_attention_heads, config.decoder_attention_heads) == (2, 2)
    assert (config.encoder_ffn_dim, config.decoder_ffn_dim) == (32, 32)
    assert (config.num_mel_bins, config.max_source_positions, config.max_target_positions) == (80, 1500, 448)
    assert config.vocab_size == tokenizer.timestamp_begin + 1501
    assert config.decoder_start_token_id == tokenizer.sot
    generation = GenerationConfig.from_pretrained(tiny.checkpoint)
    assert generation.lang_to_id == {
        "<|en|>": tokenizer.sot + 1,
        "<|it|>": tokenizer.sot + 2,
        "<|ru|>": tokenizer.sot + 3,
    }
    assert generation.task_to_id == tokenizer.tasks
    assert generation.no_timestamps_token_id == tokenizer.no_timestamps
    assert generation.eos_token_id == tokenizer.eot
    assert generation.is_multilingual
    extractor = WhisperFeatureExtractor.from_pretrained(tiny.checkpoint)
    assert (extractor.feature_size, extractor.sampling_rate, extractor.n_samples) == (80, 16_000, 480_000)


def test_an_old_generation_config_is_completed(checkpoint):
    """Fine-tuned before 2023, it names no languages: `generate` would refuse them, and none would be detected."""
    path = checkpoint / "generation_config.json"
    whole = json.loads(path.read_text())
    lost = {"lang_to_id", "task_to_id", "no_timestamps_token_id", "is_multilingual", "prev_sot_token_id"}
    old = {name: value for name, value in whole.items() if name not in lost} | {"max_length": 200}
    path.write_text(json.dumps(old))
    complete_generation_config(checkpoint)
    assert json.loads(path.read_text()) == whole | {"max_length": 200}
    before = path.stat().st_mtime_ns
    complete_generation_config(checkpoint)
    assert path.stat().st_mtime_ns == before


def test_an_import_completes_the_generation_config(checkpoint, tmp_path):
    """A version has the languages, and so has its export, which detects by them; the folder it came from is left."""
    path = checkpoint / "generation_config.json"
    whole = json.loads(path.read_text())
    edit(path, lang_to_id=None)
    before = path.read_bytes()
    version = import_model(str(checkpoint), "old", Registry(tmp_path / "registry"))
    assert json.loads((version.path / path.name).read_text())["lang_to_id"] == whole["lang_to_id"]
    exported = json.loads((version.path / "ctranslate2" / "config.json").read_text())
    assert exported["lang_ids"] == sorted(whole["lang_to_id"].values())
    assert path.read_bytes() == before


def test_transformers_finds_every_weight(tiny):
    """Nothing is missing, nothing is left over, and the projection is tied."""
    from transformers import WhisperForConditionalGeneration

    model, report = WhisperForConditionalGeneration.from_pretrained(tiny.checkpoint, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert model.proj_out.weight.data_ptr() == model.model.decoder.embed_tokens.weight.data_ptr()


def test_configs_can_be_read_by_humans(tiny):
    """Sorted keys, one a line, so that two versions can be compared."""
    text = (tiny.checkpoint / "config.json").read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
