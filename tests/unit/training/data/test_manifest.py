"""The promises of the utterance manifest."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

import training
from speech.audio import SAMPLE_RATE, AudioError
from training.data.manifest import (
    AudioSlice,
    ManifestError,
    Segment,
    Utterance,
    fingerprint,
    load_audio,
    read_manifest,
    write_manifest,
)


def test_a_manifest_survives_the_round_trip(tmp_path):
    """Every field comes back as it was written, line separators inside a text included."""
    utterance = Utterance(
        id="één",
        audio=AudioSlice(path="clips/a.wav", offset=1.5, duration=2.25, sha256="0" * 64),
        text='più\u2028«тест» "x"',
        language="yue",
        speaker="anna",
        sentence_id="s-17",
        split="dev",
        segments=(Segment(start=0.0, end=1.0, text="più"),),
        prev_text="prima",
        source="test",
        weight=2.5,
        licence="CC0-1.0",
    )
    path = tmp_path / "new" / "manifest.jsonl"
    write_manifest(path, [utterance])
    assert read_manifest(path) == [utterance]
    assert "più" in path.read_text(encoding="utf-8")


def test_the_optional_fields_are_optional(tmp_path):
    """A hand-written line needs id, audio, text, language and source only."""
    line = {
        "id": "a",
        "audio": {"path": "a.wav", "duration": 1, "sha256": "0" * 64},
        "text": "ciao",
        "language": "it",
        "source": "mine",
    }
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(line) + "\n\n")
    [utterance] = read_manifest(path)
    assert utterance.audio.offset == 0
    assert utterance.split is utterance.speaker is utterance.segments is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"language": "Italian"}, "line 2: language:"),
        ({"split": "validation"}, "line 2: split:"),
        ({"text": ""}, "line 2: text:"),
        ({"text": None}, "line 2: text:"),
        ({"no_speech": True}, "line 2: text:"),
        ({"weight": 0}, "line 2: weight:"),
        ({"colour": "red"}, "line 2: colour: Extra inputs"),
        ({"audio": {"path": "a.wav", "duration": 0, "sha256": "0" * 64}}, "line 2: audio.duration:"),
        ({"audio": {"path": "a.wav", "duration": 1, "sha256": "x"}}, "line 2: audio.sha256:"),
        ({"audio": {"path": "a.wav", "duration": 1, "offset": -1, "sha256": "0" * 64}}, "audio.offset:"),
        ({"id": "a"}, "line 2: id: 'a' is already on line 1"),
    ],
)
def test_a_bad_line_is_named_by_number_and_field(tmp_path, make_utterance, change, message):
    """The error says where to look: line and field."""
    good = make_utterance("a")
    bad = json.loads(make_utterance("b").model_dump_json()) | change
    path = tmp_path / "m.jsonl"
    path.write_text(good.model_dump_json() + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("line", [b"{", b"[]", b'"a"', b"\xff\xfe"])
def test_what_is_no_json_object_is_named_by_line(tmp_path, line):
    """A broken line is a manifest error, not a crash of the JSON reader."""
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\n" + line + b"\n")
    with pytest.raises(ManifestError, match="line 2"):
        read_manifest(path)


def test_utterances_do_not_change(make_utterance):
    """An utterance is a value: nobody edits it in place."""
    with pytest.raises(ValidationError):
        make_utterance().text = "altro"


def test_paths_below_the_manifest_are_relative_and_others_absolute(tmp_path, make_utterance):
    """A data folder can be moved as a whole; audio elsewhere is still found."""
    folder = tmp_path / "data"
    inside = make_utterance("in", path=str(folder / "clips" / "a.wav"))
    outside = make_utterance("out", path=str(tmp_path / "data2" / "b.wav"))
    write_manifest(folder / "m.jsonl", [inside, outside])
    paths = [utterance.audio.path for utterance in read_manifest(folder / "m.jsonl")]
    assert paths == ["clips/a.wav", str(tmp_path / "data2" / "b.wav")]


def test_a_failed_write_leaves_the_old_manifest_and_nothing_else(tmp_path, make_utterance):
    """Writing is all or nothing."""
    path = tmp_path / "m.jsonl"
    write_manifest(path, [make_utterance("a")])

    def failing():
        yield make_utterance("b")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        write_manifest(path, failing())
    assert [utterance.id for utterance in read_manifest(path)] == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_fingerprint_ignores_the_order(make_utterance):
    """The same utterances in another order are the same data set."""
    data = [make_utterance(name) for name in "abc"]
    assert fingerprint(data) == fingerprint(data[::-1])


def test_silence_has_no_text(tmp_path, make_utterance):
    """An utterance in which nobody speaks says so, and is read back as it was written."""
    silence = make_utterance().model_copy(update={"text": "", "no_speech": True})
    write_manifest(tmp_path / "m.jsonl", [silence])
    assert read_manifest(tmp_path / "m.jsonl") == [silence]


@pytest.mark.parametrize(
    "change",
    [
        {"id": "z"},
        {"text": "altro"},
        {"split": "test"},
        {"sha256": "f" * 64},
        {"language": "ru"},
        {"offset": 0.5},
        {"duration": 0.5},
    ],
)
def test_the_fingerprint_changes_with_the_data(make_utterance, change):
    """Each of id, stretch of audio, text, language and split is part of what a data set is."""
    before = {"id": "a", "text": "ciao", "split": "train", "sha256": "0" * 64}
    assert fingerprint([make_utterance(**before)]) != fingerprint([make_utterance(**before | change)])


@pytest.mark.parametrize(
    "change",
    [
        {"weight": 2.0},
        {"prev_text": "prima"},
        {"segments": (Segment(start=0, end=1, text="ciao"),)},
        {"speaker": "Ada"},
        {"source": "other"},
    ],
)
def test_the_fingerprint_changes_with_what_is_made_of_it(make_utterance, change):
    """Weights, times, speakers, sources and what was said before change a run or an interval, and the fingerprint."""
    utterance = make_utterance()
    assert fingerprint([utterance]) != fingerprint([utterance.model_copy(update=change)])


def test_the_fingerprint_ignores_where_the_audio_lies(make_utterance):
    """Moving the files makes no new data set."""
    assert fingerprint([make_utterance(path="a.wav")]) == fingerprint([make_utterance(path="b.wav")])


def test_audio_is_cut_to_the_slice(tmp_path, write_wav, make_utterance):
    """Offset and duration cut exactly that stretch out of the file."""
    write_wav(tmp_path / "clips" / "long.wav", 1.0)
    whole = load_audio(make_utterance(path="clips/long.wav", duration=1.0), tmp_path)
    cut = load_audio(make_utterance(path="clips/long.wav", offset=0.25, duration=0.5), tmp_path)
    assert whole.shape == (SAMPLE_RATE,)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(cut, whole[SAMPLE_RATE // 4 : 3 * SAMPLE_RATE // 4])


def test_a_slice_beyond_the_end_is_refused(tmp_path, write_wav, make_utterance):
    """A file shorter than its manifest says is an error, not a shorter clip."""
    write_wav(tmp_path / "a.wav", 0.5)
    with pytest.raises(ValueError, match=r"a\.wav lasts 0\.50 s"):
        load_audio(make_utterance("a", offset=0.1, duration=1.0), tmp_path)


def test_audio_that_is_none_is_an_audio_error(tmp_path, make_utterance):
    """What cannot be decoded is reported by `speech`, not hidden."""
    (tmp_path / "a.wav").write_bytes(b"not audio")
    with pytest.raises(AudioError):
        load_audio(make_utterance("a"), tmp_path)


def test_reading_and_writing_again_changes_no_byte(tmp_path, make_utterance):
    """A manifest that is read and written back is the same file."""
    path = tmp_path / "m.jsonl"
    write_manifest(path, [make_utterance(name, split="train") for name in "cab"])
    before = path.read_bytes()
    write_manifest(path, read_manifest(path))
    assert path.read_bytes() == before


def test_failure_42_no_processes_of_the_data_library_that_could_hang():
    """`num_proc` has hung on many a machine: clips are checked in threads, and only torch's loader has processes."""
    sources = (Path(training.__file__).parent).rglob("*.py")
    assert [path.name for path in sources if re.search(r"\bnum_proc\b|multiprocessing", path.read_text())] == []
