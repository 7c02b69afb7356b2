"""The promises of the Hub source, kept through the real `datasets` library on parquet files that the tests write."""

import io
import json
import logging
import sys
import wave
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, ClassLabel, Features, Value
from datasets.exceptions import DatasetNotFoundError

from speech.audio import decode_audio
from training.data.report import DataReport, TooManyDroppedError
from training.data.sources import hub
from training.data.sources.config import HubSource
from training.data.sources.hub import read_hub
from training.data.sources.rows import SourceError

FEATURES = Features(
    {
        "id": Value("int64"),
        "audio": Audio(sampling_rate=16_000),
        "transcription": Value("string"),
        "raw_transcription": Value("string"),
        "speaker_id": Value("int64"),
        "gender": ClassLabel(names=["male", "female"]),
        "lang": ClassLabel(names=["it_it", "ru_ru"]),
        "embedding": [Value("float32")],
    }
)


def wav(number, seconds=0.1):
    """Return the bytes of a clip that is no other number's."""
    buffer = io.BytesIO()
    samples = np.random.default_rng(number).integers(-9000, 9000, round(seconds * 16_000)).astype("<i2")
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def row(number, **changes):
    """Return a row as FLEURS has them."""
    values = {
        "id": number,
        "audio": {"bytes": wav(number, changes.pop("seconds", 0.1)), "path": f"{number}.wav"},
        "transcription": f"frase numero {number}",
        "raw_transcription": f"Frase numero {number}.",
        "speaker_id": number % 3,
        "gender": number % 2,
        "lang": 0,
        "embedding": [0.5] * 4,
    }
    return values | changes


