"""A teacher's lessons: what they hold, and that its pupil learns them and not the texts."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import WhisperForConditionalGeneration

from speech.features import log_mel_spectrogram, pad_or_trim
from speech.tokens import WhisperTokenizer
from training.data.manifest import load_audio
from training.finetune import fine_tune
from training.targets import IGNORED, text_target
from training.teacher import N_KEPT, TaughtWindows, lesson_loss, read_lessons, teach
from training.trainer import token_mean_loss


@pytest.fixture(scope="module")
def lessons(tiny, noise_clips, tmp_path_factory):
    """Return what the tiny Whisper says in eight clips, and where it is kept."""
    clips, root = noise_clips
    kept = tmp_path_factory.mktemp("lessons") / "lessons.npz"
    return teach(tiny.checkpoint, clips[:8], root, kept, bf16=False), kept


def test_a_lesson_is_what_the_model_says_at_30_s(tiny, noise_clips, lessons):
    """Each label has the most probable tokens of transformers' own forward pass over a full 30 s."""
    clips, root = noise_clips
    model = WhisperForConditionalGeneration.from_pretrained(tiny.checkpoint).eval()
    tokenizer = WhisperTokenizer.from_folder(tiny.checkpoint)
    for clip in clips[:8]:
        target = text_target(tokenizer, clip.text, clip.language)
        features = torch.from_numpy(log_mel_spectrogram(pad_or_trim(load_audio(clip, root))))[None]
        with torch.no_grad():
            logits = model(input_features=features, decoder_input_ids=torch.tensor([target.inputs])).logits[0]
        lesson = lessons[0][clip.id]
        assert lesson.tokens.shape == lesson.probabilities.shape == (len(target.labels), N_KEPT)
        assert np.array_equal(lesson.tokens[:, 0], logits.argmax(-1))
        kept = logits.softmax(-1).topk(N_KEPT).values
        assert lesson.probabilities == pytest.approx((kept / kept.sum(-1, keepdim=True)).numpy(), abs=1e-5)


def test_lessons_are_read_again(tiny, noise_clips, lessons):
    """What was kept comes back to the bit, and the teacher is not asked twice."""
    clips, root = noise_clips
    found, path = lessons
    again = teach(tiny.checkpoint, [], root, path, bf16=False)
    assert again.keys() == read_lessons(path).keys() == {clip.id for clip in clips[:8]}
    for name, lesson in found.items():
        assert np.array_equal(again[name].tokens, lesson.tokens)
        assert np.array_equal(again[name].probabilities, lesson.probabilities)


def test_a_certain_lesson_is_a_label():
    """Where the teacher is certain, the loss is the label's own; places without a label weigh nothing."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 40, generator=generator)
    labels = torch.randint(0, 40, (2, 5), generator=generator)
    labels[1, 3:] = IGNORED
    tokens, probabilities = torch.zeros(2, 5, 3, dtype=torch.long), torch.zeros(2, 5, 3)
    tokens[..., 0], probabilities[..., 0] = labels.clamp(min=0), labels.ne(IGNORED).float()

    class Outputs:
        pass

    outputs = Outputs()
    outputs.logits = logits
    for count in (None, torch.tensor(11)):
        expected = token_mean_loss(outputs, labels, count)
        assert lesson_loss(logits, tokens, probabilities, labels, count) == pytest.approx(float(expected), rel=1e-6)


def test_a_pupil_with_its_teachers_context_has_nothing_to_learn():
    """Where pupil and teacher say the same, the gradient is zero: what is not changed stays as it is."""
    logits = torch.randn(1, 4, N_KEPT, generator=torch.Generator().manual_seed(1), requires_grad=True)
    kept = logits.detach().softmax(-1).topk(N_KEPT)
    lesson_loss(logits, kept.indices, kept.values, torch.zeros(1, 4, dtype=torch.long), None).backward()
    assert logits.grad.abs().max() < 1e-7


def test_fine_tuning_learns_the_lessons(tiny, noise_clips, lessons, short_config, tmp_path):
    """Lessons decide the weights: the same give the same, others and labels alone give others."""
    clips, root = noise_clips
    found, _ = lessons
    other = {name: lesson._replace(tokens=(lesson.tokens + 1) % 256) for name, lesson in found.items()}
    config = short_config(max_steps=2, eval_steps=2, warmup_steps=0, learning_rate=1e-3)
    weights = []
    for number, taught in enumerate((found, found, other, None)):
        tuned = fine_tune(config, tiny.checkpoint, clips[:8], clips[8:], root, tmp_path / str(number), lessons=taught)
        weights.append(load_file(tuned.checkpoint / "model.safetensors")["model.decoder.layers.0.fc1.weight"])
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
    assert not np.array_equal(weights[0], weights[3])


@pytest.mark.parametrize("setting", [{"stitch_share": 0.5}, {"no_speech_share": 0.1}])
def test_no_lesson_is_for_a_window_of_several_clips(tiny, noise_clips, lessons, short_config, setting):
    """Windows that are stitched, or of nobody speaking, are refused, not taught wrongly."""
    clips, root = noise_clips
    tokenizer = WhisperTokenizer.from_folder(tiny.checkpoint)
    with pytest.raises(ValueError, match="one clip"):
        TaughtWindows(short_config(**setting), clips[:8], root, tokenizer, 80, lessons[0])
