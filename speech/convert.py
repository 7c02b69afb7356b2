"""Whisper checkpoints between the transformers and the CTranslate2 layout, both ways, array by array.

Called when a model is imported and when a version gets its CTranslate2 export. Every array is mapped by name and
copied bit for bit; an array that is left over, missing or quantised is an error, never a guess. Uses numpy,
safetensors and ctranslate2's own specification; no torch, so that the registry's command line stays light.
"""

import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import whisper_spec
from safetensors.numpy import save_file

from speech.checkpoint import (
    FLOATS,
    WEIGHTS,
    Array,
    CheckpointError,
    check_checkpoint,
    read_arrays,
    read_json,
    read_tokenizer,
    write_configs,
)
from speech.tokens import WhisperTokenizer

SUPPORTED_SPEC = ("WhisperSpec", 3)
HEADS = ("encoder/num_heads", "decoder/num_heads")
DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)  # ctranslate2's DataType, bfloat16 (5) apart


def is_ctranslate2(source: Path) -> bool:
    """Say whether `source` holds a CTranslate2 model (`model.bin` in its binary layout)."""
    path = source / "model.bin"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(32)
    return b"Spec\x00" in head


def checkpoint_from_ctranslate2(source: Path, target: Path) -> None:
    """Write the transformers checkpoint of a CTranslate2 Whisper in float16 or float32 into `target`.

    Raises:
        CheckpointError: not a Whisper, quantised, or an array has no counterpart.
    """
    arrays = read_ctranslate2(source / "model.bin")
    quantised = sorted(name for name, array in arrays.items() if name.endswith("/weight_scale") or _is_quantised(array))
    if quantised:
        raise CheckpointError(
            f"{source.name}/model.bin is quantised ({len(quantised)} arrays, as {quantised[0]}): what "
            "int8 rounded away cannot be had back. Import the float16 or float32 model instead."
        )
    converted = {name: np.ascontiguousarray(array) for name, array in _to_transformers(arrays)}
    tokenizer = read_tokenizer(source)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(target / "tokenizer.json"))
    source_config = read_json(source / "config.json")
    write_configs(
        target,
        {name: array.shape for name, array in converted.items()},
        WhisperTokenizer(tokenizer),
        heads=(int(arrays[HEADS[0]]), int(arrays[HEADS[1]])),
        dtype=str(converted["model.encoder.conv1.weight"].dtype),
        generation={
            "alignment_heads": source_config.get("alignment_heads"),
            "begin_suppress_tokens": source_config.get("suppress_ids_begin"),
            "suppress_tokens": source_config.get("suppress_ids"),
        },
    )
    save_file(converted, target / WEIGHTS, metadata={"format": "pt"})


def export_ctranslate2(checkpoint: Path, target: Path, *, dtype: str = "float16") -> None:
    """Write the CTranslate2 model of a transformers checkpoint into `target`, a folder that is made.

    CTranslate2 quantises when it loads, so one float16 export serves int8 and float32 alike.

    Raises:
        CheckpointError: as `check_checkpoint`.
    """
    check_checkpoint(checkpoint)
    config, generation = read_json(checkpoint / "config.json"), read_json(checkpoint / "generation_config.json")
    arrays = read_arrays(checkpoint)
    spec = whisper_spec.WhisperSpec(
        config["encoder_layers"],
        config["encoder_attention_heads"],
        config["decoder_layers"],
        config["decoder_attention_heads"],
    )
    for path, array in _to_ctranslate2(arrays, config):
        _set(spec, path, array)
    tokenizer = read_tokenizer(checkpoint)
    names = {token: name for name, token in tokenizer.get_vocab(with_added_tokens=True).items()}
    spec.register_vocabulary([names.get(i, f"<|unused_{i}|>") for i in range(config["vocab_size"])])
    spec.config.suppress_ids = generation.get("suppress_tokens") or []
    spec.config.suppress_ids_begin = generation.get("begin_suppress_tokens") or []
    spec.config.lang_ids = sorted(generation.get("lang_to_id", {}).values())
    spec.config.alignment_heads = generation.get("alignment_heads") or _default_alignment_heads(config)
    spec.validate()
    spec.optimize(quantization=dtype)
    target.mkdir(parents=True, exist_ok=True)
    spec.save(str(target))
    shutil.copyfile(checkpoint / "preprocessor_config.json", target / "preprocessor_config.json")
    tokenizer.save(str(target / "tokenizer.json"))


