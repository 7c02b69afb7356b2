"""The promises of cutting: nothing lost, nothing cut in a word, no speech is left out, no more is read than needed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech.features import N_SAMPLES
from speech.vad import CHUNK
from speech.windows import (
    AHEAD,
    BLUR,
    BREAK,
    ENOUGH,
    FRAME,
    FULL_BREAK,
    KEPT,
    MIN_SPEECH,
    SILENCE,
    Slice,
    cut,
    cut_stream,
    is_silent,
)

RATE = 16_000


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 100 * RATE), st.integers(0, 2**32))
def test_slices_cover_every_sample_once(n_samples, seed):
    """The slices follow each other without gap or overlap, and none is longer than 30 s."""
    generator = np.random.default_rng(seed)
    envelope = np.repeat(generator.random(n_samples // RATE + 1) < 0.7, RATE)[:n_samples]
    slices = cut((0.1 * envelope * generator.random(n_samples)).astype(np.float32))
    assert slices[0].start == 0
    assert slices[-1].end == n_samples
    assert [s.end for s in slices[:-1]] == [s.start for s in slices[1:]]
    assert all(0 < s.end - s.start <= N_SAMPLES for s in slices)


def test_no_audio_has_no_slices():
    """Nothing is cut into nothing."""
    assert cut(np.zeros(0, np.float32)) == cut(np.zeros(0, np.float32), elastic=True) == []


@pytest.mark.parametrize("n_samples", [1, 100, N_SAMPLES])
def test_what_fits_is_one_slice(tone, n_samples):
    """Up to 30 s nothing is cut."""
    assert cut(tone(31)[:n_samples])[0].end == n_samples


def test_a_sample_more_makes_two_slices(tone):
    """Whisper's window is never exceeded."""
    assert len(cut(tone(31)[: N_SAMPLES + 1])) == 2


@pytest.mark.parametrize("pause", [24.5, 26.0, 28.0, 29.5])
def test_it_cuts_in_the_pause(with_pauses, pause):
    """The quiet place of the last six seconds is found, wherever it lies."""
    first, second = cut(with_pauses(40, (pause, pause + 0.2)))
    assert pause < first.end / RATE < pause + 0.2
    assert second.end == 40 * RATE


def test_it_cuts_between_words_not_inside(with_pauses):
    """A gap of one frame inside a word is shorter than the pause between two words."""
    gaps = [(25.0, 25.02), (27.0, 27.2), (28.5, 28.52)]
    first, _ = cut(with_pauses(40, *gaps))
    assert 27.0 < first.end / RATE < 27.2


@pytest.mark.parametrize("level", [0.5, 0.7, 0.9])
def test_it_cuts_where_the_voice_only_drops(tone, level):
    """Without any pause the quietest quarter of a second is taken, and not the window's own edge."""
    audio = tone(40)
    audio[27 * RATE : round(27.25 * RATE)] *= level
    first, _ = cut(audio)
    assert 27.0 < first.end / RATE < 27.25


def test_every_slice_of_long_audio_ends_in_a_pause(with_pauses):
    """The next window begins where the last one ended, and looks for its own pause."""
    pauses = [(t, t + 0.3) for t in (10.0, 27.0, 40.0, 54.0, 70.0, 81.5)]
    ends = [s.end / RATE for s in cut(with_pauses(100, *pauses))]
    assert ends[-1] == 100
    assert all(any(start < end < stop for start, stop in pauses) for end in ends[:-1])
    assert len(ends) == 4


def test_silence_is_told_from_quiet_speech(tone):
    """Below -60 dBFS nobody speaks; the quietest recordings reach -45."""
    rms_of_a_tone = np.sqrt(2)
    assert is_silent(np.zeros(RATE, np.float32))
    assert is_silent(tone(1, rms_of_a_tone * 10 ** (-62 / 20)))
    assert not is_silent(tone(1, rms_of_a_tone * 10 ** (-58 / 20)))
    assert not is_silent(tone(1, rms_of_a_tone * 10 ** (-45 / 20)))


