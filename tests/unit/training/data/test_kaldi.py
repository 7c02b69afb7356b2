"""The promises of the Kaldi source."""

import numpy as np
import pytest

from training.data.manifest import load_audio
from training.data.sources.config import KaldiSource
from training.data.sources.kaldi import read_kaldi
from training.data.sources.rows import SourceError


@pytest.fixture
def make_directory(tmp_path):
    """Write a data directory's tables."""

    def make(**tables):
        folder = tmp_path / "train"
        folder.mkdir(exist_ok=True)
        for name, lines in tables.items():
            (folder / name.replace("_", ".")).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder

    return make


def read(folder, **settings):
    """Read a directory, its stretches beside it."""
    return read_kaldi(KaldiSource(path=folder, **{"language": "it", **settings}), folder.parent / "clips")


def test_segments_are_cut_out_of_their_recordings(tmp_path, make_directory, write_noise):
    """Text, speaker and stretch are put together by the utterance's name; an end of -1 is the recording's."""
    samples = write_noise(tmp_path / "train" / "wav" / "rec1.wav", 35.0)
    folder = make_directory(
        wav_scp=["rec1 wav/rec1.wav"],
        text=["utt2 seconda frase", "utt1\tprima frase"],
        segments=["utt1 rec1 0.50 2.75", "utt2 rec1 33.0 -1"],
        utt2spk=["utt1 anna", "utt2 bruno"],
    )
    utterances, dropped = read(folder)
    assert not dropped
    assert [(u.id, u.text, u.speaker) for u in utterances] == [
        ("train/utt1", "prima frase", "anna"),
        ("train/utt2", "seconda frase", "bruno"),
    ]
    for utterance, start, end in zip(utterances, (8000, 528_000), (44_000, 560_000), strict=True):
        np.testing.assert_array_equal(np.rint(load_audio(utterance, tmp_path) * 32768), samples[start:end])


def test_without_segments_a_recording_is_an_utterance(tmp_path, make_directory, write_noise):
    """The file itself is used, and `utt2lang` goes before the source's language."""
    write_noise(tmp_path / "train" / "a.wav", 0.5)
    write_noise(tmp_path / "train" / "b b.wav", 0.5, seed=1)
    folder = make_directory(wav_scp=["a a.wav", "b b b.wav"], text=["a ciao", "b привет"], utt2lang=["b ru-RU"])
    utterances, dropped = read(folder)
    assert not dropped
    assert [(u.id, u.language, u.audio.path) for u in utterances] == [
        ("train/a", "it", str(folder / "a.wav")),
        ("train/b", "ru", str(folder / "b b.wav")),
    ]


@pytest.mark.parametrize(
    "where", ["sph2pipe -f wav a.sph |", "touch pwned |", "| cat", "touch pwned|", "raw.ark:1234", "/data/raw.ark:5"]
)
def test_commands_and_archives_are_refused(tmp_path, make_directory, monkeypatch, where):
    """Failure: a pipe in wav.scp runs whatever a data set's maker wrote. Here it is an error, and nothing runs."""
    monkeypatch.chdir(tmp_path)
    folder = make_directory(wav_scp=[f"a {where}"], text=["a ciao"])
    with pytest.raises(SourceError, match=r"wav\.scp: a is a (command|place in an archive)"):
        read(folder)
    assert not (tmp_path / "pwned").exists()


def test_what_does_not_fit_together_is_dropped_with_its_reason(tmp_path, make_directory, write_noise):
    """No text, no segment, no recording, no file, outside the root: each is reported, and the rest is read."""
    write_noise(tmp_path / "train" / "a.wav", 3.0)
    write_noise(tmp_path / "secret.wav", 3.0)
    folder = make_directory(
        wav_scp=["r1 a.wav", "r2 absent.wav", "r3 ../secret.wav"],
        text=["good ciao a tutti", "u-segment ciao", "u-recording ciao", "u-file ciao", "u-root ciao", "u-empty"],
        segments=[
            "good r1 0 1",
            "u-text r1 0 1",
            "u-recording r9 0 1",
            "u-file r2 0 1",
            "u-root r3 0 1",
            "u-empty r1 1 2",
        ],
    )
    utterances, dropped = read(folder)
    assert [u.id for u in utterances] == ["train/good"]
    assert {row.id.removeprefix("train/"): row.reason for row in dropped} == {
        "u-text": "no_transcript",
        "u-segment": "missing_segment",
        "u-recording": "missing_file",
        "u-file": "missing_file",
        "u-root": "outside_root",
        "u-empty": "empty_text",
    }


@pytest.mark.parametrize(
    ("table", "lines", "message"),
    [
        ("segments", ["u1 r1 0"], "not a recording, its start and its end"),
        ("segments", ["u1 r1 zero 1"], "not a recording, its start and its end"),
        ("segments", ["u1 r1 nan 1"], "not seconds"),
        ("text", ["u1 ciao", "u1 altro"], "'u1' comes twice"),
    ],
)
def test_a_broken_table_is_named(make_directory, table, lines, message):
    """The error says which table, and which line."""
    folder = make_directory(**{"wav_scp": ["r1 a.wav"], "text": ["u1 ciao"], table: lines})
    with pytest.raises(SourceError, match=message) as caught:
        read(folder)
    assert str(folder / table) in str(caught.value)


def test_a_directory_without_tables_is_named(tmp_path):
    """What is no data directory is an error that names what is missing."""
    with pytest.raises(SourceError, match=r"wav\.scp"):
        read(tmp_path)


def test_another_root_is_where_paths_start(tmp_path, make_directory, write_noise):
    """Paths relative to a corpus elsewhere are found with `root`, and absolute ones below it, too."""
    write_noise(tmp_path / "corpus" / "a.wav", 0.5)
    write_noise(tmp_path / "corpus" / "b.wav", 0.5, seed=1)
    folder = make_directory(wav_scp=["a a.wav", f"b {tmp_path}/corpus/b.wav"], text=["a ciao", "b bene"])
    assert len(read(folder, root=tmp_path / "corpus")[0]) == 2
    assert not read(folder)[0]
