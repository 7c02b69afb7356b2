"""Which context a version may be served at: what margins cost against 30 s, and the smallest that costs nothing."""

import json

import numpy as np
import pytest

from speech import vad
from speech.audio import SAMPLE_RATE
from speech.context import ElasticContext
from speech.engine import DetectedLanguage, make_result
from training.config import make_config
from training.context import (
    LENGTHS_S,
    MARGINS,
    MAX_ELASTIC_LOSS,
    MIN_CLIPS,
    Evidence,
    Trial,
    choose_context,
    length_bucket,
    margins_to_try,
    try_margin,
)
from training.data.manifest import AudioSlice, Utterance
from training.evaluate import Hypothesis

WORDS = "uno due tre quattro cinque sei sette otto nove dieci"


def clip(i, seconds=3.0, folder=None):
    """Make an utterance of so many seconds; its audio is a WAV of noise, if there is a folder to write it to."""
    if folder is not None:
        import wave

        with wave.open(str(folder / f"{i}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            noise = np.random.default_rng(i).normal(0, 3000, round(seconds * SAMPLE_RATE))
            file.writeframes(noise.astype("<i2").tobytes())
    audio = AudioSlice(path=f"{i}.wav", duration=seconds, sha256="0" * 64)
    return Utterance(id=str(i), audio=audio, text=f"{WORDS} {i}", language="it", source="test")


def heard(clips, wrong=()):
    """Make the hypotheses for clips: right, but for a loop in those that are wrong."""
    return [
        Hypothesis(
            id=one.id, language="it", reference=one.text, hypothesis=" ".join(["uno"] * 40) if i in wrong else one.text
        )
        for i, one in enumerate(clips)
    ]


def tried(clips, wrong=(), margin=32):
    """Try a margin at which some clips became loops."""
    return try_margin(margin, clips, heard(clips), heard(clips, wrong), seed=0)


def test_what_costs_nothing_holds():
    """The same words from a short context as from 30 s, on enough clips."""
    trial = tried([clip(i) for i in range(MIN_CLIPS)])
    assert (trial.all.clips, trial.all.wer_full, trial.all.wer_elastic, trial.all.difference.high) == (16, 0, 0, 0)
    assert trial.holds


def test_too_few_clips_show_nothing():
    """However good they look."""
    assert not tried([clip(i) for i in range(MIN_CLIPS - 1)]).holds


def test_silences_show_nothing():
    """However many, they are no clips by which a margin holds; what is made up in them is counted."""
    silences = [clip(i).model_copy(update={"text": "", "no_speech": True}) for i in range(100, 140)]
    spoken = [clip(i) for i in range(MIN_CLIPS)]
    trial = tried([*spoken[1:], *silences])
    assert (trial.all.clips, trial.holds) == (MIN_CLIPS - 1, False)
    assert tried([*spoken, *silences]).holds
    assert not tried([*spoken, *silences], wrong=range(MIN_CLIPS, MIN_CLIPS + 40)).holds


def test_one_loop_among_few_clips_is_found():
    """A clip in sixteen that loops may cost more than is allowed: the upper bound says so, where the mean may not."""
    trial = tried([clip(i) for i in range(MIN_CLIPS)], wrong={3})
    assert trial.all.difference.high > MAX_ELASTIC_LOSS
    assert not trial.holds


def test_what_only_short_clips_pay_is_found():
    """Loops in one length bucket are not hidden by a crowd of good clips of other lengths."""
    clips = [clip(i, 1.0) for i in range(MIN_CLIPS)] + [clip(i, 12.0) for i in range(100, 500)]
    trial = tried(clips, wrong={0, 1})
    assert trial.all.is_shown
    assert not trial.by_length["0-2 s"].is_shown
    assert trial.by_length["8-16 s"].difference.high == 0.0
    assert not trial.holds


def test_what_only_one_language_pays_is_found():
    """Loops in one language are not hidden by a crowd of good clips in others; of a few clips it is only told."""
    others = [clip(i) for i in range(100, 500)]

    def mixed(n):
        return [*(clip(i).model_copy(update={"language": "ru"}) for i in range(n)), *others]

    trial = tried(mixed(MIN_CLIPS), wrong={0, 1})
    assert trial.all.is_shown
    assert all(cost.is_shown for cost in trial.by_length.values())
    assert {code: cost.is_shown for code, cost in trial.by_language.items()} == {"it": True, "ru": False}
    assert not trial.holds
    assert "for no margin up to 32 holds (too costly in ru). On 416 dev clips" in Evidence(trials=(trial,)).describe()
    few = tried(mixed(MIN_CLIPS - 1), wrong={0})
    assert (few.by_language["ru"].clips, few.by_language["ru"].is_shown, few.holds) == (MIN_CLIPS - 1, False, True)
    assert Evidence(trials=(few,)).describe().endswith("(too few to judge them alone: ru)")
    assert "too few" not in Evidence(trials=(trial,)).describe()


def test_a_trial_of_before_languages_were_judged_is_read():
    """A run that is done keeps its evidence, and a manifest is never rewritten."""
    trial = tried([clip(i) for i in range(MIN_CLIPS)])
    before = trial.model_dump(mode="json", exclude={"by_language"})
    assert Trial.model_validate(before) == trial.model_copy(update={"by_language": {}})


def test_a_bucket_of_a_few_clips_is_reported_and_not_judged():
    """They prove nothing alone, and count among all."""
    clips = [clip(i) for i in range(200)] + [clip(1000, 20.0)]
    trial = tried(clips)
    assert (trial.by_length["16-30 s"].clips, trial.by_length["16-30 s"].is_shown) == (1, False)
    assert trial.holds


@pytest.mark.parametrize(
    ("trained", "evaluated", "margins"),
    [
        ([0.0, 0.5], 0.5, (25,)),
        ([0.0], 0.0, (0,)),
        ([0.0, 0.2, 0.5, 1.0, 2.0], 0.5, (32, 64, 96)),
        ([0.64], 0.2, (32,)),
        ([30], 1.0, MARGINS),
    ],
)
def test_a_margin_that_training_showed_is_always_tried(trained, evaluated, margins):
    """Those up to the longest; where all are longer, the recipe's own, and never none, which would be no evidence."""
    recipe = {"sources": [{"kind": "folder", "path": "clips"}]}
    config = make_config("x", {**recipe, "train_margins_s": trained, "serving_margin_s": evaluated})
    assert margins_to_try(config) == margins


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.1, "0-2 s"), (2.0, "0-2 s"), (2.01, "2-4 s"), (29.9, "16-30 s"), (30.02, "16-30 s")]
)
def test_every_length_has_a_bucket(seconds, bucket):
    """Ends belong to the shorter one; a rounding error above 30 s to the last."""
    assert length_bucket(seconds) == bucket
    assert [length_bucket(end) for end in LENGTHS_S] == ["0-2 s", "2-4 s", "4-8 s", "8-16 s", "16-30 s"]