def test_twenty_loud_milliseconds_are_no_silence():
    """The loudest frame decides, not the mean."""
    audio = np.zeros(20 * RATE, np.float32)
    audio[7 * FRAME : 8 * FRAME] = 0.1
    assert not is_silent(audio)


LEVELS = {"loud": 0.3, "low": 0.003, "hiss": 0.0005, "silent": 0.0}  # -10, -50 and -66 dBFS, and nothing


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(LEVELS)), st.integers(1, 40 * RATE)), min_size=1, max_size=8),
    st.integers(0, 2**32),
)
def test_elastic_slices_cover_every_sample_once(stretches, seed):
    """Whatever is loud, low or silent for however long: no gap, no overlap, nothing over 30 s or loud left out."""
    generator = np.random.default_rng(seed)
    audio = np.concatenate([generator.normal(0, LEVELS[kind], size) for kind, size in stretches]).astype(np.float32)
    slices = cut(audio, elastic=True)
    assert slices[0].start == 0
    assert slices[-1].end == audio.size
    assert [s.end for s in slices[:-1]] == [s.start for s in slices[1:]]
    assert all(0 < s.end - s.start <= N_SAMPLES for s in slices)
    assert all(is_silent(audio[s.start : s.end]) == s.silent for s in slices)


def test_a_window_ends_in_the_first_pause_after_ten_seconds(with_pauses):
    """Where short windows are cheap, the middle of the first pause that ends enough speech is the place."""
    pauses = [(4.0, 4.4), (9.0, 9.4), (12.0, 12.4), (14.0, 14.4), (23.0, 23.4), (31.0, 31.4)]
    ends = [s.end / RATE for s in cut(with_pauses(36, *pauses), elastic=True)]
    assert ends == pytest.approx([12.2, 23.2, 36], abs=FRAME / RATE)


@pytest.mark.parametrize(("begin", "cuts"), [(9.7, [40]), (9.9, [10.1, 40])])
def test_ten_seconds_are_counted_to_the_middle_of_the_pause(with_pauses, begin, cuts):
    """A pause counts from its middle, for the window that ends there is that long."""
    audio = with_pauses(40, (begin, begin + 0.4))
    ends = [s.end / RATE for s in cut(audio, elastic=True)]
    assert [end for end in ends if end < 15 or end == 40] == pytest.approx(cuts, abs=FRAME / RATE)


def test_a_gap_inside_a_word_is_no_pause(with_pauses):
    """Less than 200 ms of quiet may be a consonant: the window goes on to the pause."""
    (first, *_) = cut(with_pauses(25, (11.0, 11.14), (15.0, 15.3)), elastic=True)
    assert first.end / RATE == pytest.approx(15.15, abs=FRAME / RATE)


def test_a_pause_is_quiet_beside_what_is_loud(tone):
    """In a noisy room, a pause is what is 34 dB below the voice, though it is far from silence."""
    audio = tone(20, 0.5)
    audio[11 * RATE : round(11.4 * RATE)] = tone(0.4, 0.5 * 10 ** (-36 / 20))
    first, second = cut(audio, elastic=True)
    assert first.end / RATE == pytest.approx(11.2, abs=FRAME / RATE)
    assert not first.silent
    assert not second.silent


@pytest.mark.parametrize("at", [3.0, 9.0])
def test_a_short_clip_stays_whole(with_pauses, at):
    """A pause inside a clip is the model's business, however silent it is."""
    audio = with_pauses(12, (at, at + 0.9))
    assert cut(audio, elastic=True) == [Slice(0, audio.size, silent=False)]


def test_the_pause_at_the_end_ends_no_window(with_pauses):
    """What comes after the last word is too short to be decoded for itself."""
    audio = with_pauses(12, (11.4, 12))
    assert cut(audio, elastic=True) == [Slice(0, audio.size, silent=False)]


