"""What the splits share, each kind of leak planted alone."""

import pytest

from training.lint.leakage import check_splits


def codes_of(findings):
    """Return code → ids."""
    return {one.code: list(one.ids) for one in findings}


def test_clean_splits_have_no_finding(clips):
    """Different sentences of different speakers, licensed: nothing to say."""
    assert codes_of(check_splits(clips(24))) == {}


def test_the_same_audio_in_train_and_test_is_an_error(clips, utterance):
    """Equal bytes leak, whatever the transcript says."""
    audio = {"audio": {"sha256": "a" * 64}}
    leak = [utterance("x", "Uno due.", **audio), utterance("y", "Tre quattro.", split="test", **audio)]
    (found,) = check_splits([*clips(24), *leak])
    assert (found.code, found.level, found.ids) == ("same_audio_across_splits", "error", ("y",))


def test_stretches_of_one_recording_leak_where_they_overlap(clips, utterance):
    """Overlapping stretches are the same audio; others are a warning that the recording is on both sides."""

    def stretch(name, offset, split):
        return utterance(
            name, f"Frase {name}.", split=split, audio={"sha256": "a" * 64, "offset": offset, "duration": 5.0}
        )

    found = codes_of(
        check_splits([*clips(24), stretch("a", 0.0, "train"), stretch("b", 4.0, "test"), stretch("c", 9.0, "dev")])
    )
    assert found == {"same_audio_across_splits": ["b"], "recording_across_splits": ["c"]}


def test_the_same_sentence_of_the_same_speaker_is_an_error(clips, utterance):
    """Another recording of it is no new test."""
    leak = [
        utterance("x", "Ci vediamo domani.", speaker="Anna"),
        utterance("y", "ci vediamo domani", speaker="Anna", split="test"),
    ]
    found = codes_of(check_splits([*clips(24), *leak]))
    assert found == {"same_sentence_and_speaker_across_splits": ["y"], "speaker_across_splits": ["y"]}


def test_silences_say_nothing_that_could_leak(clips, utterance):
    """Two clips in which one and the same person does not speak are two clips, wherever they are."""
    quiet = [utterance(name, "", no_speech=True, split=split) for name, split in (("x", "train"), ("y", "dev"))]
    assert codes_of(check_splits([*clips(24), *quiet])) == {}
    said = [one.model_copy(update={"speaker": "Anna"}) for one in quiet]
    assert "same_sentence_and_speaker_across_splits" not in codes_of(check_splits([*clips(24), *said]))


def test_the_same_sentence_of_others_is_a_warning(clips, utterance):
    """Another voice says it: easier than a new sentence, but no copy."""
    leak = [utterance("x", "Ci vediamo domani."), utterance("y", "Ci vediamo, domani!", split="dev")]
    (found,) = check_splits([*clips(24), *leak])
    assert (found.code, found.level, found.ids) == ("same_sentence_across_splits", "warning", ("y",))


def test_a_sentence_that_differs_in_a_word_is_named(clips, utterance):
    """Substituted, added or left-out words are seen; two words, or a word elsewhere, are too far."""
    train = utterance("t", "Prema il tasto uno per continuare.")
    held = {
        "substituted": "Prema il tasto due per continuare.",
        "added": "Prema il tasto uno per continuare ora.",
        "left out": "Prema il tasto per continuare.",
        "two": "Prema il tasto due per finire.",
        "moved": "Il tasto uno per continuare prema.",
    }
    data = [*clips(24), train, *(utterance(name, text, split="test") for name, text in held.items())]
    (found,) = check_splits(data)
    assert found.code == "similar_sentence_across_splits"
    assert set(found.ids) == {"substituted", "added", "left out"}
    assert "prema il tasto uno per continuare" in found.details[0]


def test_a_speaker_on_both_sides_is_an_error_where_there_are_several(clips):
    """With several speakers to choose from, a split that mixes them tells nothing of new ones."""
    mixed = [u.model_copy(update={"speaker": f"s{i % 5}"}) for i, u in enumerate(clips(40))]
    (found,) = check_splits(mixed)
    assert (found.code, found.level) == ("speaker_across_splits", "error")
    assert "5 of 5 speakers" in found.what
    assert all(not u.id or u.split != "train" for u in mixed if u.id in found.ids)


@pytest.mark.parametrize(
    ("splits", "drawn", "code", "level"),
    [
        (("train", "test"), [], "speaker_across_splits", "error"),
        (("dev", "test"), ["ru"], "speaker_across_splits", "error"),
        (("train", "test"), ["it"], "speakers_mixed", "warning"),
        (("train", "dev"), [], "dev_speakers", "warning"),
    ],
)
def test_where_speakers_are_on_both_sides_matters(utterance, splits, drawn, code, level):
    """Scores are of test, and dev chooses only; what a run drew itself, it kept apart where it could."""
    mixed = [
        utterance(f"{who}-{n}", f"frase {who} {n}", speaker=f"s{who}", split=splits[n % 2])
        for who in range(3)
        for n in range(8)
    ]
    codes = {"speakers_mixed", "speaker_across_splits", "dev_speakers"}
    [found] = [found for found in check_splits(mixed, drawn) if found.code in codes]
    assert (found.code, found.level) == (code, level)
    assert "3 of 3 speakers" in found.what


def test_a_language_with_one_speaker_is_a_warning(clips):
    """Who has one speaker can train all the same, and is told what the score means."""
    alone = [u.model_copy(update={"speaker": "Carlo"}) for u in clips(24)]
    (found,) = check_splits(alone)
    assert (found.code, found.level, found.where) == ("single_speaker", "warning", "it")


def test_clips_without_speaker_are_a_warning(clips):
    """What cannot be checked is said."""
    nameless = [u.model_copy(update={"speaker": None}) if i == 3 else u for i, u in enumerate(clips(24))]
    assert codes_of(check_splits(nameless)) == {"unknown_speakers": ["it3"]}


def test_a_speaker_with_most_of_the_audio_is_named(clips):
    """Half of the training audio of one voice is said with its share."""
    train = [u.model_copy(update={"speaker": "Anna"}) if u.split == "train" and i % 4 else u
             for i, u in enumerate(clips(24))]  # fmt: skip
    (found,) = check_splits(train)
    assert found.code == "dominant_speaker"
    assert "Anna: " in found.what


def test_a_clip_without_split_is_an_error(clips):
    """Nobody knows whether to train on it."""
    unsplit = [u.model_copy(update={"split": None}) if i == 0 else u for i, u in enumerate(clips(24))]
    assert codes_of(check_splits(unsplit)) == {"no_split": ["it0"]}


def test_a_language_without_test_clips_is_an_error(clips):
    """What is not held out cannot be judged."""
    found = list(check_splits([*clips(24), *clips(8, "ru", split="train")]))
    assert [(one.code, one.level, one.where) for one in found] == [
        ("empty_split", "error", "ru dev"),
        ("empty_split", "error", "ru test"),
    ]


def test_copies_within_a_split_and_missing_licences_are_warnings(clips, utterance):
    """A copy only weighs twice; a missing licence may forbid to publish."""
    audio = {"audio": {"sha256": "b" * 64, "duration": 2.0}}
    extra = [utterance("x", "Uno due.", **audio), utterance("y", "Due tre.", licence=None, **audio)]
    found = {one.code: one for one in check_splits([*clips(24), *extra])}
    assert {code: (one.level, one.ids) for code, one in found.items()} == {
        "duplicate_audio": ("warning", ("y",)),
        "unknown_licence": ("warning", ("y",)),
    }
