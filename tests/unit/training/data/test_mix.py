"""The promises of mixing: how weights turn into how often a clip is seen."""

from collections import Counter

import pytest

from training.data.mix import mix


@pytest.fixture
def make_source(make_utterance):
    """Make the clips of one source with one weight."""

    def make(source, clips, weight):
        return [
            make_utterance(f"{source}-{i}", f"frase {i}").model_copy(update={"source": source, "weight": weight})
            for i in range(clips)
        ]

    return make


@pytest.mark.parametrize(
    ("weight", "clips", "times"),
    [
        (1.0, 10, {1: 10}),
        (3.0, 10, {3: 10}),
        (2.5, 10, {2: 5, 3: 5}),
        (0.25, 8, {1: 2}),
        (0.999, 10, {1: 10}),
        (0.01, 10, {1: 1}),
    ],
)
def test_a_weight_is_how_often_a_clip_comes(make_source, weight, clips, times):
    """Whole parts repeat every clip, the rest draws so many of them once more, and no source vanishes."""
    seen = Counter(u.id for u in mix(make_source("a", clips, weight), seed=1))
    assert Counter(seen.values()) == times


def test_shares_follow_from_weights_and_clips(make_source):
    """Each source's share of a pass is weight × clips over the sum of that."""
    passed = mix(make_source("own", 20, 2.0) + make_source("general", 100, 0.4), seed=1)
    assert Counter(u.source for u in passed) == {"own": 40, "general": 40}


def test_the_choice_hangs_on_the_seed_and_not_on_the_order(make_source):
    """The same seed chooses the same clips in any order, another seed others."""
    data = make_source("a", 40, 0.5)
    chosen = {u.id for u in mix(data, seed=1)}
    assert {u.id for u in mix(data[::-1], seed=1)} == chosen
    assert {u.id for u in mix(data, seed=2)} != chosen
    assert [u.id for u in mix(data, seed=1)] == [u.id for u in data if u.id in chosen]


def test_a_higher_weight_keeps_what_a_lower_one_chose(make_source):
    """Turning a weight up adds clips and exchanges none."""
    fewer = {u.id for u in mix(make_source("a", 40, 0.25), seed=1)}
    more = {u.id for u in mix(make_source("a", 40, 0.5), seed=1)}
    assert fewer < more


def test_without_weights_nothing_changes(make_source):
    """Whoever sets no weight trains on what was read, in that order."""
    data = make_source("a", 5, 1.0) + make_source("b", 5, 1.0)
    assert mix(data, seed=1) == data