def test_without_a_pause_a_window_is_as_long_as_can_be(tone):
    """Who speaks without taking breath is cut where any window is: in the last six seconds of thirty."""
    audio = tone(50)
    audio[27 * RATE : round(27.15 * RATE)] *= 0.5
    assert [(s.start, s.end) for s in cut(audio, elastic=True)] == [(s.start, s.end) for s in cut(audio)]


@pytest.mark.parametrize("level", [0.0, 10 ** (-62 / 20)])
def test_long_silence_is_a_slice_of_its_own(tone, level):
    """At the beginning, between windows and at the end, silence is left out, but for 0.3 s beside what is said."""
    audio = tone(45, level * np.sqrt(2))
    for start, end in ((5, 17), (22, 40)):
        audio[start * RATE : end * RATE] = tone(end - start)
    slices = cut(audio, elastic=True)
    assert [(s.start / RATE, s.end / RATE, s.silent) for s in slices] == [
        (0, pytest.approx(4.7), True),
        (pytest.approx(4.7), pytest.approx(17.3), False),
        (pytest.approx(17.3), pytest.approx(21.7), True),
        (pytest.approx(21.7), pytest.approx(40.3), False),
        (pytest.approx(40.3), 45, True),
    ]
    assert slices[0].end == 5 * RATE - KEPT


@pytest.mark.parametrize(("seconds", "silent"), [(1.1, [False, True, False]), (0.9, [False, False])])
def test_a_second_of_silence_is_long(with_pauses, seconds, silent):
    """Less is a pause, and belongs to the windows."""
    assert SILENCE == RATE
    audio = with_pauses(24, (11.0, 11.0 + seconds))
    assert [s.silent for s in cut(audio, elastic=True)] == silent


def test_a_short_clip_loses_the_silence_around_it(with_pauses):
    """Who presses the button early and lets it go late pays for what was said."""
    audio = with_pauses(9, (0, 3), (5, 9))
    assert [(s.end - s.start, s.silent) for s in cut(audio, elastic=True)] == [
        (3 * RATE - KEPT, True),
        (2 * RATE + 2 * KEPT, False),
        (4 * RATE - KEPT, True),
    ]


def test_a_whisper_is_not_silence(tone):
    """A long stretch far below the voice, and above -60 dBFS, is decoded."""
    audio = tone(40, 0.5)
    audio[11 * RATE : 21 * RATE] = tone(10, np.sqrt(2) * 10 ** (-58 / 20))
    assert not any(s.silent for s in cut(audio, elastic=True))


def test_minutes_of_silence_are_slices_of_thirty_seconds():
    """No slice is longer than a window, decoded or not."""
    slices = cut(np.zeros(70 * RATE, np.float32), elastic=True)
    assert [(s.end - s.start, s.silent) for s in slices] == [(30 * RATE, True), (30 * RATE, True), (10 * RATE, True)]


class OffsetDetector:
    """Takes for speech whatever has an offset, so that a test says where somebody speaks and what is only loud."""

    def __init__(self):
        self.judged = 0  # samples

    def is_speaking(self, chunk):
        """Say whether the chunk is offset."""
        assert chunk.size <= CHUNK
        self.judged += chunk.size
        return float(chunk.mean()) > 0.05


KINDS = {"voice": (0.2, 0.3), "noise": (0.0, 0.3), "hiss": (0.0, 0.0005), "silent": (0.0, 0.0)}  # offset, level


def sound(*stretches):
    """Make what the scripted detector understands: (kind, seconds) after each other."""
    generator = np.random.default_rng(7)
    parts = []
    for kind, seconds in stretches:
        offset, level = KINDS[kind]
        parts.append(offset + level * generator.uniform(-1, 1, round(seconds * RATE)))
    return np.concatenate(parts).astype(np.float32)


def shown(slices):
    """Tell slices in seconds, for a person who reads a failure."""
    return [(round(s.start / RATE, 2), round(s.end / RATE, 2), s.silent) for s in slices]


