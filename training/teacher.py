"""What a checkpoint says at 30 s, token by token, for it to learn to say the same from less.

A teacher's probabilities say more than its words (Hinton et al. 2015): where a short context changes nothing, they ask
for no change. The teacher reads each clip once, before training; it is not in memory while its pupil learns.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration

from registry.files import write_atomically
from speech.tokens import WhisperTokenizer
from training.batches import Batch, ElasticCollator, Example, Utterances
from training.config import TrainingConfig
from training.data.manifest import Utterance
from training.targets import IGNORED
from training.windows import Draw, TrainingWindows

N_KEPT = 20
"""Most probable tokens of each place that are kept; the rest is left out, and these are made to sum to one."""

CLIPS_AT_ONCE = 4


class Lesson(NamedTuple):
    """What the teacher says in one clip: a row for each label."""

    tokens: NDArray[np.int32]  # (n_labels, N_KEPT), the most probable first
    probabilities: NDArray[np.float32]  # (n_labels, N_KEPT); each row sums to one


Lessons = Mapping[str, Lesson]
"""By the utterance's id."""


def teach(
    base: Path,
    utterances: Sequence[Utterance],
    audio_root: Path,
    target: Path,
    *,
    bf16: bool,
    advance: Callable[[int], None] = lambda _: None,
) -> Lessons:
    """Let a checkpoint read clips at 30 s, with their texts given, and keep what it expects at each token.

    Args:
        base: folder of a transformers checkpoint in safetensors.
        utterances: with the texts that the checkpoint itself heard.
        audio_root: what relative audio paths start from.
        target: file to keep the lessons in; if it is there, it is read.
        bf16: compute in bfloat16, as its pupil will.
        advance: called with the number of clips just done.
    """
    if target.is_file():
        return read_lessons(target)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = WhisperTokenizer.from_folder(base)
    model = WhisperForConditionalGeneration.from_pretrained(
        base, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
    )
    model.to(device).eval()
    collate = ElasticCollator(model.config.num_mel_bins, tokenizer.eot, margins=(0,), full_context_share=1.0, seed=0)
    windows = Utterances(utterances, audio_root, tokenizer, margin=None)
    lessons: dict[str, Lesson] = {}
    for start in range(0, len(utterances), CLIPS_AT_ONCE):
        chunk = utterances[start : start + CLIPS_AT_ONCE]
        batch = collate([windows[start + i] for i in range(len(chunk))])
        with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            features, inputs = batch["input_features"].to(device), batch["decoder_input_ids"].to(device)
            logits = model(input_features=features, decoder_input_ids=inputs, use_cache=False).logits.float().cpu()
        for utterance, row, labels in zip(chunk, logits, batch["labels"], strict=True):
            kept = row[labels != IGNORED].softmax(-1).topk(N_KEPT)
            probabilities = kept.values / kept.values.sum(-1, keepdim=True)
            lessons[utterance.id] = Lesson(kept.indices.numpy().astype(np.int32), probabilities.numpy())
        advance(len(chunk))
    _write(target, lessons)
    return lessons


def read_lessons(path: Path) -> Lessons:
    """Read what `teach` kept."""
    with np.load(path, allow_pickle=False) as file:
        ends = np.cumsum(file["lengths"])[:-1]
        parts = (np.split(file[name], ends) for name in ("tokens", "probabilities"))
        return {str(key): Lesson(*one) for key, *one in zip(file["ids"], *parts, strict=True)}


def _write(path: Path, lessons: Lessons) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        ids=np.array(list(lessons)),
        lengths=np.array([len(lesson.tokens) for lesson in lessons.values()]),
        tokens=np.concatenate([lesson.tokens for lesson in lessons.values()]),
        probabilities=np.concatenate([lesson.probabilities for lesson in lessons.values()]),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


class TaughtWindows(TrainingWindows):
    """Training windows of one clip each, with the teacher's lesson in it.

    Raises:
        ValueError: the config makes windows of several clips, or of none, which no lesson is for.
    """

    def __init__(
        self,
        config: TrainingConfig,
        own: Sequence[Utterance],
        root: Path,
        tokenizer: WhisperTokenizer,
        n_mels: int,
        lessons: Lessons,
    ) -> None:
        if config.stitch_share or config.no_speech_share or config.augment.speed_factors != (1.0,):
            raise ValueError("what a teacher says is of one clip, as it is")
        super().__init__(config, own, [], root, tokenizer, n_mels)
        self._lessons = lessons

    def __getitem__(self, draw: Draw) -> Example:
        """Make a window, and put its lesson beside it."""
        example = super().__getitem__(draw)
        example["lesson"] = self._lessons[self.window(draw).clips[0].id]
        return example


class TaughtCollator:
    """Puts lessons beside an elastic batch."""

    def __init__(self, collate: ElasticCollator) -> None:
        self._collate = collate

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Collate; places without a label have no lesson, which weighs nothing."""
        batch = self._collate(examples)
        if all("lesson" in example for example in examples):
            shape = (*batch["labels"].shape, N_KEPT)
            batch["lesson_tokens"] = torch.zeros(shape, dtype=torch.long)
            batch["lesson_probabilities"] = torch.zeros(shape)
            for row, example in enumerate(examples):
                tokens, probabilities = example["lesson"]
                batch["lesson_tokens"][row, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
                batch["lesson_probabilities"][row, : len(tokens)] = torch.from_numpy(probabilities)
        return batch


def lesson_loss(
    logits: Tensor, tokens: Tensor, probabilities: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None
) -> Tensor:
    """Return the cross-entropy a token between the teacher's probabilities and the pupil's.

    Args:
        logits: the pupil's, (batch, tokens, vocabulary).
        tokens: the teacher's most probable, (batch, tokens, N_KEPT).
        probabilities: theirs; zero where there is no label.
        labels: (batch, tokens), padded with IGNORED.
        num_items_in_batch: labels of the whole optimiser step; None: of this batch.
    """
    kept = nn.functional.log_softmax(logits.float(), dim=-1).gather(-1, tokens)
    total: Tensor = -(probabilities * kept).sum()
    return total / (labels.ne(IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)
