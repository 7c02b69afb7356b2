"""The promises of the subtitles source."""

import wave
from pathlib import Path

import numpy as np
import pytest

from speech.audio import decode_audio
from training.data.manifest import Segment, load_audio
from training.data.sources.config import SubtitlesSource
from training.data.sources.rows import SourceError
from training.data.sources.subtitles import Cue, hears_speech, read_cues, read_subtitles

CLIP = Path(__file__).parents[3] / "conformance" / "clips" / "it-agent-newlocation.wav"


def clock(seconds, comma=","):
    """Write a time as SRT does."""
    whole, thousandths = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{comma}{thousandths:03d}"


def write_srt(path, *cues):
    """Write an SRT file of (start, end, text)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = [f"{n}\n{clock(a)} --> {clock(b)}\n{text}\n" for n, (a, b, text) in enumerate(cues, start=1)]
    path.write_text("\n".join(blocks), encoding="utf-8")


def read(folder, **settings):
    """Read a folder, the windows beside it."""
    return read_subtitles(SubtitlesSource(path=folder, **{"language": "it", **settings}), folder.parent / "clips")


def spans(utterances):
    """Return when each window begins, and what is said in it."""
    return [(float(u.id.rsplit("@", 1)[1]), u.text) for u in utterances]


def test_windows_hold_cues_times_and_what_was_said_before(tmp_path, write_noise):
    """A recording is cut at cues into windows of at most 30 s; times count from the window's start."""
    samples = write_noise(tmp_path / "talks" / "talk.wav", 45.0)
    cues = [(1, 11, "Prima."), (11, 21.5, "Seconda."), (22, 30.5, "Terza."), (31.25, 40, "Quarta.")]
    write_srt(tmp_path / "talks" / "talk.srt", *cues)
    utterances, dropped = read(tmp_path / "talks")
    assert not dropped
    assert spans(utterances) == [(1.0, "Prima. Seconda. Terza."), (31.25, "Quarta.")]
    first, second = utterances
    assert first.segments == (
        Segment(start=0.0, end=10.0, text="Prima."),
        Segment(start=10.0, end=20.5, text="Seconda."),
        Segment(start=21.0, end=29.5, text="Terza."),
    )
    assert second.segments == (Segment(start=0.0, end=8.75, text="Quarta."),)
    assert (first.prev_text, second.prev_text) == (None, "Prima. Seconda. Terza.")
    for utterance, start, end in ((first, 1, 30.5), (second, 31.25, 40)):
        heard = np.rint(load_audio(utterance, tmp_path) * 32768)
        np.testing.assert_array_equal(heard, samples[round(16_000 * start) : round(16_000 * end)])
    assert {u.speaker for u in utterances} == {"talk.wav"}
    assert [u.id for u in utterances] == ["talk.srt@1.000", "talk.srt@31.250"]


def test_what_was_said_long_ago_is_not_previous_text(tmp_path, write_noise):
    """Only cues of the 30 s before a window are what was said before it."""
    write_noise(tmp_path / "talks" / "talk.wav", 80.0)
    write_srt(tmp_path / "talks" / "talk.srt", (0, 5, "Uno."), (20, 25, "Due."), (50, 55, "Tre."), (70, 75, "Quattro."))
    utterances, _ = read(tmp_path / "talks")
    assert [u.prev_text for u in utterances] == [None, "Uno.", "Due.", "Tre."]


def test_an_over_long_cue_is_dropped_and_ends_a_window(tmp_path, write_noise):
    """Its sound is in no window, but the next one knows what was said."""
    write_noise(tmp_path / "talks" / "talk.wav", 50.0)
    write_srt(tmp_path / "talks" / "talk.srt", (0, 4, "Breve."), (4, 35, "Troppo lunga."), (35, 40, "Di nuovo breve."))
    utterances, dropped = read(tmp_path / "talks")
    assert spans(utterances) == [(0.0, "Breve."), (35.0, "Di nuovo breve.")]
    assert [u.audio.duration for u in utterances] == [4.0, 5.0]
    assert utterances[1].prev_text == "Troppo lunga."
    assert [(row.reason, row.by_source_rule) for row in dropped] == [("too_long", False)]


def test_a_long_pause_ends_a_window(tmp_path, write_noise):
    """Failure: speech that nobody wrote down, inside a window. A pause beyond the limit is in none."""
    write_noise(tmp_path / "talks" / "talk.wav", 20.0)
    write_srt(tmp_path / "talks" / "talk.srt", (0, 2, "Uno."), (4.9, 6, "Due."), (9.1, 11, "Tre."))
    assert spans(read(tmp_path / "talks")[0]) == [(0.0, "Uno. Due."), (9.1, "Tre.")]
    assert len(read(tmp_path / "talks", max_pause_s=1)[0]) == 3