@settings(max_examples=40)
@given(
    stretches=st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.floats(0.01, 25)), min_size=1, max_size=8),
    sizes=st.lists(st.integers(1, 45 * RATE), min_size=1, max_size=5),
    elastic=st.booleans(),
    listening=st.booleans(),
)
def test_a_stream_is_cut_as_the_whole_is(stretches, sizes, elastic, listening):
    """Pieces of any size give the slices of the whole, with their samples; together they are all of it."""
    audio = sound(*stretches)
    pieces, position = [], 0
    while position < audio.size:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(audio[position : position + size])
        position += size
    found = list(cut_stream(pieces, elastic=elastic, detector=OffsetDetector() if listening else None))
    assert [place for place, _ in found] == cut(
        audio, elastic=elastic, detector=OffsetDetector() if listening else None
    )
    assert np.array_equal(np.concatenate([samples for _, samples in found]), audio)
    assert [place.end - place.start for place, _ in found] == [samples.size for _, samples in found]
    assert all(0 < samples.size <= N_SAMPLES for _, samples in found)
    if not listening:
        assert all(place.speech is None for place, _ in found)


@settings(max_examples=20)
@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=12, max_size=12),
    block=st.integers(1, RATE),
    elastic=st.booleans(),
    listening=st.booleans(),
)
def test_a_stream_is_read_no_further_than_needed(kinds, block, elastic, listening):
    """When a slice is out, no more than `AHEAD`, a chunk and a block after its beginning were read."""
    audio, n_read = sound(*((kind, 9.0) for kind in kinds)), 0
    block = max(block, 1000)

    def blocks():
        nonlocal n_read
        for start in range(0, audio.size, block):
            n_read = min(start + block, audio.size)
            yield audio[start : start + block]

    for place, _ in cut_stream(blocks(), elastic=elastic, detector=OffsetDetector() if listening else None):
        assert place.end <= n_read < place.start + AHEAD + CHUNK + block


def test_what_is_given_out_is_no_view_of_what_is_read():
    """A window that waits for the engine does not keep half a minute around it in memory."""
    audio = sound(("voice", 70))
    assert all(samples.base is None for _, samples in cut_stream([audio]))


@pytest.mark.parametrize(("elastic", "shortest"), [(True, BREAK), (False, FULL_BREAK)])
def test_where_nobody_speaks_for_long_is_left_out(elastic, shortest):
    """Noise between two sentences is a slice of its own, but for `KEPT` beside each, and ends the window before it."""
    seconds = shortest / RATE + 0.3  # the detector's precision on each side
    audio = sound(("voice", 4), ("noise", seconds), ("voice", 5))
    first, noise, last = cut(audio, elastic=elastic, detector=OffsetDetector())
    assert (first.silent, noise.silent, last.silent) == (False, True, False)
    assert first.end / RATE == pytest.approx(4 + (BLUR + KEPT) / RATE, abs=2 * CHUNK / RATE)
    assert last.start / RATE == pytest.approx(4 + seconds - (BLUR + KEPT) / RATE, abs=2 * CHUNK / RATE)


@pytest.mark.parametrize(("elastic", "shortest"), [(True, BREAK), (False, FULL_BREAK)])
def test_where_nobody_speaks_for_a_while_stays(elastic, shortest):
    """A shorter stretch of noise is the model's business, and the window goes on."""
    audio = sound(("voice", 4), ("noise", shortest / RATE - 0.5), ("voice", 5))
    assert shown(cut(audio, elastic=elastic, detector=OffsetDetector())) == [(0, audio.size / RATE, False)]


@pytest.mark.parametrize("elastic", [True, False])
def test_noise_around_speech_is_left_out(elastic):
    """Minutes of music before and after a sentence cost nothing, and none of it is decoded but `KEPT`."""
    audio = sound(("noise", 72), ("voice", 3), ("noise", 80))
    slices = cut(audio, elastic=elastic, detector=OffsetDetector())
    (spoken,) = [place for place in slices if not place.silent]
    assert spoken.start / RATE == pytest.approx(72 - (BLUR + KEPT) / RATE, abs=2 * CHUNK / RATE)
    assert spoken.end / RATE == pytest.approx(75 + (BLUR + KEPT) / RATE, abs=2 * CHUNK / RATE)
    assert (slices[0].start, slices[-1].end) == (0, audio.size)


