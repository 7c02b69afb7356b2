"""From examples to batches: targets padded, features of an elastic context.

A batch is as long as its longest clip and a random margin; some are padded to 30 s. Clips of like length go
together, so little is paid for padding. Here are also the examples to measure on; `training.windows` makes those to
learn from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from speech.context import MAX_POSITIONS, SAMPLES_PER_POSITION, positions_of
from speech.features import log_mel_spectrogram, pad_or_trim
from speech.tokens import WhisperTokenizer
from training.augment import Blank, blank
from training.data.manifest import Utterance, load_audio
from training.targets import IGNORED, Target, text_target


class Example(TypedDict):
    """One window of audio, decoded, and what is to be said of it."""

    index: int
    audio: NDArray[np.float32]  # (n_samples,)
    target: Target
    blanks: list[Blank]  # of its features, for SpecAugment
    margin: int | None  # positions; None: the collator draws one
    lesson: NotRequired[tuple[NDArray[np.int32], NDArray[np.float32]]]  # of a teacher: `training.teacher.Lesson`


class Batch(TypedDict):
    """What the model takes."""

    input_features: Tensor  # (batch, n_mels, 2 * positions)
    decoder_input_ids: Tensor  # (batch, tokens): start … last text token, padded with the end
    labels: Tensor  # (batch, tokens): language … end, padded with IGNORED
    lesson_tokens: NotRequired[Tensor]  # (batch, tokens, kept): what a teacher expects there,
    lesson_probabilities: NotRequired[Tensor]  # and how much


class Utterances(Dataset[Example]):
    """Utterances to measure on, as they are, as a torch data set; audio is decoded when asked for.

    Their batches have just the given margin; with None, the collator draws one.
    """

    def __init__(
        self, utterances: Sequence[Utterance], root: Path, tokenizer: WhisperTokenizer, *, margin: int | None
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
            target=text_target(self._tokenizer, utterance.text, utterance.language),
            blanks=[],
            margin=self._margin,
        )


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
        length = max(len(example["target"].inputs) for example in examples)
        decoder_input_ids = torch.full((len(examples), length), self.pad_token)
        labels = torch.full((len(examples), length), IGNORED)
        for row, example in enumerate(examples):
            target = example["target"]
            decoder_input_ids[row, : len(target.inputs)] = torch.tensor(target.inputs)
            labels[row, : len(target.labels)] = torch.tensor(target.labels)
        n_samples = self._positions(examples) * SAMPLES_PER_POSITION
        features = [log_mel_spectrogram(pad_or_trim(example["audio"], n_samples), self.n_mels) for example in examples]
        for one, example in zip(features, examples, strict=True):
            blank(one, example["blanks"])
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
