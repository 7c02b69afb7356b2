"""The windows of an epoch: what is in them, how often, and that they repeat."""

import pickle
import shutil
from itertools import pairwise

import numpy as np
import pytest

from speech.audio import SAMPLE_RATE, AudioError
from speech.context import FRAMES_PER_POSITION, positions_of
from speech.features import log_mel_spectrogram
from training.batches import ElasticCollator
from training.config import make_config
from training.data.manifest import Segment
from training.targets import IGNORED, no_speech_target
from training.windows import Draw, TrainingWindows

SOURCE = {"kind": "folder", "path": "unused"}


@pytest.fixture
def windows(noise_clips, tokenizer):
    """Return the function that makes windows of the clips of noise with the settings that a test names."""
    clips, root = noise_clips

    def make(own=clips, replay=(), **settings):
        if replay:
            settings["replay"] = [SOURCE]
        config = make_config("test", {"sources": [SOURCE], **settings})
        return TrainingWindows(config, own, replay, root, tokenizer, 80)

    return make


def same(one, other):
    """Say whether two examples are equal to the last bit."""
    return pickle.dumps(one) == pickle.dumps(other)


EVERYTHING = {
    "augment": {
        "speed_factors": [0.9, 1.0, 1.1],
        "noise_share": 0.5,
        "mask_time_share": 0.2,
        "mask_mel_share": 0.2,
    },
    "stitch_share": 0.5,
    "no_speech_share": 0.2,
}


def test_a_window_follows_from_seed_epoch_and_number(windows):
    """Made again, in any order and another process, a window is the same; in another epoch or seed it differs."""
    first, again = windows(**EVERYTHING), pickle.loads(pickle.dumps(windows(**EVERYTHING)))  # noqa: S301 - our own
    numbers = range(len(first))
    examples = [first[Draw(1, number)] for number in numbers]
    for number in reversed(numbers):
        assert same(again[Draw(1, number)], examples[number])
    assert not any(
        same(first[Draw(2, number)], examples[number]) for number in numbers if examples[number]["audio"].any()
    )
    other = windows(seed=2, **EVERYTHING)
    assert not all(same(other[Draw(1, number)], examples[number]) for number in numbers)


def test_without_options_a_window_is_a_clip(windows, noise_clips, tokenizer):
    """By default, an epoch is every clip once, as it is, whichever epoch."""
    clips, _ = noise_clips
    plain = windows()
    assert len(plain) == len(clips)
    for epoch in (0, 3):
        assert [plain.window(Draw(epoch, number)).clips for number in range(12)] == [(clip,) for clip in clips]
    example = plain[Draw(0, 5)]
    assert example["target"].inputs[4:] == tokenizer.encode("text 5")
    assert example["audio"].size == round(clips[5].audio.duration * SAMPLE_RATE)
    assert example["blanks"] == []


def test_positions_are_those_of_the_audio(windows):
    """The lengths that batches are made by are the lengths that come, speed and stitching and all."""
    everything = windows(**EVERYTHING)
    said = everything.positions(4)
    come = [positions_of(everything[Draw(4, number)]["audio"].size) for number in range(len(everything))]
    assert np.abs(np.subtract(said, come)).max() <= 1  # a resampler rounds up


def test_speed_never_exceeds_thirty_seconds(windows, noise_clips):
    """A clip that would be longer than 30 s when slowed down is left at its speed."""
    clips, _ = noise_clips
    audio = clips[0].audio
    long = clips[0].model_copy(update={"audio": audio.model_copy(update={"duration": 29.0})})
    slow = windows(own=[long, clips[1]], augment={"speed_factors": [0.9]})
    assert slow.window(Draw(0, 0)).speed == 1.0
    assert slow.window(Draw(0, 1)).speed == 0.9
    assert slow[Draw(0, 1)]["audio"].size == pytest.approx(clips[1].audio.duration * SAMPLE_RATE / 0.9, abs=1)


def test_segments_are_scaled_with_speed(windows, noise_clips, tokenizer):
    """Played at 0.5, what was said from 0.1 s to 0.2 s is said from 0.2 s to 0.4 s."""
    clips, _ = noise_clips
    timed = clips[0].model_copy(update={"segments": (Segment(start=0.1, end=0.2, text="text 0"),)})
    slow = windows(own=[timed], augment={"speed_factors": [0.5]}, timestamps_share=1.0)
    labels = slow[Draw(0, 0)]["target"].labels
    times = [token - tokenizer.timestamp_begin for token in labels if token >= tokenizer.timestamp_begin]
    assert times == [10, 20]


