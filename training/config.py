"""Everything that can be set for a training run, in one documented model, read from TOML.

The files in `training/configs/` are whole recipes. Nothing secret belongs here: tokens come from the environment.
"""

import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from speech.context import MAX_POSITIONS, POSITIONS_PER_SECOND
from training.data.sources.config import Section, Source, refuse_secrets, resolve_paths
from training.rules import Rules

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Layer = Literal["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
"""transformers' names of the linear layers of a Whisper block."""


class ConfigError(ValueError):
    """The config cannot be used; the message names the field."""


class Lora(Section):
    """Low-rank adapters (peft) beside frozen weights, added to them at the end: little memory, little forgetting."""

    rank: Annotated[int, Field(ge=1)] = 32
    """Of each adapter's two matrices."""
    alpha: Annotated[int, Field(ge=1)] = 64
    """An adapter's product is multiplied by `alpha / rank`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Of what goes into an adapter, in training."""
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)] = ("q_proj", "v_proj")
    """Linear layers that get one, in every block of encoder and decoder."""


class Augmentation(Section):
    """What is done to the sound of training clips, differently in each epoch; dev and test stay as they are."""

    speed_factors: Annotated[tuple[Annotated[float, Field(ge=0.5, le=2)], ...], Field(min_length=1)] = (1.0,)
    """A window is played at one of these speeds, drawn evenly, pitch and all; at 1 where it would exceed 30 s."""
    noise_share: Share = 0.0
    """Share of the windows that noise is added to."""
    noise_snr_db: tuple[float, float] = (5.0, 30.0)
    """Lowest and highest ratio of speech to noise, drawn evenly in decibels."""
    noise_folder: Path | None = None
    """Recordings of noise without speech, as WAV, FLAC, OGG or MP3; white, pink and brown noise if not said."""
    mask_time_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """SpecAugment: share of a window's own frames that is blanked; 0.05 is usual."""
    mask_time_frames: Annotated[int, Field(ge=1, le=100)] = 10
    """SpecAugment: frames of 10 ms a blank."""
    mask_mel_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """SpecAugment: share of the mel bands that is blanked; 0.1 is usual."""
    mask_mel_bands: Annotated[int, Field(ge=1, le=40)] = 8
    """SpecAugment: neighbouring bands a blank."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.noise_snr_db
        if low > high:
            raise ValueError(f"noise_snr_db is [{low:g}, {high:g}]: the lower ratio comes first")
        return self


REPLAY_SHARE = 0.3
ALPHAS = (0.3, 0.5, 0.7, 0.85, 1.0)


class TrainingConfig(Section):
    """A training run: what to start from, what to learn from, and how."""

    name: str = "whisper"
    """The model under which versions are published; the service serves `<name>@production`."""
    base: str = "hub:openai/whisper-small"
    """What to start from: a reference into the registry (`whisper-base@production`) or `hub:org/name@revision`."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Where speech and transcripts come from; several are put together, by their weights (`data/mix.py`)."""
    seed: int = 1
    """Of the splits, the batches, the margins and the bootstrap."""

    licence: str | None = None
    """Of the weights that are published, as the Hub spells it (`cc-by-sa-3.0`); said on the model card."""
    price_per_hour: Annotated[float, Field(ge=0)] | None = None
    """What an hour of this machine costs, in any currency; `provenance.json` then says what the version cost."""

    test_clips: Annotated[int, Field(ge=1)] | None = None
    """Held-out clips a language, for the gate; a fifth of those without a split and at most 96 if not said."""
    dev_clips: Annotated[int, Field(ge=1)] | None = None
    """Clips a language for choices during training; a twentieth and at most 24 if not said. Of a dev set that is given,
    so many are taken, or 100 if not said: all are heard at every evaluation."""

    learning_rate: Positive = 1e-5
    """Peak, reached after the warm-up, then falling linearly to zero."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Optimiser steps; a tenth of `max_steps` and at most 50 if not said, and in no case over a tenth of the time."""
    max_steps: Annotated[int, Field(ge=1)] = 1000
    """Optimiser steps at most."""
    time_budget_s: Positive | None = None
    """Seconds of training at most, in-loop evaluation included; the learning rate falls to zero with it."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Clips a forward pass, on one device, at most."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Forward passes an optimiser step, over all devices: several share them, and the step stays the same."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's, on all weights but biases and norms."""
    max_grad_norm: Positive = 1.0
    """A gradient longer than this is shortened to it."""
    bf16: bool | None = None
    """Compute in bfloat16, weights kept in float32; where the device is made for it if not said."""
    eval_steps: Annotated[int, Field(ge=1)] = 200
    """Optimiser steps between two evaluations on the dev set."""
    save_steps: Annotated[int, Field(ge=1)] = 100
    """Optimiser steps between two checkpoints, from which an interrupted run goes on; the last two are kept."""
    dataloader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that decode audio and make features."""

    freeze_encoder: bool = False
    """Learn the decoder only: for little data, or for new words in known voices; with `lora`, its adapters only."""
    lora: Lora | None = None
    """Learn low-rank adapters instead of all weights; what is saved has them merged."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""

    augment: Augmentation = Augmentation()
    """What is done to the sound of training clips."""
    timestamps_share: Share = 0.5
    """Share of the windows with known segments that are learned with timestamps; without any, a model forgets them."""
    previous_text_share: Share = 0.2
    """Share of the windows with a known previous text that it is put before, as a prompt that is not learned."""
    stitch_share: Share = 0.0
    """Share of the windows that are filled up, to at most 30 s, with clips of the same source, language and speaker
    (so far as speakers are known)."""
    no_speech_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the windows that are silence or noise, from which the model learns to say that nobody speaks."""

    replay: tuple[Source, ...] = ()
    """General speech that is rehearsed, so that the model does not forget it; never measured on."""
    replay_share: Annotated[float, Field(ge=0, le=0.9)] | None = None
    """Share of the windows that is replay; 0.3 if not said and there is any."""
    replay_labels: Literal["base", "own"] = "base"
    """Learn from replay what the base itself hears in it, so that no other style of writing comes in; or its texts."""
    guards: tuple[Source, ...] = ()
    """Speech that the model must not become worse at; never trained on. What is in `replay`, too, is halved."""
    guard_margin: Annotated[float, Field(ge=0, le=1)] = 0.01
    """By how much the WER of a language in `guards` may exceed the base's, where `alphas` are chosen between."""

    select: Literal["best", "last"] = "best"
    """Which evaluated weights become the result: those of the lowest generated WER on dev, or the last ones."""
    average_checkpoints: Annotated[int, Field(ge=1)] = 1
    """The mean of so many evaluated weights, the best or the last ones, becomes the result."""
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many evaluations without a lower generated WER on dev; never if not said."""
    early_stopping_min_delta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """What the WER must fall by, to count as lower."""
    alphas: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = None
    """Weights between the base's (0) and the fine-tuned ones (1) to choose from, by WER on dev, under the guards;
    0.3, 0.5, 0.7, 0.85 and 1 if not said and there are `guards` to choose by (not all of `use = "test"`), else 1."""

    train_margins_s: tuple[Annotated[float, Field(ge=0, le=30)], ...] = (0.0, 0.2, 0.5, 1.0, 2.56)
    """Elastic context in training: a batch has its longest clip's positions, and one of these margins at random."""
    full_context_share: Share = 0.05
    """Share of the batches that are padded to 30 s, so that the model stays able to take a full window."""
    serving_margin_s: Annotated[float, Field(ge=0, le=30)] = 0.64
    """Margin of the evaluations during training, and of those that `alphas` are chosen by; more gained nothing
    (docs/experiments.md). What is served is measured at the end: the smallest of 0.64, 1.28, 1.92 and 2.56 s that is
    shown on dev to cost no more than `training/context.py` allows against 30 s, of those up to the longest in
    `train_margins_s` (this one, if none is), or 30 s."""

    gate: Rules = Rules()
    """The least gain, and what may be lost elsewhere; `training/rules.py` documents each."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.train_margins_s:
            raise ValueError("train_margins_s is empty: name at least one margin (0.0 for none)")
        if self.serving_margin_s > max(self.train_margins_s):
            raise ValueError(
                f"serving_margin_s ({self.serving_margin_s}) is longer than any margin in train_margins_s: "
                "the model would be evaluated in a way that it never saw"
            )
        if self.warmup >= self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup}) must be below max_steps ({self.max_steps})")
        for fault in self._contradictions():
            raise ValueError(fault)
        return self

    def _contradictions(self) -> Iterator[str]:
        if self.replay_share is not None and not self.replay:
            yield f"replay_share is {self.replay_share:g}, but replay names no source"
        if self.replay and self.replay_share == 0:
            yield "replay names sources, but replay_share is 0: leave both out, or give a share"
        if self.share_of_replay + self.no_speech_share > 0.9:
            yield (
                f"replay_share ({self.share_of_replay:g}) and no_speech_share ({self.no_speech_share:g}) leave less "
                "than a tenth of the windows for what is to be learned"
            )
        evaluations = math.ceil(self.max_steps / self.eval_steps)
        if self.early_stopping_patience is not None and self.early_stopping_patience >= evaluations:
            yield (
                f"early_stopping_patience ({self.early_stopping_patience}) is never spent: max_steps "
                f"({self.max_steps}) has {evaluations} evaluations at eval_steps ({self.eval_steps})"
            )
        if self.early_stopping_patience is None and self.early_stopping_min_delta > 0:
            yield "early_stopping_min_delta is set, but early_stopping_patience is not"
        if self.early_stopping_patience is not None and self.select == "last":
            yield 'early_stopping_patience is set, but select is "last": the weights after the best would be taken'
        if self.average_checkpoints > evaluations:
            yield (
                f"average_checkpoints ({self.average_checkpoints}) is more than the {evaluations} evaluations of "
                f"max_steps ({self.max_steps}) at eval_steps ({self.eval_steps})"
            )
        if all(source.kind == "corrections" for source in self.sources):
            yield (
                "sources names corrections alone, of which there is never a test set: they are what a model got wrong, "
                "so whatever differs from it would look better; name other speech in their languages beside them"
            )
        if any(source.kind == "corrections" for source in (*self.replay, *self.guards)):
            yield "replay and guards are general speech, and corrections are to be learned: name them in sources"
        if self.alphas == ():
            yield "alphas is empty: name at least one (1.0 for the fine-tuned weights as they are)"
        if self.augment.noise_folder is not None and not (self.augment.noise_share or self.no_speech_share):
            yield "augment.noise_folder is set, but augment.noise_share and no_speech_share are 0"

    @property
    def warmup(self) -> int:
        """`warmup_steps`, or what it is if not said."""
        return min(50, self.max_steps // 10) if self.warmup_steps is None else self.warmup_steps

    @property
    def share_of_replay(self) -> float:
        """`replay_share`, or what it is if not said."""
        return (REPLAY_SHARE if self.replay else 0.0) if self.replay_share is None else self.replay_share

    @property
    def alphas_to_try(self) -> tuple[float, ...]:
        """`alphas`, or what they are if not said."""
        return (ALPHAS if self.guards else (1.0,)) if self.alphas is None else self.alphas

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
    resolve_paths(content, path.parent)
    augment = content.get("augment")
    if isinstance(augment, dict) and isinstance(augment.get("noise_folder"), str):
        augment["noise_folder"] = path.parent / augment["noise_folder"]
    return make_config(str(path), content, **overrides)


def make_config(origin: str, content: dict[str, Any], **overrides: Any) -> TrainingConfig:
    """Validate a config, naming `origin` and the field in the error."""
    try:
        refuse_secrets(content)
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}") from None
    try:
        return TrainingConfig.model_validate({**content, **{k: v for k, v in overrides.items() if v is not None}})
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'config'}: {fault['msg']}" for fault in error.errors()
        )
        raise ConfigError(f"{origin}: {faults}") from error