class Forgetful:
    """An engine that says what was said, but loops where the margin is shorter than it needs."""

    def __init__(self, tokenizer, texts, context, needs):
        self.tokenizer, self.context = tokenizer, context
        self._texts, self._loops = texts, context.elastic and context.margin < needs

    def transcribe(self, windows, is_cancelled=lambda _: False):
        """Answer each window with the text of the clip of its length."""
        return [
            make_result(
                self.tokenizer,
                self.tokenizer.encode("uno " * 6 if self._loops else self._texts[window.audio.size]),
                DetectedLanguage("it"),
                avg_logprob=-0.1,
                no_speech_prob=0.0,
                positions=window.positions(self.context),
                max_tokens=224,
            )
            for window in windows
        ]


@pytest.mark.parametrize(("needs", "tries"), [(0, [32]), (90, [32, 64, 96]), (128, [*MARGINS]), (1000, [*MARGINS])])
def test_the_smallest_margin_that_holds_is_taken(tmp_path, tokenizer, monkeypatch, needs, tries):
    """Margins are tried from the smallest on, none after the first that holds; where none does, 30 s are served."""
    monkeypatch.setattr(vad, "is_available", lambda: False)  # it would hear that the clips are noise
    clips = [clip(i, 1.0 + i / 100, tmp_path) for i in range(MIN_CLIPS)]
    texts = {round(one.audio.duration * SAMPLE_RATE): one.text for one in clips}
    done = []
    evidence = choose_context(
        lambda context: Forgetful(tokenizer, texts, context, needs), clips, tmp_path, advance=done.append
    )
    assert [trial.margin for trial in evidence.trials] == tries
    assert sum(done) == (1 + len(tries)) * len(clips)
    if needs <= MARGINS[-1]:
        assert evidence.context == ElasticContext(elastic=True, margin=tries[-1])
        assert f"context: elastic, margin {tries[-1]}. On 16 dev clips" in evidence.describe()
    else:
        assert evidence.context == ElasticContext()
        assert "context: 30 s, for no margin up to 128 holds" in evidence.describe()
    stored = json.loads(json.dumps(evidence.to_manifest()))
    assert stored["wer_full"] == 0.0
    assert stored["ci"][1] == (0.0 if needs <= MARGINS[-1] else pytest.approx(stored["wer_elastic"], abs=0.5))
    assert [trial["margin"] for trial in stored["trials"]] == tries
