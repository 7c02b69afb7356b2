"""The promises of the NeMo source, and of the checks of stretches that all sources share."""

import json

import numpy as np
import pytest

from speech.audio import decode_audio
from training.data.manifest import load_audio
from training.data.sources.config import NemoSource
from training.data.sources.nemo import read_nemo
from training.data.sources.rows import SourceError


def write_manifest(folder, *lines):
    """Write a manifest; what is no text is written as JSON."""
    path = folder / "train.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def read(path, **settings):
    """Read a manifest, its stretches beside it."""
    source = NemoSource(path=path, **{"language": "it", **settings})
    return read_nemo(source, path.parent / "clips")


def test_offset_and_duration_cut_the_stretch_out(tmp_path, write_noise):
    """Each line of one long file gets its own samples, with no other decoding than of its own clip."""
    samples = write_noise(tmp_path / "long.wav", 40.0)
    lines = [
        {"audio_filepath": "long.wav", "offset": offset, "duration": 2.5, "text": f"frase {offset}"}
        for offset in (0.0, 1.25, 30.0)
    ]
    utterances, dropped = read(write_manifest(tmp_path, *lines))
    assert not dropped
    assert [u.id for u in utterances] == ["train/long.wav", "train/long.wav@1.25", "train/long.wav@30"]
    for utterance, line in zip(utterances, lines, strict=True):
        assert utterance.text == line["text"]
        assert utterance.audio.duration == 2.5
        start = round(16_000 * line["offset"])
        heard = np.rint(load_audio(utterance, tmp_path) * 32768)
        np.testing.assert_array_equal(heard, samples[start : start + 40_000])
    assert len({u.audio.sha256 for u in utterances}) == 3


def test_a_whole_file_is_not_copied(tmp_path, write_noise):
    """A line that means its file from end to end, its duration rounded as NeMo's are, points at the file itself."""
    write_noise(tmp_path / "a.wav", 1.234)
    utterances, _ = read(write_manifest(tmp_path, {"audio_filepath": "a.wav", "duration": 1.23, "text": "ciao"}))
    assert utterances[0].audio.path == str(tmp_path / "a.wav")
    assert utterances[0].audio.duration == pytest.approx(1.234)
    assert not (tmp_path / "clips").exists()


def test_a_line_names_language_and_speaker(tmp_path, write_noise):
    """`lang` goes before the source's language, and locales are cut to Whisper's codes."""
    write_noise(tmp_path / "a.wav", 0.1)
    write_noise(tmp_path / "b.wav", 0.1, seed=1)
    lines = [
        {"audio_filepath": "a.wav", "duration": 0.1, "text": "привет", "lang": "ru-RU", "speaker": 17},
        {"audio_filepath": "b.wav", "duration": 0.1, "text": "ciao"},
    ]
    utterances, _ = read(write_manifest(tmp_path, *lines))
    assert [(u.language, u.speaker) for u in utterances] == [("ru", "17"), ("it", None)]


def test_absolute_paths_stay_below_the_root(tmp_path, write_noise):
    """Failure: a manifest from elsewhere names any file of this machine. It reads those below its root alone."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_noise(folder / "in.wav", 0.1)
    write_noise(tmp_path / "out.wav", 0.1, seed=1)
    (folder / "link.wav").symlink_to(tmp_path / "out.wav")
    names = [str(folder / "in.wav"), str(tmp_path / "out.wav"), "../out.wav", "link.wav"]
    manifest = write_manifest(folder, *({"audio_filepath": n, "duration": 0.1, "text": "ciao"} for n in names))
    utterances, dropped = read(manifest)
    assert [u.id for u in utterances] == ["train/in.wav"]
    assert {row.reason for row in dropped} == {"outside_root"}
    assert len(dropped) == 3
    assert len(read(manifest, root=tmp_path)[0]) == 2


def test_every_unusable_line_is_dropped_with_its_reason(tmp_path, write_noise):
    """Broken, endless, beyond the end, too long, wordless: each has its code, and nothing replaces it."""
    write_noise(tmp_path / "a.wav", 40.0)
    write_noise(tmp_path / "b.wav", 1.0)
    (tmp_path / "noise.wav").write_bytes(b"RIFF no audio at all" * 50)
    a, b = {"audio_filepath": "a.wav", "text": "ciao"}, {"audio_filepath": "b.wav", "text": "ciao"}
    lines = {
        "no json": "malformed_row",
        "[]": "malformed_row",
        '{"text": "ciao"}': "malformed_row",
        json.dumps({**a, "offset": "1"}): "malformed_row",
        json.dumps({**a, "offset": -1}): "malformed_row",
        json.dumps({**a, "duration": float("nan")}): "malformed_row",
        json.dumps({**a, "offset": 1, "duration": 0}): "malformed_row",
        json.dumps({**a, "offset": 39, "duration": 5}): "beyond_end",
        json.dumps({**a, "offset": 41, "duration": 1}): "beyond_end",
        json.dumps({**b, "duration": 9}): "beyond_end",
        json.dumps({**a, "offset": 2, "duration": 30.5}): "too_long",
        json.dumps({**a, "offset": 3}): "too_long",
        json.dumps({**a, "offset": 4, "duration": 1, "text": " … "}): "empty_text",
        json.dumps({**a, "audio_filepath": "absent.wav", "offset": 1, "duration": 1}): "missing_file",
        json.dumps({**a, "audio_filepath": "noise.wav", "offset": 1, "duration": 1}): "undecodable",
        json.dumps({**a, "audio_filepath": "noise.wav", "duration": 1, "text": "b"}): "undecodable",
    }
    good = json.dumps({**a, "offset": 39.25, "duration": 1})  # ends with the file, half a second before it says
    utterances, dropped = read(write_manifest(tmp_path, *lines, good))
    assert [(u.id, u.audio.duration) for u in utterances] == [("train/a.wav@39.25", 0.75)]
    assert sorted(row.reason for row in dropped) == sorted(lines.values())
    assert not any(row.by_source_rule for row in dropped)


def test_a_second_reading_cuts_nothing(tmp_path, write_noise):
    """Clips are there once: a run that goes on finds them and says the same."""
    write_noise(tmp_path / "a.wav", 5.0)
    manifest = write_manifest(tmp_path, {"audio_filepath": "a.wav", "offset": 1, "duration": 2, "text": "ciao"})
    first = read(manifest)
    [clip] = (tmp_path / "clips").rglob("*.flac")
    written = clip.stat().st_mtime_ns
    assert read(manifest) == first
    assert clip.stat().st_mtime_ns == written
    assert decode_audio(clip).size == 32_000


def test_tarred_shards_are_refused(tmp_path):
    """What lies inside an archive is not looked for beside the manifest."""
    manifest = write_manifest(tmp_path, {"audio_filepath": "a.wav", "shard_id": 3, "duration": 1, "text": "ciao"})
    with pytest.raises(SourceError, match="tarred shards"):
        read(manifest)


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    """The error names the file."""
    with pytest.raises(SourceError, match=r"absent\.jsonl"):
        read(tmp_path / "absent.jsonl")
