"""A version meets a test set once: what is kept, and what is said of it."""

from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from registry import Manifest, Version
from training.measure import LIBRARIES, decoding_of, measure, score


@pytest.fixture
def version(tmp_path, steady, monkeypatch):
    """Return a version whose engine hears the same everywhere: how a version is loaded is not the matter here."""
    monkeypatch.setattr("training.measure.load", lambda _: steady("text"))
    manifest = Manifest(
        name="tiny",
        version="v1",
        created_at=datetime.now(UTC),
        parent=None,
        base=None,
        context={},
        normalizer_version=None,
        files={},
    )
    return Version("tiny", "v1", tmp_path, manifest)


@pytest.fixture
def progress():
    """Return a progress that keeps what was begun, in its `begun`."""
    begun = []

    @contextmanager
    def show(what, total):
        begun.append((what, total))
        yield lambda _: None

    show.begun = begun
    return show


def test_a_second_scoring_reads_the_first_and_says_so(version, noise_clips, tmp_path, progress):
    """The test set is decoded once; the record says when, by what, how fast, and every hypothesis is kept."""
    clips, folder = noise_clips
    first = score(version, clips, folder, tmp_path, progress)
    again = score(version, clips, folder, tmp_path, progress)
    assert first.is_new
    assert str(first).startswith("scored now")
    assert not again.is_new
    assert "not again: a test set is scored once" in str(again)
    assert again.hypotheses == first.hypotheses
    assert [h.id for h in again.hypotheses] == [clip.id for clip in clips]
    assert again.record == first.record
    assert again.record.clips == 12
    assert again.record.speed > 0
    assert progress.begun == [("measuring tiny@v1", 12)]


def test_other_clips_are_another_test_set(version, noise_clips, tmp_path, progress):
    """One clip fewer is scored anew; so is another version on the same clips."""
    clips, folder = noise_clips
    score(version, clips, folder, tmp_path, progress)
    assert score(version, clips[:-1], folder, tmp_path, progress).is_new
    assert score(Version("tiny", "v2", version.path, version.manifest), clips, folder, tmp_path, progress).is_new


def test_speakers_that_come_to_be_known_are_heard_of(version, noise_clips, tmp_path, progress):
    """Failure: hypotheses that were kept without speakers are taken for those of clips that have some by now."""
    clips, folder = noise_clips
    score(version, clips, folder, tmp_path, progress)
    told = [clip.model_copy(update={"speaker": f"speaker {i % 3}"}) for i, clip in enumerate(clips)]
    again = score(version, told, folder, tmp_path, progress)
    assert again.is_new
    assert [h.speaker for h in again.hypotheses] == [clip.speaker for clip in told]


def test_what_other_code_decoded_is_measured_anew(version, noise_clips, tmp_path, progress, monkeypatch):
    """After an upgrade, production is heard again, as the candidate is heard: clips and guards."""
    clips, folder = noise_clips
    score(version, clips, folder, tmp_path, progress)
    measure(version, clips, {}, folder, 1, tmp_path, progress)
    monkeypatch.setattr("training.measure.DECODING", "upgraded")
    assert score(version, clips, folder, tmp_path, progress).is_new
    measure(version, clips, {}, folder, 1, tmp_path, progress)
    assert [what for what, _ in progress.begun] == ["measuring tiny@v1", "guards of tiny@v1"] * 2


def test_decoding_is_known_by_code_and_libraries(tmp_path, monkeypatch):
    """A line of code, or another CTranslate2, is another decoding; what is not installed is none."""
    source = tmp_path / "guard.py"
    source.write_text("THRESHOLD = 1.0")
    before = decoding_of([source])
    assert decoding_of([source], [*LIBRARIES, "no such library"]) == before
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda name: "99" if name == "ctranslate2" else "1")
        assert decoding_of([source]) != before
    source.write_text("THRESHOLD = 2.0")
    assert decoding_of([source]) != before


def test_scores_of_before_there_were_records_are_read(version, noise_clips, tmp_path, progress):
    """Hypotheses without a record beside them are taken, and only the time is not known."""
    clips, folder = noise_clips
    first = score(version, clips, folder, tmp_path, progress)
    first.path.with_name(first.path.name.replace(".jsonl.gz", ".json")).unlink()
    again = score(version, clips, folder, tmp_path, progress)
    assert (again.is_new, again.record, again.hypotheses) == (False, None, first.hypotheses)


def test_guards_are_measured_once_and_by_seed(version, noise_clips, tmp_path, progress):
    """The same clips, guards and seed are read again; another seed or guard is measured."""
    clips, folder = noise_clips
    first = measure(version, clips, {}, folder, 1, tmp_path, progress)
    assert measure(version, clips, {}, folder, 1, tmp_path, progress) == first
    assert len(progress.begun) == 1
    measure(version, clips, {"few": clips[:2]}, folder, 1, tmp_path, progress)
    assert len(progress.begun) == 2
    assert first.long_form == ()  # twelve short clips fill no window


def test_guards_are_measured_again_under_another_normaliser(version, noise_clips, tmp_path, progress, monkeypatch):
    """Errors that were counted by other rules are not compared with those of today."""
    clips, folder = noise_clips
    measure(version, clips, {}, folder, 1, tmp_path, progress)
    monkeypatch.setattr("training.measure.NORMALIZER_VERSION", "another")
    measure(version, clips, {}, folder, 1, tmp_path, progress)
    assert len(progress.begun) == 2