def write_parquet(folder, rows, *, split="train", shards=2, features=FEATURES):
    """Write a split as the Hub keeps it: shards in `data/`, with the features in their schema."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    for shard in range(shards):
        part = table.slice(len(rows) * shard // shards, len(rows) * (shard + 1) // shards - len(rows) * shard // shards)
        pq.write_table(part, folder / "data" / f"{split}-{shard:05d}-of-{shards:05d}.parquet", row_group_size=4)
    return folder


@pytest.fixture
def repository(tmp_path):
    """Write a data set of three splits."""
    folder = tmp_path / "fleurs"
    write_parquet(folder, [row(n) for n in range(6)])
    write_parquet(folder, [row(n) for n in range(10, 12)], split="validation", shards=1)
    return write_parquet(folder, [row(n) for n in range(20, 22)], split="test", shards=1)


def read(path, cache, *, seed=1, **settings):
    """Read a folder with the data set's files."""
    return read_hub(HubSource(path=path, **{"language": "it", **settings}), cache, seed=seed)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Let `datasets` not wait five seconds for its threads after each stream."""
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.mark.parametrize("streaming", [{}, {"streaming": True, "max_hours": 1}])
def test_every_split_is_read_without_torchcodec(repository, tmp_path, monkeypatch, streaming):
    """Failure: audio needs a decoder that is not there. The clips come out as they went in, mapped or streamed."""
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    utterances, dropped = read(repository, tmp_path / "cache", **streaming)
    assert not dropped
    assert Counter(u.split for u in utterances) == {"train": 6, "dev": 2, "test": 2}
    by_text = {u.text: u for u in utterances}
    assert by_text.keys() == {f"Frase numero {n}." for n in (0, 1, 2, 3, 4, 5, 10, 11, 20, 21)}
    for number in (0, 5, 20):
        clip = by_text[f"Frase numero {number}."]
        with open(clip.audio.path, "rb") as file:  # noqa: PTH123 - a path as a manifest has it
            assert file.read() == wav(number)
        assert (clip.speaker, clip.language, clip.audio.duration) == (str(number % 3), "it", 0.1)


def test_the_choice_of_columns_is_printed(repository, tmp_path, caplog):
    """Text that is written as people write goes before lower case, and what was chosen can be read and changed."""
    with caplog.at_level(logging.INFO):
        read(repository, tmp_path / "cache", split="test")
    assert "audio from column 'audio', transcripts from 'raw_transcription', speakers from speaker_id" in caplog.text
    settings = {"text_column": "transcription", "sentence_column": "id", "speaker_column": "gender", "split": "test"}
    utterances, _ = read(repository, tmp_path / "cache", **settings)
    assert [(u.text, u.sentence_id, u.speaker) for u in utterances] == [
        ("frase numero 20", "20", "male"),
        ("frase numero 21", "21", "female"),
    ]


def test_only_the_wanted_columns_are_read(repository, tmp_path, monkeypatch):
    """Embeddings and the like are left where they are; speaker and sentence are not."""
    selected = []
    original = hub.Columns.wanted.fget
    monkeypatch.setattr(hub.Columns, "wanted", property(lambda self: selected.append(original(self)) or selected[-1]))
    read(repository, tmp_path / "cache", split="test", sentence_column="id", language=None, language_column="lang")
    assert selected == [["audio", "raw_transcription", "speaker_id", "id", "lang"]]


def test_a_language_column_of_classes_is_read_by_name(tmp_path):
    """A number that stands for a class is its name, and a locale its language."""
    write_parquet(tmp_path / "multi", [row(0), row(1, lang=1)])
    utterances, _ = read(tmp_path / "multi", tmp_path / "cache", language=None, language_column="lang")
    assert [u.language for u in utterances] == ["it", "ru"]


def test_one_split_is_used_for_what_one_says(repository, tmp_path):
    """A part of a split is read alone, and `use` says what it is for."""
    utterances, _ = read(repository, tmp_path / "cache", split="train[:2]+validation", use="test")
    assert [(u.text, u.split) for u in utterances] == [(f"Frase numero {n}.", "test") for n in (0, 1, 10, 11)]


@pytest.mark.parametrize("streaming", [{}, {"streaming": True, "max_hours": 1}])
def test_what_was_read_is_not_read_again(repository, tmp_path, monkeypatch, streaming):
    """The second reading needs no network, touches neither the data set nor a clip, and says the same."""
    first = read(repository, tmp_path / "cache", **streaming)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    monkeypatch.setattr("datasets.load_dataset", None)
    monkeypatch.setattr("datasets.get_dataset_split_names", None)
    assert read(repository, tmp_path / "cache", **streaming) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()} == written


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("bounded", [False, True])
def test_an_interrupted_reading_goes_on(tmp_path, monkeypatch, streaming, bounded):
    """Failure: a stream that breaks begins anew, or in another order. It goes on, and ends as if it never broke."""
    write_parquet(tmp_path / "set", [row(n) for n in range(12)], shards=3)
    settings = {"streaming": streaming, "split": "train", "shuffle_buffer": 3}
    if streaming or bounded:
        settings["max_clips"] = 8 if bounded else 100
    whole = read(tmp_path / "set", tmp_path / "whole", **settings)
    kept = hub._keep
    n_kept = []

    def breaking(cells, cache):
        n_kept.append(cells.text)
        if len(n_kept) == 5:
            raise KeyboardInterrupt
        return kept(cells, cache)

    monkeypatch.setattr(hub, "_keep", breaking)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "set", tmp_path / "broken", **settings)
    [listing] = (tmp_path / "broken" / "rows").glob("*.jsonl")
    listing.write_bytes(listing.read_bytes() + b'{"clip": "clips/0')  # killed while it wrote
    utterances, dropped = read(tmp_path / "set", tmp_path / "broken", **settings)
    assert [u.id for u in utterances] == [u.id for u in whole[0]]
    assert (len(utterances), dropped) == (8 if bounded else 12, [])
    assert len(n_kept) == 5 + len(utterances) - 4


def test_a_clip_that_is_gone_is_read_again(repository, tmp_path):
    """Somebody who clears a part of the cache gets the clips back, and not a list of missing files."""
    first, _ = read(repository, tmp_path / "cache")
    for path in list((tmp_path / "cache" / "clips").rglob("*.wav"))[:3]:
        path.unlink()
    assert read(repository, tmp_path / "cache") == (first, [])


def test_another_question_is_not_answered_from_the_cache(repository, tmp_path):
    """Failure: a processed cache that is named by the data set alone. Column, bound and new files count, too."""
    cache = tmp_path / "cache"
    assert read(repository, cache, split="test")[0][0].text == "Frase numero 20."
    assert read(repository, cache, split="test", text_column="transcription")[0][0].text == "frase numero 20"
    assert len(read(repository, cache, split="test", max_clips=1)[0]) == 1
    write_parquet(repository, [row(n) for n in range(30, 34)], split="test", shards=1)
    assert len(read(repository, cache, split="test")[0]) == 4


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bound_takes_a_part_at_random(tmp_path, streaming):
    """Failure: the first hours are the first speaker's. The part is drawn by the seed, and ends once it is full."""
    write_parquet(tmp_path / "set", [row(n, seconds=1) for n in range(24)], shards=4)
    settings = {"streaming": streaming, "split": "train", "shuffle_buffer": 12, "max_hours": 5.5 / 3600}
    chosen = [u.text for u in read(tmp_path / "set", tmp_path / "a", **settings)[0]]
    assert len(chosen) == 6
    assert chosen != [f"Frase numero {n}." for n in range(6)]
    assert [u.text for u in read(tmp_path / "set", tmp_path / "b", **settings)[0]] == chosen
    assert [u.text for u in read(tmp_path / "set", tmp_path / "b", seed=2, **settings)[0]] != chosen


