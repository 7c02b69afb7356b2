"""The promises of the splits."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech.text import normalize
from training.data.splits import split


def by_split(utterances):
    """Group ids by split."""
    groups = {}
    for utterance in utterances:
        groups.setdefault(utterance.split, set()).add(utterance.id)
    return groups


@given(
    sentences=st.lists(st.integers(0, 60), min_size=40, max_size=80),
    seed=st.integers(0, 2**32),
    random=st.randoms(use_true_random=False),
)
def test_splits_are_exact_disjoint_by_sentence_and_stable(make_utterance, sentences, seed, random):
    """Any data, seed and order: exact counts, no sentence in two splits, the same answer when shuffled."""
    data = [make_utterance(f"{i:03}", f"frase numero {n}") for i, n in enumerate(sentences)]
    # With enough sentences read once, every count can be met exactly.
    data += [make_utterance(f"once-{i:02}", f"una volta {i}") for i in range(15)]
    kept, dropped = split(data, seed=seed, test_per_language=10, dev_per_language=5)
    counts = Counter(utterance.split for utterance in kept)
    assert (counts["test"], counts["dev"]) == (10, 5)
    assert len(kept) == len(data)
    assert not dropped
    assert len({(u.text, u.split) for u in kept}) == len({u.text for u in kept})
    random.shuffle(data)
    assert split(data, seed=seed, test_per_language=10, dev_per_language=5) == (kept, dropped)


def test_one_sentence_is_one_whatever_its_punctuation(make_utterance):
    """Readings that differ in case and punctuation only share a split."""
    data = [make_utterance(f"{i}-{mark}", f"Frase {i}{mark}") for i in range(20) for mark in ["", "!", "?"]]
    kept, _ = split(data, seed=0, test_per_language=9, dev_per_language=6)
    splits = {}
    for utterance in kept:
        splits.setdefault(normalize(utterance.text), set()).add(utterance.split)
    assert all(len(names) == 1 for names in splits.values())


def test_another_seed_draws_others(make_utterance):
    """The seed matters."""
    data = [make_utterance(f"{i:03}", f"frase {i}") for i in range(100)]
    first, second = (by_split(split(data, seed=seed, test_per_language=20, dev_per_language=0)[0]) for seed in (1, 2))
    assert first["test"] != second["test"]


def test_new_clips_leave_the_order_of_the_old(make_utterance):
    """More data can push a sentence out of test, but never reshuffles those that stay."""
    old = [make_utterance(f"{i:03}", f"frase {i}") for i in range(100)]
    new = [make_utterance(f"new-{i}", f"nuova {i}") for i in range(10)]
    before = by_split(split(old, seed=1, test_per_language=20, dev_per_language=0)[0])["test"]
    after = by_split(split(old + new, seed=1, test_per_language=20, dev_per_language=0)[0])["test"]
    assert after - before <= {utterance.id for utterance in new}


def test_a_sentence_that_would_overshoot_is_passed_over(make_utterance):
    """The count is exact even where a sentence was read many times."""
    data = [make_utterance(f"many-{i}", "sempre la stessa frase") for i in range(50)]
    data += [make_utterance(f"{i:03}", f"frase {i}") for i in range(10)]
    for seed in range(10):
        groups = by_split(split(data, seed=seed, test_per_language=3, dev_per_language=2)[0])
        assert (len(groups["test"]), len(groups["dev"])) == (3, 2)


def test_languages_are_split_apart(make_utterance):
    """Each language gets its own test and dev clips, and one language does not move another's."""
    italian = [make_utterance(f"it-{i}", f"frase {i}") for i in range(10)]
    russian = [make_utterance(f"ru-{i}", f"фраза {i}", language="ru") for i in range(10)]
    kept, _ = split(italian + russian, seed=3, test_per_language=2, dev_per_language=1)
    counts = Counter((u.language, u.split) for u in kept)
    assert counts == {
        (language, name): n for language in ("it", "ru") for name, n in [("test", 2), ("dev", 1), ("train", 7)]
    }
    alone, _ = split(italian, seed=3, test_per_language=2, dev_per_language=1)
    assert alone == [u for u in kept if u.language == "it"]


def test_too_few_clips_are_refused_with_both_numbers(make_utterance):
    """The message says how many there are and how many are needed."""
    data = [make_utterance(f"{i}", f"frase {i}") for i in range(4)]
    with pytest.raises(ValueError, match="it: 4 clips are there to draw from, needed are 3 for test and 2 for dev"):
        split(data, seed=0, test_per_language=3, dev_per_language=2)


