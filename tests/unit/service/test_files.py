"""Which files are transcribed, where the transcripts go, and which are there already."""

import json
import os

import pytest

from service.files import SUFFIXES, Input, declared_seconds, find, is_done, outputs, render, write
from speech.audio import AudioError
from speech.subtitles import Layout
from speech.transcribe import Segment, Transcription


@pytest.fixture
def folder(tmp_path):
    """Make a folder of recordings and other things."""
    for name in ("a.wav", "b.MP3", "notes.txt", "sub/c.opus", ".hidden/d.wav", "sub/.e.wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def said(text="Sì."):
    """Make a transcript of one segment."""
    segment = Segment(0, 0.0, 1.0, text, avg_logprob=-0.1, no_speech_prob=0.0, compression_ratio=1.0, tokens=(5, 6))
    return Transcription(text=text, language="it", duration=1.00004, segments=(segment,))


def names(inputs, folder):
    """Name inputs by their place in a folder."""
    return [one.path.relative_to(folder).as_posix() for one in inputs]


def test_a_folder_is_all_audio_and_video_below_it(folder):
    """In their order; what is hidden, and what is neither, is left out."""
    found, errors = find([str(folder)])
    assert names(found, folder) == ["a.wav", "b.MP3", "sub/c.opus"]
    assert errors == []


def test_a_file_that_is_named_is_tried_whatever_it_is_called(folder):
    """The user knows."""
    found, _ = find([str(folder / "notes.txt")])
    assert names(found, folder) == ["notes.txt"]


def test_patterns_are_expanded(folder):
    """Also where no shell does it, and below folders; a name with brackets in it is a name."""
    assert names(find([str(folder / "**/*.opus")])[0], folder) == ["sub/c.opus"]
    (folder / "x[1].wav").touch()
    assert names(find([str(folder / "x[1].wav")])[0], folder) == ["x[1].wav"]


def test_each_file_is_transcribed_once(folder, monkeypatch):
    """However often and by whatever name it is given."""
    monkeypatch.chdir(folder)
    assert len(find(["a.wav", str(folder / "a.wav"), "*.wav", "./sub/../a.wav"])[0]) == 1


def test_what_is_not_there_is_said(folder):
    """By the name that was given."""
    (folder / "empty").mkdir()
    found, errors = find([str(folder / "x.wav"), str(folder / "empty"), str(folder / "*.flac")])
    assert found == []
    assert [str(error) for error in errors] == [
        f"there is no {folder}/x.wav",
        f"no audio or video files in {folder}/empty",
        f"there is no {folder}/*.flac",
    ]


def test_transcripts_go_beside_their_files(folder):
    """Under the file's name, with the format's ending."""
    places, _ = outputs(find([str(folder / "a.wav")])[0], list(SUFFIXES), None)
    assert [path.relative_to(folder).as_posix() for paths in places.values() for path in paths.values()] == [
        *("a.txt", "a.json", "a.srt", "a.vtt", "a.tsv", "a.verbose.json")
    ]


def test_an_output_folder_keeps_subfolders(folder, tmp_path):
    """Two files of one name in two folders are two transcripts."""
    (folder / "c.opus").touch()
    places, errors = outputs(find([str(folder)])[0], ["srt"], tmp_path / "out")
    made = [paths["srt"].relative_to(tmp_path / "out").as_posix() for paths in places.values()]
    assert (made, errors) == (["a.srt", "b.srt", "c.srt", "sub/c.srt"], [])


def test_no_transcript_overwrites_another(folder):
    """The second of two that would be one file is refused, and the message names the first."""
    (folder / "a.mp4").touch()
    places, (error,) = outputs(find([str(folder / "a.*")])[0], ["srt"], None)
    assert names(places, folder) == ["a.mp4"]
    assert str(error).startswith(f"{folder}/a.wav: its transcript would overwrite that of {folder}/a.mp4; ")


def test_no_transcript_overwrites_its_audio(folder):
    """A recording in notes.txt stays there."""
    places, (error,) = outputs([Input(folder / "notes.txt")], ["text"], None)
    assert places == {}
    assert "would overwrite it" in str(error)


def test_done_is_all_formats_and_newer(folder):
    """One that is missing, or older than the audio, is done again."""
    audio, text, srt = folder / "a.wav", folder / "a.txt", folder / "a.srt"
    write(text, "x")
    assert not is_done(Input(audio), [text, srt])
    write(srt, "")  # silence has no cues
    assert is_done(Input(audio), [text, srt])
    os.utime(audio, (text.stat().st_mtime + 1,) * 2)
    assert not is_done(Input(audio), [text, srt])
    assert not is_done(Input(None), [text])  # nobody knows what was there


def test_a_transcript_is_there_whole_or_not_at_all(folder):
    """A write that fails leaves what was there, and nothing else."""
    write(folder / "new" / "a.txt", "è\n")
    assert (folder / "new" / "a.txt").read_bytes() == "è\n".encode()
    with pytest.raises(UnicodeEncodeError):
        write(folder / "new" / "a.txt", "half \ud800")
    assert [path.name for path in (folder / "new").iterdir()] == ["a.txt"]
    assert (folder / "new" / "a.txt").read_text(encoding="utf-8") == "è\n"


def test_every_format_holds_the_words():
    """And JSON, besides, where they come from; verbose JSON all that is known of each segment."""
    written = {name: render(said(), name, "it@1", Layout()) for name in SUFFIXES}
    assert all("Sì." in text for text in written.values())
    assert written["text"] == "Sì.\n"
    plain = {"text": "Sì.", "language": "it", "duration": 1.0, "model": "it@1", "partial": None}
    assert json.loads(written["json"]) == plain
    verbose = json.loads(written["verbose_json"])
    (segment,) = verbose.pop("segments")
    assert verbose == plain
    assert (segment["tokens"], segment["avg_logprob"], segment["end"]) == ([5, 6], -0.1, 1.0)


def test_what_is_missing_is_said_in_json():
    """As the service says it; a plain text has no place for it."""
    fault = AudioError("truncated_audio", "The audio is cut off.")
    written = {name: render(said(), name, "it@1", Layout(), fault) for name in SUFFIXES}
    partial = {"code": "truncated_audio", "message": "The audio is cut off.", "decoded_seconds": 1.0}
    assert json.loads(written["json"])["partial"] == json.loads(written["verbose_json"])["partial"] == partial
    assert written["text"] == "Sì.\n"


def test_subtitles_obey_the_layout():
    """Lines are as long as was asked for."""
    text = render(said("uno due tre quattro cinque"), "srt", "it@1", Layout(max_chars_per_line=12))
    assert "uno due\ntre quattro\n" in text


def test_files_say_how_long_they_are(folder, wav):
    """For the progress bar; what cannot be read is nothing."""
    (folder / "a.wav").write_bytes(wav(2.0))
    assert declared_seconds(Input(folder / "a.wav")) == pytest.approx(2.0)
    assert declared_seconds(Input(folder / "notes.txt")) == 0.0
    assert declared_seconds(Input(None)) == 0.0
