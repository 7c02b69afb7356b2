"""Targets, and the ways in which public recipes get them wrong; docs/training/failures.md has the list."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, WhisperForConditionalGeneration

from speech.features import N_SAMPLES, log_mel_spectrogram
from speech.tokens import MAX_LABEL_TOKENS
from training.data.manifest import Segment
from training.finetune import fine_tune
from training.targets import IGNORED, after_previous_text, no_speech_target, text_target, timed_target


def timestamp(tokenizer, seconds):
    """Return the token of a time."""
    return tokenizer.timestamp_begin + round(seconds * 50)


def test_failure_1_doubled_start(tokenizer):
    """The decoder is given one start token, at its beginning, and is never to say one (transformers#29973)."""
    segments = [Segment(start=0.0, end=1.0, text="ciao")]
    for target in (
        text_target(tokenizer, "ciao", "it"),
        timed_target(tokenizer, segments, "it"),
        no_speech_target(tokenizer, "it"),
    ):
        assert target.inputs[0] == tokenizer.sot
        assert target.inputs.count(tokenizer.sot) == 1
        assert tokenizer.sot not in target.labels
        assert len(target.inputs) == len(target.labels)


@pytest.mark.parametrize("language", ["it", "ru", "en"])
def test_failure_3_wrong_language_or_task(tokenizer, language):
    """A clip is learned under its own language's token and as a transcription, as it will be asked for in serving."""
    inputs = text_target(tokenizer, "text", language).inputs
    assert inputs[:4] == tokenizer.prompt(language)
    assert inputs[1:3] == [tokenizer.languages[language], tokenizer.tasks["transcribe"]]


def test_failures_4_and_6_generation_config(tiny, noise_clips, short_config, tmp_path):
    """After training and saving, transformers reads the base's generation config, its ids still scalar."""
    clips, root = noise_clips
    result = fine_tune(short_config(max_steps=2, eval_steps=2), tiny.checkpoint, clips[:4], clips[4:5], root, tmp_path)
    before, after = (GenerationConfig.from_pretrained(folder) for folder in (tiny.checkpoint, result.checkpoint))
    assert after.to_dict() == before.to_dict()
    assert isinstance(after.eos_token_id, int)


def test_failures_4_and_6_generation_on_silence(tiny, noise_clips, short_config, tokenizer, tmp_path):
    """Old bases force tokens in their configs: what is trained of one does not, and generates in silence."""
    clips, root = noise_clips
    base = tmp_path / "base"
    shutil.copytree(tiny.checkpoint, base)
    for name, forced in (
        ("config.json", [[1, 50259], [2, 50359]]),
        ("generation_config.json", [[1, None], [2, 50359]]),
    ):
        old = json.loads((base / name).read_text()) | {"forced_decoder_ids": forced}
        (base / name).write_text(json.dumps(old))
    result = fine_tune(short_config(max_steps=2, eval_steps=2), base, clips[:4], clips[4:5], root, tmp_path / "run")
    for name in ("config.json", "generation_config.json"):
        assert "forced_decoder_ids" not in json.loads((result.checkpoint / name).read_text())
    model = WhisperForConditionalGeneration.from_pretrained(result.checkpoint, dtype=torch.float32)
    # By times that random weights happen to say, `generate` would go on in the rest of the window.
    model.generation_config.suppress_tokens += range(tokenizer.timestamp_begin, model.config.vocab_size)
    silence = log_mel_spectrogram(np.zeros(N_SAMPLES, dtype=np.float32), 80)[None]
    said = model.generate(torch.from_numpy(silence), max_new_tokens=4)  # an IndexError where the ids are lists
    assert 0 < said.shape[1] <= 8


def test_failure_38_prompt_in_the_loss(tokenizer):
    """What was said before is given to the decoder, and nothing of it is learned (transformers#27384)."""
    plain = text_target(tokenizer, "mondo", "it")
    prompted = after_previous_text(tokenizer, plain, "ciao")
    prompt = [tokenizer.sot_prev, *tokenizer.encode("ciao")]
    assert prompted.inputs == [*prompt, *plain.inputs]
    assert prompted.labels == [IGNORED] * len(prompt) + plain.labels


def test_a_long_prompt_gives_its_end(tokenizer):
    """Of a long previous text, the last tokens are taken, and never more than the decoder has positions for."""
    short = after_previous_text(tokenizer, text_target(tokenizer, "mondo", "it"), "abc" * 300)
    assert short.inputs[0] == tokenizer.sot_prev
    assert short.inputs[1:224] == tokenizer.encode("abc" * 300)[-223:]
    assert short.inputs[224] == tokenizer.sot
    long = after_previous_text(tokenizer, text_target(tokenizer, "x" * 400, "it"), "abc" * 300)
    assert len(long.inputs) == MAX_LABEL_TOKENS
    full = text_target(tokenizer, "x" * 444, "it")
    assert len(full.inputs) == MAX_LABEL_TOKENS
    assert after_previous_text(tokenizer, full, "before") == full
    assert after_previous_text(tokenizer, full, " ") == full


def test_times_stand_around_each_segment(tokenizer):
    """Each segment's text is between its times, in tokens of 20 ms, and "no timestamps" is not said."""
    segments = [Segment(start=0.0, end=1.234, text="ciao"), Segment(start=1.5, end=2.0, text="mondo")]
    target = timed_target(tokenizer, segments, "it")
    assert tokenizer.no_timestamps not in target.inputs
    assert target.labels == [
        *tokenizer.prompt("it", timestamps=True)[1:],
        *[timestamp(tokenizer, 0.0), *tokenizer.encode("ciao"), timestamp(tokenizer, 1.24)],
        *[timestamp(tokenizer, 1.5), *tokenizer.encode("mondo", follows=True), timestamp(tokenizer, 2.0)],
        tokenizer.eot,
    ]


@pytest.mark.parametrize(("language", "text"), [("it", "ciao mondo"), ("ja", "ciaomondo")])
def test_a_timed_text_is_the_text(japanese_tokenizer, language, text):
    """Without its times, it has the tokens of the plain target; segments are parted by a blank where words are."""
    tokenizer = japanese_tokenizer
    segments = [Segment(start=0.0, end=1.0, text="ciao"), Segment(start=1.0, end=2.0, text="mondo")]
    timed, plain = timed_target(tokenizer, segments, language).labels, text_target(tokenizer, text, language).labels
    assert [token for token in timed if token <= tokenizer.eot] == [token for token in plain if token <= tokenizer.eot]
    assert tokenizer.decode(plain) == text


def test_no_target_begins_with_a_suppressed_blank(tokenizer, tiny):
    """A first token that no decoder may say would be learned with certainty, and nothing else in its place."""
    suppressed = json.loads((tiny.checkpoint / "generation_config.json").read_text())["begin_suppress_tokens"]
    assert text_target(tokenizer, "আমি", "it").labels[len(tokenizer.prompt("it")) - 1] not in suppressed


def test_times_never_go_back(tokenizer):
    """Overlapping cues and ends beyond 30 s are put in order: the decoder's rules allow nothing else."""
    segments = [Segment(start=1.0, end=3.0, text="a"), Segment(start=2.0, end=40.0, text="b")]
    target = timed_target(tokenizer, segments, "it")
    times = [token - tokenizer.timestamp_begin for token in target.labels if token >= tokenizer.timestamp_begin]
    assert times == [50, 150, 150, 1500]


def test_what_has_no_room_for_times_has_none(tokenizer):
    """A text that fits only without timestamps, and one without segments, get no timed target."""
    assert timed_target(tokenizer, [Segment(start=0, end=9, text="x" * 443)], "it") is None
    assert timed_target(tokenizer, [], "it") is None


def test_nobody_speaks_is_said_where_the_decoder_looks(tokenizer):
    """The label after the start is <|nospeech|>, the given prompt is not learned, and the text ends at once."""
    target = no_speech_target(tokenizer, "ru")
    assert target.inputs == tokenizer.prompt("ru")
    assert target.labels == [tokenizer.no_speech, IGNORED, IGNORED, tokenizer.eot]
