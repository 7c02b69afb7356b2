"""The promises of the elastic context: a window pays for its own length, in one of a few sizes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech.context import BUCKETS, MAX_POSITIONS, ElasticContext, bucket, positions_of

SAMPLES = st.integers(0, 480_000)
MARGINS = st.integers(0, 200)


def test_no_bucket_can_be_taken_for_features():
    """CTranslate2 would encode an output of 80 or 128 positions again."""
    assert {80, 128}.isdisjoint(BUCKETS)


def test_buckets_grow_up_to_whispers_own_context():
    """They are in order, without repetition, and the last one is 30 s."""
    assert list(BUCKETS) == sorted(set(BUCKETS))
    assert BUCKETS[-1] == MAX_POSITIONS == 1500


def test_buckets_are_few_and_fine():
    """Few enough to share, and no window pays for more than 1.7 times its length, or 2 s."""
    assert len(BUCKETS) <= 10
    assert BUCKETS[0] <= 100
    assert max(after / before for before, after in itertools.pairwise(BUCKETS)) <= 1.7


@given(st.integers(0, MAX_POSITIONS))
def test_a_bucket_holds_what_it_is_for(positions):
    """It is the smallest that is large enough."""
    chosen = bucket(positions)
    assert chosen in BUCKETS
    assert chosen >= positions
    assert all(size < positions for size in BUCKETS if size < chosen)


@given(st.integers(MAX_POSITIONS, 10_000))
def test_nothing_is_longer_than_thirty_seconds(positions):
    """Beyond 1,500 it stays 1,500."""
    assert bucket(positions) == MAX_POSITIONS


@pytest.mark.parametrize(
    ("n_samples", "positions"), [(0, 0), (1, 1), (320, 1), (321, 2), (16_000, 50), (480_000, 1500)]
)
def test_a_position_is_twenty_milliseconds(n_samples, positions):
    """A position that is begun is counted."""
    assert positions_of(n_samples) == positions


@given(SAMPLES, SAMPLES, MARGINS)
def test_longer_windows_never_get_less(one, other, margin):
    """Positions grow with the duration and depend on nothing else."""
    context = ElasticContext(elastic=True, margin=margin)
    shorter, longer = sorted((one, other))
    assert context.positions(shorter) <= context.positions(longer)
    assert context.positions(one) == ElasticContext(elastic=True, margin=margin).positions(one)


@given(SAMPLES, MARGINS)
def test_audio_and_margin_fit(n_samples, margin):
    """The context holds the audio and the margin, as far as 30 s reach."""
    positions = ElasticContext(elastic=True, margin=margin).positions(n_samples)
    assert positions in BUCKETS
    assert positions >= min(positions_of(n_samples) + margin, MAX_POSITIONS)


@given(SAMPLES, MARGINS)
def test_without_elasticity_everything_costs_thirty_seconds(n_samples, margin):
    """A model that was not trained for it is never asked to."""
    assert ElasticContext(elastic=False, margin=margin).positions(n_samples) == MAX_POSITIONS
    assert ElasticContext().positions(n_samples) == MAX_POSITIONS


def test_thirty_seconds_cost_thirty_seconds():
    """At full length the elastic context is Whisper's own."""
    assert ElasticContext(elastic=True, margin=0).positions(480_000) == MAX_POSITIONS


@given(st.booleans(), MARGINS)
def test_the_manifest_keeps_it(elastic, margin):
    """What is written is read back, whatever else the manifest says for humans."""
    context = ElasticContext(elastic=elastic, margin=margin)
    assert ElasticContext.from_manifest({**context.to_manifest(), "evidence": "WER 9.1 %"}) == context


def test_an_empty_manifest_is_not_elastic():
    """Elasticity is a claim that somebody has to make."""
    assert ElasticContext.from_manifest({}) == ElasticContext(elastic=False, margin=0)