def test_unusable_rows_are_dropped_with_their_reason(tmp_path):
    """Failure: corrupt, empty, wordless rows, and names of files in place of sound. None is replaced or followed."""
    secret = tmp_path / "secret.wav"
    secret.write_bytes(wav(99))
    rows = [
        row(0),
        row(1, audio={"bytes": b"no sound at all" * 20, "path": "1.wav"}),
        row(2, audio={"bytes": wav(2, 0), "path": "2.wav"}),
        row(3, audio={"bytes": None, "path": str(secret)}),
        row(4, audio=None),
        row(5, raw_transcription=None),
        row(6, seconds=30.5),
        row(7, audio={"bytes": wav(0), "path": "again.wav"}),
    ]
    write_parquet(tmp_path / "set", rows)
    utterances, dropped = read(tmp_path / "set", tmp_path / "cache")
    assert [u.text for u in utterances] == ["Frase numero 0."]
    assert Counter(row.reason for row in dropped) == {
        "undecodable": 1,
        "zero_length": 1,
        "no_audio": 2,
        "empty_text": 1,
        "too_long": 1,
        "duplicate_id": 1,
    }
    assert any(str(secret) in row.detail for row in dropped)
    with pytest.raises(TooManyDroppedError, match="7 of 8"):
        DataReport.of(utterances, dropped).check()


def test_arrays_become_flac(tmp_path):
    """A table that holds samples rather than a file is read, too, at its own rate."""
    features = Features(
        {"audio": {"array": [Value("float32")], "sampling_rate": Value("int64")}, "text": Value("string")}
    )
    samples = np.random.default_rng(1).integers(-9000, 9000, 8000) / 32768
    rows = [{"audio": {"array": samples.tolist(), "sampling_rate": 8000}, "text": "ciao"}]
    rows.append({"audio": {"array": [], "sampling_rate": 8000}, "text": "niente"})
    write_parquet(tmp_path / "set", rows, shards=1, features=features)
    utterances, dropped = read(tmp_path / "set", tmp_path / "cache")
    assert [(u.text, u.audio.duration) for u in utterances] == [("ciao", 1.0)]
    assert utterances[0].audio.path.endswith(".flac")
    assert np.abs(decode_audio(tmp_path / utterances[0].audio.path)).max() > 0.2
    assert [row.reason for row in dropped] == ["undecodable"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_column": "words"}, "no column 'words', only id, audio, transcription"),
        ({"audio_column": "sound"}, "no column 'sound'"),
        ({"sentence_column": "sid"}, "no column 'sid'"),
        ({"split": "holdout"}, "holdout"),
        ({"config": "fr_fr"}, "fr_fr"),
    ],
)
def test_what_is_not_there_is_named(repository, tmp_path, settings, message):
    """A column, split or configuration that does not exist is an error that says what there is."""
    with pytest.raises(SourceError, match=message):
        read(repository, tmp_path / "cache", **settings)


