"""Is a peak learning rate one that people fine-tune Whisper with? A warning; the recipe decides."""

import json
from pathlib import Path

from training.config import TrainingConfig

USUAL = {384: 3.75e-5, 512: 2.5e-5, 768: 1.25e-5, 1024: 6.25e-6, 1280: 4.375e-6}
"""By the model's width: a fortieth of what each size was trained with (vasistalodagala/whisper-finetune)."""

FACTOR = 5.0
"""Published runs with more than so many times as much lost what they knew, and with so little they hardly learned."""


def unusual(config: TrainingConfig, base: Path) -> str | None:
    """Say what is odd about a recipe's learning rate; None if nothing is, or no rate is usual for such a model.

    Args:
        config: of the run. Adapters (LoRA) are not judged: they take other rates.
        base: folder of the base's checkpoint.
    """
    usual = USUAL.get(json.loads((base / "config.json").read_bytes()).get("d_model"))
    if usual is None or config.lora is not None or usual / FACTOR <= config.learning_rate <= usual * FACTOR:
        return None
    return (
        f"learning_rate is {config.learning_rate:g}; models of this size are fine-tuned with about {usual:g}: with a "
        f"fifth of it they hardly learn, with {FACTOR:g} times as much they lose what they know"
    )
