"""`python -m corrections`: list, count, export, delete; and the exported folder is one that training takes."""

import json

import pytest
from typer.testing import CliRunner

import corrections.__main__ as command_line
from corrections import CorrectionsError, CorrectionStore
from speech.audio import decode_audio
from training.data.sources.folder import read_folder


@pytest.fixture
def run(url, monkeypatch):
    """Return the command, on the database that the environment names."""
    monkeypatch.setenv("WHISPERLOOP_CORRECTIONS", url)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(command_line.app, [*map(str, arguments)])


@pytest.fixture
def rows(store, new):
    """Keep three corrections of two keys."""
    return [store.add(new(i), float(i), key="ab"[i % 2])[0] for i in range(3)]


def test_what_is_there_is_shown(run, rows):
    """A line a correction, the newest first; and how much there is."""
    listed = run("list").output
    assert listed.index(rows[2].id) < listed.index(rows[0].id)
    assert "sbagliato 1" in listed
    assert "giusto 1" in listed
    assert rows[1].id not in run("list", "--key", "a").output
    assert "3 clips (it 3), 0.1 min" in run("stats").output


def test_an_exported_folder_is_one_to_train_on(run, rows, store, tmp_path):
    """Every clip with its correction, as audiofolder has it, given for training; and our own source reads it so."""
    done = run("export", tmp_path / "out")
    assert (done.exit_code, done.output) == (0, f"3 clips are in {tmp_path / 'out'}\n")
    lines = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["giusto 0", "giusto 1", "giusto 2"]
    utterances, dropped = read_folder(tmp_path / "out", language="it")
    assert dropped == []
    assert [(one.text, one.split) for one in utterances] == [(f"giusto {i}", "train") for i in range(3)]
    assert decode_audio(tmp_path / "out" / lines[1]["file_name"]).size == 16_001
    assert not list((tmp_path / "out").rglob("*.part"))
    assert store.count().clips == len(rows)


def test_deletion_says_what_it_did(run, rows, store):
    """By id, by key, by age; of nothing in particular, nothing; an id that is not there is an error."""
    assert run("delete", rows[0].id).output == "1 deleted\n"
    assert isinstance(run("delete", rows[0].id).exception, CorrectionsError)
    assert run("delete", "--key", "b", "--older-than-days", "0").output == "1 deleted\n"
    assert store.count().clips == 1
    assert isinstance(run("delete").exception, CorrectionsError)
    assert isinstance(run("delete", rows[2].id, "--key", "a").exception, CorrectionsError)
    assert run("delete", "--older-than-days", "1").output == "1 deleted\n"


def test_a_mistake_is_one_line(monkeypatch, capsys):
    """Exit status 1, and no traceback."""
    monkeypatch.setattr("sys.argv", ["corrections", "stats", "--database", "nonsense"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: not a database")


def test_the_database_can_be_made_before_it_is_needed(run, url):
    """For whoever lets nobody but an administrator change a database's form."""
    assert run("upgrade").output.endswith("is ready\n")
    assert CorrectionStore(url).count().clips == 0
