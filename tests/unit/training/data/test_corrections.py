"""Corrections as a source: what becomes an utterance, what leaves the cache, and that none is ever for test."""

import numpy as np
import pytest

from corrections import CorrectionStore, New
from corrections.export import write_folder
from speech.flac import encode_flac
from training.config import ConfigError, make_config
from training.data.manifest import fingerprint, load_audio
from training.data.sources.config import CorrectionsSource
from training.data.sources.corrections import read_corrections
from training.data.sources.rows import SourceError
from training.data.splits import split
from training.prepare import prepare

FOLDER = {"kind": "folder", "path": "clips", "language": "it"}


@pytest.fixture
def store(tmp_path):
    """Return an empty database."""
    store = CorrectionStore(f"sqlite:///{tmp_path}/corrections.db")
    yield store
    store.close()


@pytest.fixture
def source(tmp_path):
    """Return the source that reads it."""
    return CorrectionsSource(url=f"sqlite:///{tmp_path}/corrections.db")


@pytest.fixture
def others(tmp_path):
    """Return a folder of eight clips that nobody corrected, as a source."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rows = ["file_name,text"]
    for i in range(8):
        samples = np.random.default_rng(100 + i).integers(-9000, 9000, 16_000, dtype=np.int16)
        (folder / f"{i}.flac").write_bytes(encode_flac(samples))
        rows.append(f"{i}.flac,altro {i}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return {"kind": "folder", "path": folder, "language": "it"}


def keep(store, clip, text, **changes):
    """Keep a correction of a clip of its own; return its row."""
    samples = np.random.default_rng(clip).integers(-9000, 9000, 16_000, dtype=np.int16)
    fields = {"hypothesis": "", "correction": text, "language": "it", **changes}
    return store.add(New(encode_flac(samples), samples.tobytes(), 1.0, **fields), float(clip))[0]


def test_a_correction_is_an_utterance(store, source, tmp_path):
    """Its text is what was said, its audio what was sent; nobody speaking is no speech."""
    row = keep(store, 1, "Buongiorno.", speaker="Anna")
    silence = keep(store, 2, "", hypothesis="Sottotitoli a cura di")
    utterances, dropped = read_corrections(source, tmp_path / "cache")
    assert dropped == []
    assert [(one.id, one.text, one.language, one.speaker, one.no_speech) for one in utterances] == [
        (f"corrections/{row.id}", "Buongiorno.", "it", "Anna", False),
        (f"corrections/{silence.id}", "", "it", None, True),
    ]
    assert {one.source for one in utterances} == {"corrections"}
    samples = np.random.default_rng(1).integers(-9000, 9000, 16_000, dtype=np.int16)
    assert np.abs(load_audio(utterances[0], tmp_path) - samples / 32768).max() < 1e-4


def test_the_same_corrections_are_the_same_data(store, source, tmp_path):
    """Retraining sees no change; another text for a clip is one, and so is a deletion, which leaves the cache, too."""

    def read():
        return fingerprint(read_corrections(source, tmp_path / "cache")[0])

    keep(store, 1, "uno")
    row = keep(store, 2, "due")
    first = read()
    assert read() == first
    keep(store, 1, "uno!")
    second = read()
    assert second != first
    assert len(list((tmp_path / "cache").rglob("*.flac"))) == 2
    store.delete(row.id)
    assert read() not in {first, second}
    assert len(list((tmp_path / "cache").rglob("*.flac"))) == 1


def test_one_language_alone(store, source, tmp_path):
    """Others are not read, and their clips stay in the cache for who reads them; what was deleted leaves it."""
    row = keep(store, 1, "uno")
    keep(store, 2, "раз", language="ru")
    read_corrections(source, tmp_path / "cache")
    only, _ = read_corrections(source.model_copy(update={"language": "ru"}), tmp_path / "cache")
    assert [one.text for one in only] == ["раз"]
    assert len(list((tmp_path / "cache").rglob("*.flac"))) == 2
    store.delete(row.id)
    read_corrections(source.model_copy(update={"language": "ru"}), tmp_path / "cache")
    assert len(list((tmp_path / "cache").rglob("*.flac"))) == 1


def test_reading_makes_no_database(tmp_path):
    """A name that is misspelt, or looked for from another folder, is an error that says where there is none."""
    with pytest.raises(SourceError, match=f"no database of corrections at {tmp_path}/folder/other.db"):
        read_corrections(CorrectionsSource(url=f"sqlite:///{tmp_path}/folder/other.db"), tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_the_database(store, source, tmp_path, monkeypatch):
    """As for the service; with neither, the message says so; a database that cannot be read is one line."""
    keep(store, 1, "uno")
    monkeypatch.setenv("WHISPERLOOP_CORRECTIONS", source.url)
    assert len(read_corrections(CorrectionsSource(), tmp_path / "cache")[0]) == 1
    monkeypatch.delenv("WHISPERLOOP_CORRECTIONS")
    with pytest.raises(SourceError, match="by `url` or by WHISPERLOOP_CORRECTIONS"):
        read_corrections(CorrectionsSource(), tmp_path / "cache")
    (tmp_path / "file").write_text("no database")
    with pytest.raises(SourceError, match="cannot be used"):
        read_corrections(CorrectionsSource(url=f"sqlite:///{tmp_path}/file"), tmp_path / "cache")


def test_no_correction_is_drawn_for_test(store, source, tmp_path, make_utterance):
    """Neither it nor another clip of its sentence, however the draw falls; it may be for dev."""
    for i in range(30):
        keep(store, i, f"corretto {i}")
    corrected, _ = read_corrections(source, tmp_path / "cache")
    others = [make_utterance(id=f"o{i}", text=f"altro {i}") for i in range(10)]
    twins = [make_utterance(id=f"t{i}", text=f"Corretto {i}!") for i in range(10)]
    never = {one.id for one in corrected}
    for seed in range(5):
        divided, dropped = split(
            [*corrected, *others, *twins], seed=seed, test_per_language=8, dev_per_language=6, never_test=never
        )
        test = [one for one in divided if one.split == "test"]
        assert dropped == []
        assert len(test) == 8
        assert {one.id for one in test} <= {one.id for one in others}
        assert len([one for one in divided if one.split == "dev"]) == 6
    with pytest.raises(
        ValueError, match=r"12 clips are needed for test, and 10 are there that are no corrections.*use"
    ):
        split([*corrected, *others], seed=1, test_per_language=12, dev_per_language=1, never_test=never)


def test_a_correction_of_a_test_sentence_is_left_out(store, source, tmp_path, make_utterance):
    """The test set was there first, and its sentence is not learned."""
    row = keep(store, 1, "La frase di prova.")
    keep(store, 2, "Un'altra frase.")
    corrected, _ = read_corrections(source, tmp_path / "cache")
    given = [make_utterance(id="given", text="la frase di prova", split="test")]
    divided, dropped = split(
        [*corrected, *given], seed=1, test_per_language=1, dev_per_language=0, never_test={one.id for one in corrected}
    )
    assert [one.id for one in dropped] == [f"corrections/{row.id}"]
    assert sorted(one.split for one in divided) == ["test", "train"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sources": [{"kind": "corrections", "use": "test"}]}, "use"),
        ({"sources": [{"kind": "corrections"}]}, "sources names corrections alone"),
        ({"sources": [FOLDER], "guards": [{"kind": "corrections"}]}, "replay and guards are general speech"),
        ({"sources": [FOLDER], "replay": [{"kind": "corrections"}]}, "replay and guards are general speech"),
        ({"sources": [{"kind": "corrections", "url": "postgresql://a:b@c/d"}]}, "looks like a secret"),
    ],
)
def test_what_may_not_be_asked_for(content, message):
    """A test set or guards of corrections, and a password in a recipe."""
    with pytest.raises(ConfigError, match=message):
        make_config("it.toml", content)


def test_a_language_without_a_test_set_is_not_learned(store, source, others, tmp_path, tokenizer):
    """Nobody would see what it does: it is left out, and said to be; the rest is used."""
    for i in range(4):
        keep(store, i, f"corretto {i}")
    stray = keep(store, 9, "исправлено", language="ru")
    config = make_config("it.toml", {"sources": [source.model_dump(), others], "test_clips": 2, "dev_clips": 2})
    data = prepare(config, tokenizer, tmp_path / "cache")
    assert {one.language for one in data.utterances} == {"it"}
    assert [one.id for one in data.report.dropped if one.reason == "no_test_set"] == [f"corrections/{stray.id}"]
    assert all(one.source != "corrections" for one in data.of("test"))
    assert len(data.utterances) == 12


@pytest.fixture
def exported(store, tmp_path):
    """Return the folder to which twelve corrections and a silence were exported; the `use` says nothing to it."""
    for i in range(12):
        keep(store, i, f"corretto {i}")
    keep(store, 12, "")
    folder = tmp_path / "corrected"
    assert len(list(write_folder(store.all(), folder))) == 13
    return {"kind": "folder", "path": folder, "use": "test"}


def test_exported_corrections_alone_are_refused(exported, tokenizer, tmp_path):
    """Failure: a fifth of an exported folder is drawn to judge by. All is for training, and what lacks is said."""
    config = make_config("command line", {"sources": [exported]})
    with pytest.raises(ConfigError, match=r'it: all clips are given for training .* recipe .*use = "test"'):
        prepare(config, tokenizer, tmp_path / "cache")


@pytest.mark.parametrize("use", ["test", None])
def test_exported_corrections_are_learned_and_never_judged_by(exported, others, tokenizer, tmp_path, use):
    """Beside other speech, whether that is the test set or one is drawn from it, they are for training and choosing."""
    config = make_config("it.toml", {"sources": [exported, others | {"use": use}]})
    data = prepare(config, tokenizer, tmp_path / "cache")
    assert data.report.dropped == ()
    assert {one.source for one in data.of("test")} == {"folder:clips"}
    assert {one.split for one in data.utterances if one.source == "folder:corrected"} <= {"train", "dev"}
    assert len(data.utterances) == 21
    assert [one.text for one in data.utterances if one.no_speech] == [""]