def test_a_choice_that_is_not_clear_is_asked_for(tmp_path):
    """Two columns of sound, no column of text, no split of a known name: nothing is guessed."""
    two = Features({"audio": Audio(), "noisy": Audio(), "text": Value("string")})
    sound = {"bytes": wav(0), "path": "0.wav"}
    write_parquet(tmp_path / "two", [{"audio": sound, "noisy": sound, "text": "ciao"}], shards=1, features=two)
    with pytest.raises(SourceError, match="sound in audio, noisy: say with audio_column"):
        read(tmp_path / "two", tmp_path / "cache")
    assert read(tmp_path / "two", tmp_path / "cache", audio_column="noisy")[0]
    none = Features({"audio": Audio(), "label": Value("string")})
    write_parquet(tmp_path / "none", [{"audio": sound, "label": "ciao"}], shards=1, features=none)
    with pytest.raises(SourceError, match="say with text_column which of audio, label"):
        read(tmp_path / "none", tmp_path / "cache")
    write_parquet(tmp_path / "odd", [row(0)], split="clean.100", shards=1)
    with pytest.raises(SourceError, match="say with split"):
        read(tmp_path / "odd", tmp_path / "cache")


def test_a_loading_script_is_refused_with_the_way_out(tmp_path):
    """Failure: data sets with scripts load no more. The message names the parquet copy."""
    (tmp_path / "fleurs").mkdir()
    (tmp_path / "fleurs" / "fleurs.py").write_text("raise SystemExit('a script ran')")
    with pytest.raises(SourceError, match="refs/convert/parquet"):
        read(tmp_path / "fleurs", tmp_path / "cache")


def test_failure_14_common_voice_has_left_the_hub(tmp_path, monkeypatch):
    """Whoever asks for it there learns where it is and how to read it."""

    def gone(*_args, **_options):
        raise DatasetNotFoundError("mozilla-foundation/common_voice_17_0 doesn't exist on the Hub.")

    monkeypatch.setattr("datasets.get_dataset_split_names", gone)
    source = HubSource(dataset="mozilla-foundation/common_voice_17_0", revision="a" * 40, language="it")
    with pytest.raises(SourceError, match=r'Mozilla Data Collective .*kind = "common_voice"'):
        read_hub(source, tmp_path / "cache", seed=1)


def test_a_folder_is_not_taken_for_a_name_on_the_hub(tmp_path, monkeypatch):
    """`datasets` prefers a folder of the same name; a pinned revision would then mean nothing."""
    (tmp_path / "google" / "fleurs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    source = HubSource(dataset="google/fleurs", revision="a" * 40, language="it")
    with pytest.raises(SourceError, match="folder here, too"):
        read_hub(source, tmp_path / "cache", seed=1)
    with pytest.raises(SourceError, match="no folder there"):
        read(tmp_path / "absent", tmp_path / "cache")


def test_a_listing_holds_no_path_of_this_machine(repository, tmp_path):
    """The cache can be moved as a whole: its lists name clips relative to it."""
    read(repository, tmp_path / "cache")
    for listing in (tmp_path / "cache" / "rows").glob("*.jsonl"):
        for line in listing.read_text().splitlines():
            assert json.loads(line)["clip"].startswith("clips/")