def read_ctranslate2(path: Path) -> dict[str, Array]:
    """Read every array of a CTranslate2 `model.bin`, aliases resolved.

    The layout is that of ctranslate2/specs/model_spec.py: version, name, revision, then named arrays, then aliases.

    Raises:
        CheckpointError: not a Whisper of a known revision, or the file ends early.
    """
    if not path.is_file():
        raise CheckpointError(f"no {path.name} in {path.parent.name}: not a CTranslate2 model")
    content = memoryview(path.read_bytes())
    try:
        return _parse_ctranslate2(content)
    except CheckpointError:
        raise
    except (struct.error, ValueError, KeyError) as error:
        raise CheckpointError(f"{path.name} is damaged or not a CTranslate2 model: {error}") from error


def _parse_ctranslate2(content: memoryview) -> dict[str, Array]:
    position = 0

    def take(layout: str) -> tuple[Any, ...]:
        nonlocal position
        values = struct.unpack_from(layout, content, position)
        position += struct.calcsize(layout)
        return values

    def text() -> str:
        nonlocal position
        (length,) = take("<H")  # its closing NUL included
        raw = bytes(content[position : position + length])
        position += length
        return raw[:-1].decode()

    _, name = take("<I"), text()
    revision, count = take("<II")
    if (name, revision) != SUPPORTED_SPEC:
        raise CheckpointError(f"model.bin holds {name} revision {revision}; this reads WhisperSpec revision 3")
    arrays: dict[str, Array] = {}
    for _ in range(count):
        key = text()
        (rank,) = take("<B")
        shape = take(f"<{rank}I")
        type_id, n_bytes = take("<BI")
        if type_id >= len(DTYPES):
            raise CheckpointError(f"{key} is stored as bfloat16: convert the model to float16 or float32 first")
        arrays[key] = np.frombuffer(content[position : position + n_bytes], DTYPES[type_id]).reshape(shape)
        position += n_bytes
    (n_aliases,) = take("<I")
    for _ in range(n_aliases):
        alias, target = text(), text()
        arrays[alias] = arrays[target]
    if position != len(content):
        raise CheckpointError(f"model.bin has {len(content) - position} bytes too many")
    return arrays


def _is_quantised(array: Array) -> bool:
    return array.ndim > 0 and array.dtype not in FLOATS


def _names(encoder_layers: int, decoder_layers: int) -> Iterator[tuple[str, tuple[str, int | None]]]:
    """Yield (transformers' name, (CTranslate2's name, which third or half of a fused array)) for every array.

    A key projection has no bias in Whisper: its third of the fused one is zeros, checked by `_to_transformers`.
    """
    for side, layers in (("encoder", encoder_layers), ("decoder", decoder_layers)):
        yield f"model.{side}.embed_positions.weight", (f"{side}/position_encodings/encodings", None)
        yield from _norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for i in range(layers):
            ours, theirs = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            parts: tuple[tuple[str, int, int | None], ...] = (("q", 0, 0), ("k", 0, 1), ("v", 0, 2))
            yield from _attention(f"{ours}.self_attn", f"{theirs}/self_attention", parts)
            yield from _norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
            if side == "decoder":
                parts = (("q", 0, None), ("k", 1, 0), ("v", 1, 1))
                yield from _attention(f"{ours}.encoder_attn", f"{theirs}/attention", parts)
                yield from _norm(f"{ours}.encoder_attn_layer_norm", f"{theirs}/attention/layer_norm")
            for j in (0, 1):
                for kind in ("weight", "bias"):
                    yield f"{ours}.fc{j + 1}.{kind}", (f"{theirs}/ffn/linear_{j}/{kind}", None)
            yield from _norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
    for conv in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            yield f"model.encoder.{conv}.{kind}", (f"encoder/{conv}/{kind}", None)
    yield "model.decoder.embed_tokens.weight", ("decoder/embeddings/weight", None)


def _norm(ours: str, theirs: str) -> Iterator[tuple[str, tuple[str, None]]]:
    yield f"{ours}.weight", (f"{theirs}/gamma", None)
    yield f"{ours}.bias", (f"{theirs}/beta", None)


def _attention(
    ours: str, theirs: str, parts: tuple[tuple[str, int, int | None], ...]
) -> Iterator[tuple[str, tuple[str, int | None]]]:
    for letter, linear, part in parts:
        yield f"{ours}.{letter}_proj.weight", (f"{theirs}/linear_{linear}/weight", part)
        if letter != "k":
            yield f"{ours}.{letter}_proj.bias", (f"{theirs}/linear_{linear}/bias", part)
    out = parts[-1][1] + 1
    yield f"{ours}.out_proj.weight", (f"{theirs}/linear_{out}/weight", None)
    yield f"{ours}.out_proj.bias", (f"{theirs}/linear_{out}/bias", None)