def test_without_a_detector_noise_is_audio_like_any():
    """Only silence is left out then."""
    audio = sound(("voice", 4), ("noise", 20), ("voice", 4))
    assert not any(place.silent for place in cut(audio, elastic=True))


@pytest.mark.parametrize(("chunks", "silent"), [(MIN_SPEECH - 1, True), (MIN_SPEECH, False)])
@pytest.mark.parametrize("elastic", [True, False])
@pytest.mark.parametrize("before", [1, 12])
def test_a_crack_is_no_speech(chunks, silent, elastic, before):
    """Of a window in which nobody speaks for a tenth of a second on end, nothing is decoded."""
    voice = chunks * CHUNK / RATE
    start = before * RATE // CHUNK * CHUNK / RATE  # at a chunk's beginning, or the voice is in one chunk more
    audio = sound(("noise", start), ("voice", voice), ("noise", 1))
    slices = cut(audio, elastic=elastic, detector=OffsetDetector())
    assert all(place.silent for place in slices) is silent


@pytest.mark.parametrize("kind", ["noise", "hiss", "silent"])
def test_a_clip_without_speech_is_one_silent_slice(kind):
    """Loud or not."""
    audio = sound((kind, 6))
    assert shown(cut(audio, elastic=True, detector=OffsetDetector())) == [(0, 6, True)]


def test_silence_is_silent_whatever_the_detector_thinks():
    """A detector that hears voices does not make Whisper decode zeros."""

    class Believer(OffsetDetector):
        def is_speaking(self, chunk):
            return True

    assert shown(cut(np.zeros(20 * RATE, np.float32), detector=Believer())) == [(0, 20, True)]


def test_a_slice_tells_where_somebody_speaks():
    """In samples of the whole audio, each stretch to a chunk's precision; a window that goes on is not left of it."""
    audio = sound(("voice", 8), ("noise", 1), ("voice", 3), ("noise", 4), ("voice", 6))
    first, noise, last = cut(audio, elastic=True, detector=OffsetDetector())
    precision = pytest.approx
    assert [(a / RATE, b / RATE) for a, b in first.speech] == [
        (0, precision(8, abs=0.04)),
        (precision(9, abs=0.04), precision(12, abs=0.04)),
    ]
    assert noise.speech is None
    assert [(a / RATE, b / RATE) for a, b in last.speech] == [(precision(16, abs=0.04), 22)]


def test_a_slice_that_was_not_listened_to_does_not_say_where_somebody_speaks():
    """Of a clip, only whether: an answer's flags then say nothing of where."""
    (place,) = cut(sound(("voice", 3), ("noise", 2)), elastic=True, detector=OffsetDetector())
    assert (place.silent, place.speech) == (False, None)


def test_a_clip_is_listened_to_no_longer_than_it_takes():
    """Who speaks at the beginning is heard after `MIN_SPEECH` chunks; half a second in, after half a second."""
    for before in (0, 16):
        detector = OffsetDetector()
        cut(sound(("noise", before * CHUNK / RATE), ("voice", 9 - before * CHUNK / RATE)), detector=detector)
        assert detector.judged == (before + MIN_SPEECH) * CHUNK
    assert 9 * RATE < ENOUGH


@pytest.mark.parametrize("elastic", [True, False])
def test_every_sample_is_listened_to_at_most_once(elastic):
    """The detector remembers what it heard before: its stream has no gap and no repetition."""
    detector = OffsetDetector()
    audio = sound(*[("voice", 8), ("noise", 5)] * 6)
    cut(audio, elastic=elastic, detector=detector)
    assert detector.judged == audio.size