def test_a_count_that_whole_sentences_cannot_give_is_refused(make_utterance):
    """Rather no split than one of another size."""
    data = [make_utterance(f"{i}", f"frase {i // 2}") for i in range(10)]
    with pytest.raises(ValueError, match="3 clips are needed for test, but whole sentences give 2"):
        split(data, seed=0, test_per_language=3, dev_per_language=0)


def test_given_splits_are_kept(make_utterance):
    """A data set that brings test and dev sets gets no other."""
    data = [
        make_utterance(f"{name}-{i}", f"{name} {i}", split=name) for name in ("train", "dev", "test") for i in "abc"
    ]
    data += [make_utterance("free", "ancora libera")]
    kept, dropped = split(data, seed=0, test_per_language=100, dev_per_language=100)
    assert not dropped
    assert {u.id: u.split for u in kept} == {u.id: u.split or "train" for u in data}


def test_a_given_test_set_leaves_dev_to_be_drawn(make_utterance):
    """Only the split that is missing is drawn, and only from clips that have none."""
    data = [make_utterance(f"t{i}", f"prova {i}", split="test") for i in range(3)]
    data += [make_utterance(f"f{i}", f"frase {i}") for i in range(10)]
    kept, _ = split(data, seed=0, test_per_language=5, dev_per_language=4)
    assert Counter(u.split for u in kept) == {"test": 3, "dev": 4, "train": 6}


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("test", "train"), ("test", None)),
        (("dev", "train"), ("dev", None)),
        (("test", "dev"), ("test", None)),
        (("test", None), ("test", None)),
        (("train", None), ("train", "train")),
    ],
)
def test_a_sentence_of_a_given_test_or_dev_set_is_nowhere_else(make_utterance, splits, expected):
    """A leaked sentence is dropped with its reason, from the split of lesser weight."""
    data = [
        make_utterance("a", "Una frase.", split=splits[0]),
        make_utterance("b", "una frase", split=splits[1]),
    ]
    kept, dropped = split(data, seed=0, test_per_language=0, dev_per_language=0)
    got = {u.id: u.split for u in kept}
    assert (got.get("a"), got.get("b")) == expected
    assert [(row.id, row.reason, row.by_source_rule) for row in dropped] == (
        [("b", "leaked_sentence", True)] if expected[1] is None else []
    )


def test_sentences_of_given_training_clips_are_not_drawn(make_utterance):
    """What is in a given train set never gets into a drawn test set."""
    data = [make_utterance(f"t{i}", f"frase {i}", split="train") for i in range(20)]
    data += [make_utterance(f"f{i}", f"frase {i}") for i in range(25)]
    kept, _ = split(data, seed=0, test_per_language=3, dev_per_language=2)
    held_out = {u.id for u in kept if u.split != "train"}
    assert held_out == {f"f{i}" for i in range(20, 25)}


def test_readings_of_one_sentence_share_a_split(make_utterance):
    """Failure: a data set with several readings of a sentence, written a little differently, has it on both sides."""
    data = [
        make_utterance(f"{i}-{reading}", f"frase {i}{suffix}").model_copy(update={"sentence_id": f"s{i}"})
        for i in range(12)
        for reading, suffix in (("a", ""), ("b", " corretta"))
    ]
    kept, _ = split(data, seed=0, test_per_language=4, dev_per_language=4)
    splits_of = {f"s{i}": {u.split for u in kept if u.sentence_id == f"s{i}"} for i in range(12)}
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert Counter(u.split for u in kept) == {"test": 4, "dev": 4, "train": 16}


def test_texts_link_what_sentence_ids_do_not(make_utterance):
    """Two ids with one text, or two texts with one id, are one sentence, however long the chain."""
    data = [
        make_utterance(name, text, split=given).model_copy(update={"sentence_id": sentence})
        for name, text, sentence, given in [
            ("a", "uno", "1", "test"),
            ("b", "due", "1", None),
            ("c", "due", "2", None),
            ("d", "tre", "2", None),
            ("e", "tre", None, "train"),
            ("f", "quattro", "3", None),
        ]
    ]
    kept, dropped = split(data, seed=0, test_per_language=0, dev_per_language=0)
    assert [u.id for u in kept] == ["a", "f"]
    assert {row.id for row in dropped} == set("bcde")


def test_a_sentence_id_is_its_sources_own(make_utterance):
    """Two data sets that both count from 1 have nothing in common."""
    data = [make_utterance("a", "uno", split="test"), make_utterance("b", "due")]
    data = [u.model_copy(update={"sentence_id": "1", "source": u.id}) for u in data]
    kept, dropped = split(data, seed=0, test_per_language=0, dev_per_language=0)
    assert (len(kept), dropped) == (2, [])