def test_timestamps_come_at_their_share_and_only_where_known(windows, noise_clips, tokenizer):
    """Windows with segments are timed at the share; windows without say that they are not."""
    clips, _ = noise_clips
    timed = [clip.model_copy(update={"segments": (Segment(start=0.0, end=0.2, text=clip.text),)}) for clip in clips]
    mixed = windows(own=[*timed, clips[0]], timestamps_share=0.5)
    with_times = [
        tokenizer.no_timestamps not in mixed[Draw(epoch, number)]["target"].inputs
        for epoch in range(5)
        for number in range(12)
    ]
    assert 0.3 < np.mean(with_times) < 0.7
    assert all(tokenizer.no_timestamps in mixed[Draw(epoch, 12)]["target"].inputs for epoch in range(5))


def test_previous_text_comes_at_its_share(windows, noise_clips, tokenizer):
    """A window whose clip has a previous text is prompted with it at the share, and learns none of it."""
    clips, _ = noise_clips
    following = [clip.model_copy(update={"prev_text": "before"}) for clip in clips]
    mixed = windows(own=following, previous_text_share=0.5)
    targets = [mixed[Draw(epoch, number)]["target"] for epoch in range(5) for number in range(12)]
    prompted = [target for target in targets if target.inputs[0] == tokenizer.sot_prev]
    assert 0.3 < len(prompted) / len(targets) < 0.7
    for target in prompted:
        assert target.labels[: target.inputs.index(tokenizer.sot)] == [IGNORED] * target.inputs.index(tokenizer.sot)


def test_stitched_clips_share_speaker_and_language(windows, noise_clips):
    """A filled window holds distinct clips of one language, source and speaker, and at most 30 s."""
    clips, _ = noise_clips
    speakers = [clip.model_copy(update={"speaker": "ab"[i % 2]}) for i, clip in enumerate(clips)]
    speakers[0] = speakers[0].model_copy(update={"language": "ru"})
    stitched = windows(own=speakers, stitch_share=1.0)
    sizes = []
    for epoch in range(10):
        for number in range(12):
            window = stitched.window(Draw(epoch, number))
            assert len({(clip.language, clip.speaker) for clip in window.clips}) == 1
            assert len({clip.id for clip in window.clips}) == len(window.clips)
            assert window.clips[0].id == str(number)
            assert window.duration <= 30.0
            sizes.append(len(window.clips))
    assert max(sizes) == 6
    assert all(len(stitched.window(Draw(epoch, 0)).clips) == 1 for epoch in range(10))  # alone in its language


def test_stitched_clips_keep_their_text_and_times(windows, tokenizer):
    """Texts follow one another as the audio does; timed, each clip's segments stand at its place."""
    plain = windows(stitch_share=1.0, timestamps_share=0.0)
    made = plain.window(Draw(0, 3)).clips
    assert len(made) > 1
    example = plain[Draw(0, 3)]
    assert tokenizer.decode(example["target"].inputs) == " ".join(clip.text for clip in made)
    assert example["audio"].size == sum(round(clip.audio.duration * SAMPLE_RATE) for clip in made)
    timed = windows(stitch_share=1.0, timestamps_share=1.0)[Draw(0, 3)]["target"].labels
    times = [token - tokenizer.timestamp_begin for token in timed if token >= tokenizer.timestamp_begin]
    edges = np.cumsum([0.0, *(clip.audio.duration for clip in made)])
    assert times == [round(50 * edge) for pair in pairwise(edges) for edge in pair]


def test_stitched_clips_are_put_together_as_in_serving(noise_clips, japanese_tokenizer):
    """In a language that writes no blanks, none stands between the texts of two clips."""
    clips, root = noise_clips
    own = [clip.model_copy(update={"language": "ja", "text": f"日本{i}"}) for i, clip in enumerate(clips)]
    config = make_config("test", {"sources": [SOURCE], "stitch_share": 1.0, "timestamps_share": 0.0})
    stitched = TrainingWindows(config, own, (), root, japanese_tokenizer, 80)
    made = stitched.window(Draw(0, 3)).clips
    assert len(made) > 1
    said = japanese_tokenizer.decode(stitched[Draw(0, 3)]["target"].inputs)
    assert said == "".join(clip.text for clip in made)


def test_a_filled_window_fits_the_decoder(windows, noise_clips):
    """Clips are put together only so far as all their text fits."""
    clips, _ = noise_clips
    wordy = [clip.model_copy(update={"text": "x" * 150}) for clip in clips]
    stitched = windows(own=wordy, stitch_share=1.0)
    sizes = [len(stitched.window(Draw(epoch, number)).clips) for epoch in range(5) for number in range(12)]
    assert max(sizes) == 2
    for number in range(12):
        assert len(stitched[Draw(0, number)]["target"].inputs) <= 448


