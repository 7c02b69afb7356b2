"""Low-rank adapters (LoRA, Hu et al. 2021) on a Whisper, by peft: put in before training, added to the weights after.

Nothing of them is left in what is saved; the intermediate checkpoints of Trainer hold the adapters alone.
"""

import re
import warnings
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from training.config import Lora

ADAPTER = "default"
"""peft's name for the only one."""


def add_adapters(model: WhisperForConditionalGeneration, lora: Lora, *, encoder: bool = True) -> Any:
    """Return the model with trainable adapters and all else frozen.

    Args:
        model: changed in place.
        lora: rank, layers and so on.
        encoder: also in the encoder; not where that is to stay as it is.
    """
    from peft import LoraConfig, get_peft_model  # takes seconds to import, and few runs want it

    part = r".*" if encoder else r".*\.decoder\..*"
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        # A regular expression: peft compares it with the whole name of a module.
        target_modules=rf"{part}\.({'|'.join(map(re.escape, lora.layers))})",
        # No task type: that of sequence-to-sequence models passes input_ids, which Whisper does not take.
        task_type=None,
    )
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5 by a name that 6 will not have
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(model, settings)


def whisper_of(model: Any) -> Any:
    """Return the Whisper inside a model with adapters; a plain one is returned as it is."""
    return model if isinstance(model, WhisperForConditionalGeneration) else model.get_base_model()


def merged_weights(model: Any) -> dict[str, Tensor]:
    """Return a copy of all weights, on the CPU and in float32, adapters added to what they adapt.

    The model itself is left as it is: peft's own merging and unmerging would round its frozen weights, and a run that
    went on from a checkpoint would not be the run that was never interrupted.
    """
    whisper = whisper_of(model)
    updates: dict[str, Tensor] = {}
    if whisper is not model:
        from peft.tuners.lora import LoraLayer

        adapted = {name: layer for name, layer in whisper.named_modules() if isinstance(layer, LoraLayer)}
        with torch.no_grad():
            updates = {f"{name}.weight": layer.get_delta_weight(ADAPTER) for name, layer in adapted.items()}
    weights = {}
    for name, tensor in whisper.state_dict().items():
        if ".lora_" in name:
            continue
        plain_name = name.replace(".base_layer.", ".")
        value = tensor + updates[plain_name] if plain_name in updates else tensor
        weights[plain_name] = value.detach().to("cpu", torch.float32, copy=True)
    return weights