def test_what_nobody_says_is_cut_out_with_its_sound(tmp_path, write_noise):
    """Notes on sounds and songs are left out by rule; a note beside speech is taken out of the text."""
    write_noise(tmp_path / "talks" / "talk.wav", 20.0)
    write_srt(
        tmp_path / "talks" / "talk.srt",
        (0, 2, "Uno."),
        (2, 4, "[musica]"),
        (4, 6, "(ride)"),
        (6, 8, "♪ la la la ♪"),
        (8, 10, "[ride] Due. (piano)"),
        (10, 11, "…"),
    )
    utterances, dropped = read(tmp_path / "talks")
    assert spans(utterances) == [(0.0, "Uno."), (8.0, "Due. (piano)")]
    assert [(row.reason, row.by_source_rule) for row in dropped] == [("not_spoken", True)] * 4
    assert utterances[1].prev_text == "Uno."


def test_overlapping_cues(tmp_path, write_noise):
    """A cue that lingers ends where the next begins; of cues that are shown at once none is used."""
    write_noise(tmp_path / "talks" / "talk.wav", 20.0)
    write_srt(
        tmp_path / "talks" / "talk.srt",
        (0, 3, "Uno."),
        (2, 4, "Due."),
        (5, 7, "Anna insieme."),
        (5.05, 7, "Bruno insieme."),
        (8, 9, "Tre."),
    )
    utterances, dropped = read(tmp_path / "talks")
    assert spans(utterances) == [(0.0, "Uno. Due."), (8.0, "Tre.")]
    assert [(s.start, s.end) for s in utterances[0].segments] == [(0.0, 2.0), (2.0, 4.0)]
    assert [row.reason for row in dropped] == ["overlapping_cue"] * 2


def test_subtitles_beyond_the_recording_are_dropped(tmp_path, write_noise):
    """Subtitles of another cut of the film do not become clips of nothing."""
    write_noise(tmp_path / "talks" / "talk.wav", 5.0)
    write_srt(tmp_path / "talks" / "talk.srt", (0, 2, "Uno."), (20, 22, "Due."))
    utterances, dropped = read(tmp_path / "talks")
    assert spans(utterances) == [(0.0, "Uno.")]
    assert [(row.id, row.reason) for row in dropped] == [("talk.srt@20.000", "beyond_end")]


def test_no_time_lies_beyond_the_recording(tmp_path, write_noise):
    """A last cue that stays a little longer than the recording ends with it, and so does its time."""
    write_noise(tmp_path / "talks" / "talk.wav", 5.0)
    write_srt(tmp_path / "talks" / "talk.srt", (1, 3, "Uno."), (3, 5.4, "Due."))
    [utterance], dropped = read(tmp_path / "talks")
    assert not dropped
    assert utterance.audio.duration == 4.0
    assert [(s.start, s.end) for s in utterance.segments] == [(0.0, 2.0), (2.0, 4.0)]


def test_webvtt_with_all_its_parts(tmp_path):
    """Header, notes, styles, names, settings, tags and entities of WebVTT are no text."""
    path = tmp_path / "a.vtt"
    path.write_text(
        "\ufeffWEBVTT - a title\nKind: captions\n\nSTYLE\n::cue { color: red }\n\nNOTE\nnot said\n\n"
        "intro\n00:01.500 --> 00:03.000 align:start position:0%\n<v Anna>Ciao, <i>Bruno</i> &amp; Carla!\n"
        "<00:02.000><c.red>Come va?</c>\n\n"
        "1:00:00.000 --> 1:00:01.000\n日本語\n字幕 ok\n",
        encoding="utf-8",
    )
    assert read_cues(path) == [
        Cue(1.5, 3.0, "Ciao, Bruno & Carla! Come va?"),
        Cue(3600.0, 3601.0, "日本語字幕 ok"),
    ]


def test_untidy_srt(tmp_path):
    """Missing blank lines, Windows line ends, positions, disorder: cues are found; a broken timing is told."""
    path = tmp_path / "a.srt"
    path.write_bytes(
        b"1\r\n00:00:05,000 --> 00:00:06,000 X1:10\r\n{\\an8}<b>Dopo</b>\r\n"
        b"2\r\n00:00:01,5-->00:00:02,000\r\nPrima: 42\r\n"
        b"42\r\n\r\n\r\n3\r\n00:00:07,000 --> 00:00:06,000\r\nIndietro\r\n\r\n4\r\nieri --> oggi\r\nMai\r\n"
    )
    assert read_cues(path) == [
        Cue(1.5, 2.0, "Prima: 42 42"),
        Cue(5.0, 6.0, "Dopo"),
        "00:00:07,000 --> 00:00:06,000",
        "ieri --> oggi",
    ]


def test_broken_timings_are_reported(tmp_path, write_noise):
    """A cue without a time is a row that was left out, with its line."""
    write_noise(tmp_path / "talks" / "talk.wav", 5.0)
    write_srt(tmp_path / "talks" / "talk.srt", (0, 2, "Uno."))
    with (tmp_path / "talks" / "talk.srt").open("a") as file:
        file.write("\n2\n00:00:03,000 --> later\nDue.\n")
    utterances, dropped = read(tmp_path / "talks")
    assert len(utterances) == 1
    assert [(row.reason, row.detail) for row in dropped] == [("malformed_cue", "'00:00:03,000 --> later'")]