def test_replay_is_a_share_and_takes_turns(windows, noise_clips):
    """Rehearsed clips are the asked-for share of the windows, and each comes before any comes again."""
    clips, _ = noise_clips
    mixed = windows(own=clips[:6], replay=clips[6:11], replay_share=0.25)
    assert len(mixed) == 8  # 6 own, 2 of 8 rehearsed
    seen = [mixed.window(Draw(epoch, number)).clips[0].id for epoch in range(5) for number in (6, 7)]
    assert sorted(seen[:5]) == sorted(seen[5:]) == sorted(clip.id for clip in clips[6:11])
    assert {mixed.window(Draw(3, number)).clips[0].id for number in range(6)} == {clip.id for clip in clips[:6]}


def test_nobody_speaks_at_a_share(windows, tokenizer):
    """The asked-for share of windows is silence or noise, 1 to 30 s long, of nobody speaking."""
    mixed = windows(no_speech_share=0.5)
    assert len(mixed) == 24
    silent = 0
    for number in range(12, 24):
        example = mixed[Draw(0, number)]
        assert example["target"].labels[0] == tokenizer.no_speech
        assert SAMPLE_RATE <= example["audio"].size <= 30 * SAMPLE_RATE
        assert np.abs(example["audio"]).max() <= 10 ** (-10 / 20)
        silent += not example["audio"].any()
    assert 0 < silent < 12


def test_blanks_are_on_the_clip_and_never_on_padding(windows, tokenizer):
    """Every blank of time ends where the clip does at the latest, and blanks are zeros in the batch."""
    blanked = windows(augment={"mask_time_share": 0.5, "mask_time_frames": 5, "mask_mel_share": 0.3})
    collator = ElasticCollator(80, tokenizer.eot, (100,), 0.0, seed=1)
    for number in range(12):
        example = blanked[Draw(0, number)]
        frames = positions_of(example["audio"].size) * FRAMES_PER_POSITION
        times = [one for one in example["blanks"] if one.axis == "time"]
        assert all(one.stop <= frames for one in times)
        features = collator([example])["input_features"][0].numpy()
        for one in example["blanks"]:
            assert not (
                features[one.start : one.stop] if one.axis == "mel" else features[:, one.start : one.stop]
            ).any()
        bands = {band for one in example["blanks"] if one.axis == "mel" for band in range(one.start, one.stop)}
        assert features[[band for band in range(80) if band not in bands], frames:].all()  # the padding is as it was


def test_noise_changes_the_sound_and_nothing_else(windows):
    """A noisy window has its clip's length and target."""
    plain, noisy = windows()[Draw(0, 0)], windows(augment={"noise_share": 1.0})[Draw(0, 0)]
    assert noisy["audio"].shape == plain["audio"].shape
    assert noisy["target"] == plain["target"]
    assert not np.allclose(noisy["audio"], plain["audio"])
    assert log_mel_spectrogram(noisy["audio"]).shape == log_mel_spectrogram(plain["audio"]).shape


def test_a_recorded_silence_has_no_words(windows, noise_clips, tokenizer):
    """A clip in which nobody speaks is learned as such, and adds neither text nor time to what it is put behind."""
    clips, _ = noise_clips
    silence = clips[1].model_copy(update={"text": "", "no_speech": True})
    alone = windows(own=[silence])[Draw(1, 0)]["target"]
    assert alone == no_speech_target(tokenizer, "it")
    for timed in (0.0, 1.0):
        both = windows(own=[clips[0], silence], stitch_share=1.0, timestamps_share=timed)
        targets = [both[Draw(epoch, 0)]["target"] for epoch in range(20) if len(both.window(Draw(epoch, 0)).clips) == 2]
        assert targets
        spoken = windows(own=[clips[0].model_copy(update={"segments": _whole(clips[0])})], timestamps_share=timed)
        assert all(target == spoken[Draw(1, 0)]["target"] for target in targets)


def _whole(clip):
    return (Segment(start=0.0, end=clip.audio.duration, text=clip.text),)


def test_failure_21_a_clip_that_was_damaged_since_is_not_replaced(noise_clips, tokenizer, tmp_path):
    """A file that cannot be read any more is an error with its name; no other clip is learned in its place."""
    clips, root = noise_clips
    shutil.copytree(root, tmp_path / "noise")
    windows = TrainingWindows(make_config("test", {"sources": [SOURCE]}), clips, (), tmp_path / "noise", tokenizer, 80)
    for path in (tmp_path / "noise").glob("*.wav"):
        path.write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"0: 0\.wav: Not audio"):
        windows[Draw(0, 0)]
