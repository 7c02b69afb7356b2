"""From utterances to batches: tokens with exactly one start, features of an elastic context.

A batch is as long as its longest clip and a random margin; some are padded to 30 s. Clips of like length go
together, so little is paid for padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from speech.audio import SAMPLE_RATE
from speech.context import MAX_POSITIONS, SAMPLES_PER_POSITION, positions_of
from speech.features import log_mel_spectrogram, pad_or_trim
from speech.tokens import WhisperTokenizer
from training.data.manifest import Utterance, load_audio

IGNORED = -100
"""Label that the loss passes over."""


class Example(TypedDict):
    """One utterance, decoded."""

    index: int
    audio: NDArray[np.float32]  # (n_samples,)
    tokens: list[int]  # start, language, task, no timestamps, text, end
    margin: int | None  # positions; None: the collator draws one


class Batch(TypedDict):
    """What the model takes."""

    input_features: Tensor  # (batch, n_mels, 2 * positions)
    decoder_input_ids: Tensor  # (batch, tokens): start … last text token
    labels: Tensor  # (batch, tokens): language … end, padded with IGNORED


class Utterances(Dataset[Example]):
    """Utterances as a torch data set; audio is decoded when asked for.

    With a `margin`, as for evaluation, their batches have just that; without, the collator draws one.
    """

    def __init__(
        self, utterances: Sequence[Utterance], root: Path, tokenizer: WhisperTokenizer, *, margin: int | None = None
    ) -> None:
        self._margin = margin
        self._utterances = utterances
        self._root = root
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self._utterances)

    def __getitem__(self, index: int) -> Example:
        utterance = self._utterances[index]
        return Example(
            index=index,
            audio=load_audio(utterance, self._root),
            tokens=self._tokenizer.labels(utterance.text, utterance.language),
            margin=self._margin,
        )

    def positions(self) -> list[int]:
        """Return the encoder positions that each utterance fills."""
        return [positions_of(round(u.audio.duration * SAMPLE_RATE)) for u in self._utterances]


@dataclass(frozen=True)
class ElasticCollator:
    """Puts examples into a batch of one context."""

    n_mels: int
    pad_token: int
    margins: tuple[int, ...]
    """Positions; one is drawn for each batch."""
    full_context_share: float
    """Share of the batches that get 1,500 positions."""
    seed: int

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Collate; the same examples always get the same margin, so a resumed run repeats the interrupted one."""
        # Labels are the tokens moved by one, made here: transformers' own shift would put a second start in front.
        length = max(len(example["tokens"]) for example in examples) - 1
        decoder_input_ids = torch.full((len(examples), length), self.pad_token)
        labels = torch.full((len(examples), length), IGNORED)
        for row, example in enumerate(examples):
            tokens = torch.tensor(example["tokens"])
            decoder_input_ids[row, : len(tokens) - 1] = tokens[:-1]
            labels[row, : len(tokens) - 1] = tokens[1:]
        n_samples = self._positions(examples) * SAMPLES_PER_POSITION
        features = [log_mel_spectrogram(pad_or_trim(example["audio"], n_samples), self.n_mels) for example in examples]
        return Batch(
            input_features=torch.from_numpy(np.stack(features)), decoder_input_ids=decoder_input_ids, labels=labels
        )

    def _positions(self, examples: Sequence[Example]) -> int:
        longest = max(positions_of(example["audio"].size) for example in examples)
        fixed = examples[0]["margin"]
        if fixed is not None:
            return min(MAX_POSITIONS, longest + fixed)
        generator = np.random.default_rng([self.seed, *(example["index"] for example in examples)])
        if generator.random() < self.full_context_share:
            return MAX_POSITIONS
        return min(MAX_POSITIONS, longest + int(generator.choice(self.margins)))