def test_languages_splits_and_pairs(tmp_path, write_noise):
    """The recording is the file of the same name; a suffix is a language; a folder at the top may be a split."""
    root = tmp_path / "talks"
    for seed, name in enumerate(("a.wav", "train/b.wav", "test/deep/c.mkv.wav", "test/c.wav")):
        write_noise(root / name, 3.0, seed=seed)
    write_srt(root / "a.ru.srt", (0, 2, "Раз."))
    write_srt(root / "train" / "b.srt", (0, 2, "Uno."))
    write_srt(root / "test" / "c.srt", (0, 2, "Due."))
    write_srt(root / "lost.srt", (0, 2, "Tre."))
    write_noise(root / "two.wav", 3.0, seed=8)
    (root / "two.mp3").write_bytes((root / "two.wav").read_bytes())
    write_srt(root / "two.srt", (0, 2, "Quattro."))
    utterances, dropped = read(root)
    assert [(u.text, u.language, u.split) for u in utterances] == [
        ("Раз.", "ru", None),
        ("Due.", "it", "test"),
        ("Uno.", "it", "train"),
    ]
    assert {row.id: row.reason for row in dropped} == {
        "lost.srt": "missing_file",
        "two.srt": "ambiguous_recording",
    }


def test_a_translation_is_not_taken_for_a_transcript(tmp_path, write_noise):
    """Failure: subtitles in another language than the speech. Of several only the source's language is read."""
    root = tmp_path / "talks"
    write_noise(root / "a.wav", 3.0)
    write_srt(root / "a.it.srt", (0, 2, "Uno."))
    write_srt(root / "a.en.vtt", (0, 2, "One."))
    utterances, dropped = read(root)
    assert [(u.text, u.language) for u in utterances] == [("Uno.", "it")]
    assert [(row.id, row.reason, row.by_source_rule) for row in dropped] == [("a.en.vtt", "other_subtitles", True)]
    utterances, dropped = read(root, language=None)
    assert not utterances
    assert [row.reason for row in dropped] == ["ambiguous_subtitles"] * 2


def test_silence_is_kept_where_nobody_speaks(tmp_path):
    """Pauses become clips without words; they are for training only, and keep away from cues."""
    root = tmp_path / "talks"
    root.mkdir()
    noise = np.random.default_rng(0).normal(0, 3, 16_000 * 50).astype("<i2")
    with wave.open(str(root / "talk.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(noise.tobytes())
    write_srt(root / "talk.srt", (2, 4, "Uno."), (10, 12, "Due."))
    utterances, _ = read(root, keep_silence=True)
    silences = [u for u in utterances if u.no_speech]
    assert [(u.id, u.audio.duration, u.text, u.split, u.segments) for u in silences] == [
        ("talk.srt@4.500-silence", 5.0, "", "train", None),
        ("talk.srt@12.500-silence", 30.0, "", "train", None),
        ("talk.srt@42.500-silence", 7.5, "", "train", None),
    ]
    assert [u.text for u in utterances if not u.no_speech] == ["Uno.", "Due."]
    assert not any(u.no_speech for u in read(root)[0])
    assert not any(u.no_speech for u in read(root, keep_silence=True, use="test")[0])


def test_speech_in_a_pause_is_no_silence(tmp_path, monkeypatch, write_noise):
    """Failure: a pause in the subtitles in which somebody speaks. What the detector hears is left out."""
    write_noise(tmp_path / "talks" / "talk.wav", 20.0)
    write_srt(tmp_path / "talks" / "talk.srt", (0, 2, "Uno."), (8, 9, "Due."))
    monkeypatch.setattr("training.data.sources.subtitles.hears_speech", lambda samples: samples.size == 5 * 16_000)
    utterances, dropped = read(tmp_path / "talks", keep_silence=True)
    assert [u.id for u in utterances if u.no_speech] == ["talk.srt@9.500-silence"]
    assert [(row.id, row.reason) for row in dropped] == [("talk.srt@2.500-silence", "speech_in_pause")]


def test_the_detector_tells_speech_from_noise(tmp_path, write_noise):
    """The real detector hears a real voice, and nobody in quiet noise."""
    write_noise(tmp_path / "a.wav", 2.0)
    assert not hears_speech(decode_audio(tmp_path / "a.wav") * 0.001)
    assert hears_speech(decode_audio(CLIP))


def test_a_folder_without_subtitles_is_named(tmp_path):
    """What holds nothing to read is an error, and so is a file that is no UTF-8."""
    with pytest.raises(SourceError, match=r"no \.srt or \.vtt"):
        read(tmp_path / "absent")
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks" / "a.wav").write_bytes(b"x")
    (tmp_path / "talks" / "a.srt").write_bytes("1\n00:00:01,000 --> 00:00:02,000\npiù\n".encode("latin-1"))
    with pytest.raises(SourceError, match="utf-8"):
        read(tmp_path / "talks")