def test_a_missing_dev_set_is_lent_by_training(make_utterance):
    """Data with a training and a test set need no third one: the test set is never drawn from, and stays."""
    train = [make_utterance(f"t{i}", f"frase {i}", split="train") for i in range(10)]
    test = [make_utterance(f"e{i}", f"altra {i}", split="test") for i in range(4)]
    kept, dropped = split([*train, *test], seed=1, test_per_language=3, dev_per_language=2)
    assert dropped == []
    assert Counter(one.split for one in kept) == {"train": 8, "dev": 2, "test": 4}
    assert {one.id for one in kept if one.split == "test"} == {one.id for one in test}


def test_languages_may_want_different_counts(make_utterance):
    """The smallest language does not set the others' test sets."""
    data = [make_utterance(f"i{i}", f"frase {i}") for i in range(50)]
    data += [make_utterance(f"r{i}", f"fraza {i}", language="ru") for i in range(10)]
    kept, _ = split(data, seed=1, test_per_language={"it": 10, "ru": 2}, dev_per_language={"it": 5, "ru": 1})
    found = Counter((one.language, one.split) for one in kept)
    assert (found["it", "test"], found["ru", "test"]) == (10, 2)
    assert (found["it", "dev"], found["ru", "dev"]) == (5, 1)


def silence(make_utterance, name):
    """Make a clip in which nobody speaks."""
    return make_utterance(name).model_copy(update={"text": "", "no_speech": True})


def test_what_no_test_may_have_does_not_fill_dev(make_utterance):
    """A fifth of the clips is closed to test, and about a fifth of dev is of them: test leaves them at its front."""
    clips = [make_utterance(f"{i:03}", f"frase {i}") for i in range(500)]
    closed = {one.id: one for one in (make_utterance(f"c{i:03}", f"corretta {i}") for i in range(125))}
    shares = []
    for seed in range(10):
        counts = {"test_per_language": 96, "dev_per_language": 24}
        kept, _ = split([*clips, *closed.values()], seed=seed, never_test=closed.keys(), **counts)
        assert not by_split(kept)["test"] & closed.keys()
        shares.append(len(by_split(kept)["dev"] & closed.keys()))
    assert max(shares) < 13
    assert 30 < sum(shares) < 75  # of 240


def test_new_clips_move_few_of_dev(make_utterance):
    """More data can push a sentence out of dev, or take one for test, but never draws dev anew."""
    old = [make_utterance(f"{i:03}", f"frase {i}") for i in range(200)]
    new = [make_utterance(f"new-{i}", f"nuova {i}") for i in range(20)]
    before, after = (
        by_split(split(data, seed=1, test_per_language=20, dev_per_language=20)[0])["dev"] for data in (old, old + new)
    )
    assert len(before & after) > 14


@pytest.mark.parametrize("language", ["it", "ru", "en", "de", "fr"])
def test_silences_are_many_sentences(make_utterance, language):
    """Clips in which nobody speaks are drawn one by one, in every language, and most of them are learned."""
    data = [make_utterance(f"{i:03}", f"frase {i}", language=language) for i in range(480)]
    data += [silence(make_utterance, f"s{i}").model_copy(update={"language": language}) for i in range(20)]
    silent = {one.id for one in data if one.no_speech}
    groups = by_split(split(data, seed=1, test_per_language=48, dev_per_language=24)[0])
    assert len(groups["dev"] & silent) < 5
    assert len(groups["train"] & silent) > 10


def test_a_silence_of_a_given_test_set_closes_no_other(make_utterance):
    """Nothing is said in either, which makes them no sentence that leaks; two copies of one sound are one."""
    test, copied, other = (silence(make_utterance, name) for name in ("t", "c", "o"))
    test = test.model_copy(update={"split": "test"})
    copied = copied.model_copy(update={"audio": test.audio})
    kept, dropped = split([test, copied, other], seed=0, test_per_language=0, dev_per_language=0)
    assert {one.id: one.split for one in kept} == {"t": "test", "o": "train"}
    assert [one.id for one in dropped] == ["c"]


def test_no_set_is_drawn_of_silences_alone(make_utterance):
    """They have no error rate: of the smallest set, too, one clip has words."""
    data = [make_utterance("spoken", "una frase"), make_utterance("second", "un'altra")]
    data += [silence(make_utterance, f"s{i}") for i in range(30)]
    for seed in range(5):
        groups = by_split(split(data, seed=seed, test_per_language=1, dev_per_language=1)[0])
        assert groups["test"] | groups["dev"] == {"spoken", "second"}