def _to_transformers(arrays: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    layers = {
        side: len({name.split("/")[1] for name in arrays if name.startswith(f"{side}/layer_") and "/ffn/" in name})
        for side in ("encoder", "decoder")
    }
    names = dict(_names(layers["encoder"], layers["decoder"]))
    needed = {theirs for theirs, _ in names.values()} | {"decoder/projection/weight", *HEADS}
    if missing := sorted(needed - arrays.keys()):
        raise CheckpointError(f"model.bin lacks {len(missing)} arrays, as {missing[0]}")
    if left := sorted(name for name, array in arrays.items() if name not in needed and array.ndim > 0):
        raise CheckpointError(f"{len(left)} arrays have no place in transformers' Whisper, as {left[0]}")
    width = arrays["encoder/conv1/bias"].size
    for ours, (theirs, part) in names.items():
        array = arrays[theirs]
        if part is not None:
            if array.shape[0] != _n_parts(theirs) * width:
                raise CheckpointError(f"{theirs} has {array.shape[0]} rows, not {_n_parts(theirs)} times {width}")
            array = array[part * width : (part + 1) * width]
        yield ours, array
    for name, array in arrays.items():
        if name.endswith("/bias") and _is_fused(name) and np.any(array[_key_rows(name, width)]):
            raise CheckpointError(f"{name} gives the key projection a bias, which Whisper has not")
    if not np.array_equal(arrays["decoder/projection/weight"], arrays["decoder/embeddings/weight"]):
        raise CheckpointError("decoder/projection is not tied to decoder/embeddings, as it is in Whisper")


def _n_parts(name: str) -> int:
    """Return how many projections CTranslate2 keeps in one array: query, key and value, or key and value."""
    return 3 if "self_attention" in name else 2


def _is_fused(name: str) -> bool:
    return name.endswith(("self_attention/linear_0/bias", "/attention/linear_1/bias"))


def _key_rows(name: str, width: int) -> slice:
    return slice(width, 2 * width) if "self_attention" in name else slice(0, width)


def _to_ctranslate2(arrays: Mapping[str, Array], config: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    """Yield (path in the specification, array), fusing the projections that CTranslate2 keeps as one."""
    names = dict(_names(config["encoder_layers"], config["decoder_layers"]))
    if missing := sorted(names.keys() - arrays.keys()):
        raise CheckpointError(f"{WEIGHTS}: {len(missing)} arrays are missing, as {missing[0]}")
    if unknown := sorted(arrays.keys() - names.keys() - {"proj_out.weight"}):
        raise CheckpointError(f"{WEIGHTS}: {len(unknown)} arrays have no place in Whisper, as {unknown[0]}")
    width = config["d_model"]
    embeddings = arrays["model.decoder.embed_tokens.weight"]
    if embeddings.shape != (config["vocab_size"], width):
        raise CheckpointError(
            f"config.json says {config['vocab_size']} tokens of width {width}; {WEIGHTS} has {embeddings.shape}"
        )
    parts: dict[str, dict[int, Array]] = {}
    for ours, (theirs, part) in names.items():
        if part is None:
            yield theirs, arrays[ours]
        else:
            parts.setdefault(theirs, {})[part] = arrays[ours]
    for theirs, found in parts.items():
        some = next(iter(found.values()))
        zeros = np.zeros((width, *some.shape[1:]), dtype=some.dtype)  # the bias that a key projection has not
        yield theirs, np.concatenate([found.get(i, zeros) for i in range(_n_parts(theirs))])
    yield "decoder/projection/weight", embeddings


def _set(spec: Any, path: str, array: Array) -> None:
    *parents, last = path.split("/")
    for part in parents:
        name, _, index = part.rpartition("_")  # layer_3 is an item of a list, linear_0 of a feed-forward is not
        spec = getattr(spec, part) if hasattr(spec, part) else getattr(spec, name)[int(index)]
    setattr(spec, last, array)


def _default_alignment_heads(config: Mapping[str, Any]) -> list[list[int]]:
    """Return all heads of the upper half of the decoder, as CTranslate2's converter does where none are named."""
    layers, heads = config["decoder_layers"], config["decoder_attention_heads"]
    return [[layer, head] for layer in range(layers // 2, layers) for head in range(heads)]
