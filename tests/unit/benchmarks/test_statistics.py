"""What a round comes to: percentiles, lines, word errors, batches and the computed floor."""

from pathlib import Path

import pytest

from benchmarks.accuracy import compare
from benchmarks.bench import key_of, medians, percentile
from benchmarks.clips import Clip
from benchmarks.floor import Sizes, clock_hertz, encoder_operations, floor_seconds, token_bytes, token_operations
from benchmarks.measures.beside_long_file import one_batch_seconds
from benchmarks.measures.encoder_linearity import fit_line

BASE = Sizes(d=512, encoder_layers=6, decoder_layers=6, vocabulary=51_865, n_mels=80)


def test_a_median_is_not_moved_by_one_slow_round():
    """That is why rounds are medians."""
    assert medians([{"seconds": s} for s in (1.0, 1.1, 99.0)], "seconds") == 1.1


def test_percentiles():
    """The 95th percentile leaves a twentieth above."""
    assert percentile([float(i) for i in range(101)], 95) == 95.0


def test_a_straight_line_is_found():
    """Slope and intercept of points on a line, with an R2 of one."""
    slope, intercept, r2 = fit_line([1, 2, 3, 4], [2.5, 4.5, 6.5, 8.5])
    assert (slope, intercept, r2) == pytest.approx((2.0, 0.5, 1.0))


def test_a_curve_is_not_a_line():
    """A square does not pass for a line."""
    assert fit_line([0, 1, 2, 3, 4], [0.0, 1.0, 4.0, 9.0, 16.0])[2] < 0.98


def test_word_errors_are_ours_minus_theirs():
    """A contender with more errors than ours makes the difference negative."""
    clips = [Clip(str(i), "it", "uno due tre quattro", 1.0, Path("x"), Path("x")) for i in range(3)]
    wer = compare(clips, ["Uno due, tre quattro."] * 3, ["uno due tre cinque"] * 3)
    assert (wer.ours, wer.theirs, wer.difference, wer.clips) == (0.0, 0.25, -0.25, 3)
    assert wer.low <= wer.difference <= wer.high


def test_a_batch_is_timed_by_the_services_own_metrics():
    """The histogram's growth while the file ran, over its batches."""
    before = "whisperloop_batch_seconds_sum 1.0\nwhisperloop_batch_seconds_count 4.0\n"
    after = 'x 1\nwhisperloop_batch_seconds_bucket{le="1"} 5\nwhisperloop_batch_seconds_sum 4.0\n'
    after += "whisperloop_batch_seconds_count 6.0\n"
    assert one_batch_seconds(before, after, 100.0) == 1.5


def test_a_service_without_metrics_has_a_batch_too():
    """Then it is the file's time over the batches that it must have had."""
    assert one_batch_seconds("", "", 9.0) == 3.0  # 600 s in windows of 28 s and batches of 8


def test_the_encoder_of_whisper_base_at_30_s():
    """Of whisper-base, 66 G operations in matrices, 28 in attention and 3 in convolutions."""
    operations = encoder_operations(BASE, 1500)
    assert sum(operations.values()) / 1e9 == pytest.approx(96.7, rel=0.01)


def test_a_token_reads_the_decoder_once():
    """49 MB of weights in int8, and the keys and values of the audio."""
    assert token_bytes(BASE, 0) / 1e6 == pytest.approx(48.6, rel=0.01)
    assert token_bytes(BASE, 1500) > token_bytes(BASE, 100)
    assert token_operations(BASE, 0)["int8"] == 2 * token_bytes(BASE, 0)


def test_more_cores_lower_the_floor_until_the_memory_is_the_limit():
    """Arithmetic is shared among cores, the memory's bandwidth is not."""
    fast = floor_seconds(BASE, 200, 20, cores=2, hertz=1e12, bandwidth=1e9)
    assert floor_seconds(BASE, 200, 0, cores=2, hertz=3e9, bandwidth=1e9) == pytest.approx(
        floor_seconds(BASE, 200, 0, cores=1, hertz=3e9, bandwidth=1e9) / 2
    )
    assert fast == pytest.approx(20 * token_bytes(BASE, 200) / 1e9, rel=0.01)


def test_a_machine_that_does_not_tell_its_clock_is_guessed(tmp_path):
    """Without /proc/cpuinfo it is 2.5 GHz."""
    assert clock_hertz(tmp_path / "cpuinfo") == 2.5e9
    (tmp_path / "cpuinfo").write_text("cpu MHz\t\t: 3000.5\ncpu MHz\t\t: 2000\n", encoding="utf-8")
    assert clock_hertz(tmp_path / "cpuinfo") == 3.0005e9


def test_rounds_are_named_by_the_code_that_they_measure():
    """Another model or another folder of code is another key; the same is the same."""
    assert key_of(["a"], ["benchmarks/peers"]) == key_of(["a"], ["benchmarks/peers"])
    assert key_of(["a"], ["benchmarks/peers"]) != key_of(["b"], ["benchmarks/peers"])
    assert key_of(["a"], ["benchmarks/peers"]) != key_of(["a"], ["benchmarks/measures"])
