"""What no gain makes up for: each refusal, and that nothing else is refused."""

import json
from datetime import UTC, datetime

import pytest

from registry import FileEntry, Manifest, Version
from training.data.manifest import FINGERPRINT_FORMAT, AudioSlice, Utterance
from training.evaluate import Hypothesis
from training.gate import Bounds
from training.parity import Parity
from training.refusals import data_fingerprint, of_changed_recipe, of_hypotheses, of_overlap, of_version


def heard(*texts, reference="uno due tre quattro", language="it"):
    """Return hypotheses for as many sentences of five words."""
    return [
        Hypothesis(id=str(i), language=language, reference=f"{reference} {i}", hypothesis=text.replace("#", str(i)))
        for i, text in enumerate(texts)
    ]


GOOD = "uno due tre quattro #"


def clip(name, text="ciao a tutti", *, sha="0", offset=0.0, duration=2.0, language="it"):
    """Return an utterance whose audio nobody opens."""
    audio = AudioSlice(path=f"{name}.wav", offset=offset, duration=duration, sha256=sha * 64)
    return Utterance(id=name, audio=audio, text=text, language=language, source="test")


def test_nothing_wrong_is_nothing_said():
    """A candidate that answers, with fewer errors than words, and no worse than untrained, is not refused."""
    assert of_hypotheses(heard(GOOD, "uno"), heard(GOOD, GOOD), heard(GOOD, "uno")) == []


def test_failure_3_more_errors_than_words_are_refused():
    """Failure 3 of research: a WER over 100 %, as of a wrong language token, is refused, and the language named."""
    loop = "the the the the the the the the the the the the"
    (reason,) = of_hypotheses(heard(GOOD), heard(loop), None)
    assert reason.startswith("it: 240% of the words are wrong")


def test_worse_than_no_training_at_all_is_refused():
    """Better than production is not enough, where the model that training began with is better still."""
    base, candidate = heard("no no no no no"), heard("uno no no no no")
    (reason,) = of_hypotheses(base, candidate, heard(GOOD))
    assert "0.800 is worse than the 0.000 of the model that training began with" in reason


def test_answers_of_nothing_are_refused():
    """More empty answers than production gives, by more than one clip and 1 %, are refused; one more is chance."""
    base = heard(*[GOOD] * 50)
    assert of_hypotheses(base, heard(*[GOOD] * 49, ""), None) == []
    (reason,) = of_hypotheses(base, heard(*[GOOD] * 48, "", " "), None)
    assert reason == "2 of 50 clips are answered with nothing; production does so with 0"
    assert of_hypotheses(heard(*[GOOD] * 48, "", ""), heard(*[GOOD] * 48, "", ""), None) == []


@pytest.mark.parametrize(
    ("train", "what"),
    [
        (clip("a", "Ciao, a tutti!", sha="1"), "a sentence"),
        (clip("a", "altro", sha="0", offset=1.5), "audio"),
    ],
)
def test_failure_39_a_test_that_was_trained_on_is_refused(train, what):
    """Failure 39 of research: the same sentence, however written, or a second of the same recording is an overlap."""
    (reason,) = of_overlap([train], [clip("b"), clip("c", "altre parole", sha="2")])
    assert reason == f"1 of 2 test clips have {what} that was trained on, such as b"


def test_silences_are_no_overlap():
    """Nothing is said in both, which is no sentence that was trained on; the same sound is."""
    silent = {"text": "", "no_speech": True}
    train, other = (clip(name, sha=sha).model_copy(update=silent) for name, sha in (("a", "1"), ("b", "2")))
    assert of_overlap([train], [other]) == []
    assert of_overlap([train], [train.model_copy(update={"id": "c"})])


def test_other_speech_is_no_overlap():
    """The same words in another language, and another stretch of the same recording, are other data."""
    train = [clip("a", "altro", sha="0", offset=2.0), clip("d", language="es", sha="3")]
    assert of_overlap(train, [clip("b")]) == []


def version(folder, files, **records):
    """Return a version with empty files and the given JSON records; nothing is published."""
    for name, content in records.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    entry = FileEntry(size=0, sha256="0" * 64)
    names = [*files, *(f"{name}.json" for name in records)]
    manifest = Manifest(
        name="m",
        version="v",
        created_at=datetime.now(UTC),
        parent=None,
        base=None,
        context={},
        normalizer_version=None,
        files=dict.fromkeys(names, entry),
    )
    return Version("m", "v", folder, manifest)


WHOLE = ("model.safetensors", "ctranslate2/model.bin")
SAME = Parity(clips=64, same=1.0, difference=Bounds(value=0, low=0, high=0)).model_dump()


def of_data(fingerprint):
    """Return what a version says of its data."""
    return {"fingerprint": fingerprint, "fingerprint_format": FINGERPRINT_FORMAT}


def test_a_whole_version_is_fine(tmp_path):
    """Safetensors, an export with parity, and the fingerprints that were expected: no reason, and no note."""
    made = version(tmp_path, WHOLE, metrics={"parity": SAME, "test": {"fingerprint": "t"}}, data=of_data("d"))
    assert of_version(made, test="t", data="d") == ([], [])
    assert data_fingerprint(made) == "d"


def test_what_is_no_safetensors_is_refused(tmp_path):
    """A checkpoint in a format that runs code is refused; CTranslate2's model.bin is none."""
    reasons, _ = of_version(version(tmp_path, ["pytorch_model.bin", "ctranslate2/model.bin"]))
    assert reasons == [
        "the weights are not in safetensors",
        "pytorch_model.bin is in a format that can run code when it is loaded",
    ]


def test_failure_33_an_export_that_says_something_else_is_refused(tmp_path):
    """Failure 33 of research: parity that does not hold is refused; parity that was not recorded is noted."""
    broken = {**SAME, "same": 0.5}
    (reason,), _ = of_version(version(tmp_path, WHOLE, metrics={"parity": broken}))
    assert "the checkpoint's words on 50% of 64 clips" in reason
    reasons, (note,) = of_version(version(tmp_path, WHOLE))
    assert reasons == []
    assert "not recorded" in note


def test_other_data_than_the_versions_own_are_refused(tmp_path):
    """A test set or data with another fingerprint than the version's are not what it says that it was made from."""
    made = version(tmp_path, WHOLE, metrics={"parity": SAME, "test": {"fingerprint": "t"}}, data={"fingerprint": "d"})
    reasons, _ = of_version(made, test="other", data="another")
    assert reasons == [
        "the version's own test set has the fingerprint t, and this is other",
        "the version's own data has the fingerprint d, and this is another",
    ]
    assert of_version(made)[0] == []


def test_a_recipe_whose_test_set_has_grown(tmp_path):
    """The clips that are new in it were trained on; a version that does not say what it was made from may be judged."""
    made = version(tmp_path, WHOLE, data=of_data("abc"))
    assert of_changed_recipe(made, "abc") == []
    assert "train again" in of_changed_recipe(made, "def")[0]
    older = version(tmp_path, WHOLE, data={"fingerprint": "def of other rows"})  # by the rules of before
    assert of_changed_recipe(older, "abc") == []
    (tmp_path / "data.json").unlink()
    assert of_changed_recipe(version(tmp_path, WHOLE), "def") == []
