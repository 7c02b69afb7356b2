"""Everything that can be set for a training run, in one documented model, read from TOML.

The files in `training/configs/` are whole recipes. Nothing secret belongs here: tokens come from the environment.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from speech.context import MAX_POSITIONS, POSITIONS_PER_SECOND

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class ConfigError(ValueError):
    """The config cannot be used; the message names the field."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FolderSource(_Section):
    """A folder with `metadata.csv` or `metadata.jsonl`, as in Hugging Face's audiofolder."""

    kind: Literal["folder"] = "folder"
    path: Path
    language: str | None = None
    """Of the clips that name none themselves."""
    text_column: str | None = None
    """Where the transcript is; found by its name if not said."""


class AsteriskSource(_Section):
    """The Asterisk telephone prompts of Debian: real voices, free licences, about 20 minutes a language."""

    kind: Literal["asterisk"] = "asterisk"
    languages: tuple[str, ...]


Source = Annotated[FolderSource | AsteriskSource, Field(discriminator="kind")]


class TrainingConfig(_Section):
    """A training run: what to start from, what to learn from, and how."""

    name: str = "whisper"
    """The model under which versions are published; the service serves `<name>@production`."""
    base: str = "hub:openai/whisper-small"
    """What to start from: a reference into the registry (`whisper-base@production`) or `hub:org/name@revision`."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Where speech and transcripts come from; several are put together."""
    seed: int = 1
    """Of the splits, the batches, the margins and the bootstrap."""

    licence: str | None = None
    """Of the weights that are published, as the Hub spells it (`cc-by-sa-3.0`); said on the model card."""
    price_per_hour: Annotated[float, Field(ge=0)] | None = None
    """What an hour of this machine costs, in any currency; `provenance.json` then says what the version cost."""

    test_clips: Annotated[int, Field(ge=1)] | None = None
    """Held-out clips a language, for the gate; a fifth of the clips and at most 96 if not said."""
    dev_clips: Annotated[int, Field(ge=1)] | None = None
    """Clips a language for choices during training; a twentieth and at most 24 if not said."""

    learning_rate: Positive = 1e-5
    """Peak, reached after the warm-up, then falling linearly to zero."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Optimiser steps; a tenth of `max_steps` and at most 50 if not said, and in no case over a tenth of the time."""
    max_steps: Annotated[int, Field(ge=1)] = 1000
    """Optimiser steps at most."""
    time_budget_s: Positive | None = None
    """Seconds of training at most, in-loop evaluation included; the learning rate falls to zero with it."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Clips a forward pass."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Forward passes an optimiser step."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Positive = 1.0
    bf16: bool | None = None
    """Compute in bfloat16, weights kept in float32; where the device is made for it if not said."""
    eval_steps: Annotated[int, Field(ge=1)] = 200
    """Optimiser steps between two evaluations on the dev set."""
    save_steps: Annotated[int, Field(ge=1)] = 100
    """Optimiser steps between two checkpoints, from which an interrupted run goes on; the last two are kept."""
    dataloader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that decode audio and make features."""

    train_margins_s: tuple[Annotated[float, Field(ge=0, le=30)], ...] = (0.0, 0.2, 0.5, 1.0, 2.0)
    """Elastic context in training: a batch has its longest clip's positions, and one of these margins at random."""
    full_context_share: Share = 0.05
    """Share of the batches that are padded to 30 s, so that the model stays able to take a full window."""
    serving_margin_s: Annotated[float, Field(ge=0, le=30)] = 0.64
    """Margin with which the version is evaluated, judged and served; more gained nothing (docs/experiments.md)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.train_margins_s:
            raise ValueError("train_margins_s is empty: name at least one margin (0.0 for none)")
        if self.serving_margin_s > max(self.train_margins_s):
            raise ValueError(
                f"serving_margin_s ({self.serving_margin_s}) is longer than any margin in train_margins_s: "
                "the model would be served in a way that it never saw"
            )
        if self.warmup >= self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup}) must be below max_steps ({self.max_steps})")
        return self

    @property
    def warmup(self) -> int:
        """`warmup_steps`, or what it is if not said."""
        return min(50, self.max_steps // 10) if self.warmup_steps is None else self.warmup_steps

    @property
    def serving_margin(self) -> int:
        """`serving_margin_s` in encoder positions."""
        return round(self.serving_margin_s * POSITIONS_PER_SECOND)

    @property
    def train_margins(self) -> tuple[int, ...]:
        """`train_margins_s` in encoder positions."""
        return tuple(min(MAX_POSITIONS, round(margin * POSITIONS_PER_SECOND)) for margin in self.train_margins_s)


def read_config(path: Path, **overrides: Any) -> TrainingConfig:
    """Read a TOML file; `overrides` that are not None replace its fields. Relative folders are the file's.

    Raises:
        ConfigError: not TOML, an unknown field, a value out of range, or a contradiction.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for source in content.get("sources", []):
        if isinstance(source, dict) and isinstance(source.get("path"), str):
            source["path"] = path.parent / source["path"]
    return make_config(str(path), content, **overrides)


def make_config(origin: str, content: dict[str, Any], **overrides: Any) -> TrainingConfig:
    """Validate a config, naming `origin` and the field in the error."""
    try:
        return TrainingConfig.model_validate({**content, **{k: v for k, v in overrides.items() if v is not None}})
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'config'}: {fault['msg']}" for fault in error.errors()
        )
        raise ConfigError(f"{origin}: {faults}") from error
