"""The command line: readable tables, one clear line for an error, exit status 1."""

import os

import pytest
from typer.testing import CliRunner

from registry.__main__ import app
from registry.importing import default_name


@pytest.fixture
def run(registry):
    """Run a command against the registry; give its exit status, output and errors."""

    def invoke(*arguments):
        result = CliRunner().invoke(app, [*arguments, "--registry", str(registry.root)])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout, result.stderr

    return invoke


@pytest.fixture
def two(registry, publish):
    """Two versions, of which the first is in production."""
    versions = publish("first"), publish("second")
    registry.move_alias("tiny", "production", versions[0].id, expected=None, reason="setup")
    return versions


def test_an_empty_registry_says_what_to_run(run, registry):
    """A newcomer learns the next step, and nothing is created."""
    assert run("list") == (0, "the registry is empty; run: python -m registry import --help\n", "")
    assert not registry.root.exists()


def test_list_shows_versions_and_aliases(run, two):
    """Each version has a row with its whole id, its context and its aliases."""
    status, output, _ = run("list")
    assert status == 0
    rows = {version.id: next(line for line in output.splitlines() if version.id in line) for version in two}
    assert "production" in rows[two[0].id]
    assert "production" not in rows[two[1].id]
    assert "elastic true, margin 50" in rows[two[1].id]


def test_an_import_offers_short_context(run, tiny):
    """Once, beside the reference, and as a command that can be typed: a model from elsewhere pays 30 s for any clip."""
    status, reference, offered = run("import", str(tiny.checkpoint), "--name", "mine")
    assert status == 0
    assert f"python -m training elasticize {reference.strip()} --audio FOLDER" in offered
    status, again, offered = run("import", str(tiny.checkpoint), "--name", "mine")
    assert (status, again) == (0, f"{reference.strip()} is already there\n")
    assert "elasticize" not in offered


def test_an_import_says_what_it_does(run, tiny):
    """A line a stage, beside the answer, as a container's first start is read by its log; whatever is imported."""
    told = [run("import", str(folder), "--name", "mine")[2].splitlines() for folder in (tiny.checkpoint, tiny.export)]
    stages = [[line.partition(" ")[0] for line in lines] for lines in told]
    assert stages[0][:4] == ["reading", "checking", "making", "publishing"]
    assert stages[1][:4] == ["reading", "making", "making", "publishing"]
    assert told[0][0] == f"reading {tiny.checkpoint.name}"


def test_list_shows_damage_and_goes_on(run, two):
    """A version without a manifest is listed as damaged beside the others."""
    (two[0].path / "manifest.json").unlink()
    status, output, _ = run("list")
    assert status == 0
    assert "damaged" in next(line for line in output.splitlines() if two[0].id in line)
    assert two[1].id in output


def test_the_registry_may_come_from_the_environment(registry, two):
    """WHISPERLOOP_REGISTRY names the folder where no option does."""
    result = CliRunner().invoke(app, ["list"], env={"WHISPERLOOP_REGISTRY": str(registry.root)})
    assert two[0].id in result.stdout


def test_show_lists_files_and_origin(run, two):
    """A version is shown with its aliases and each file's whole hash."""
    status, output, _ = run("show", "tiny@production")
    assert status == 0
    assert f"version     {two[0].ref}" in output
    assert "aliases     production" in output
    for file, entry in two[0].manifest.files.items():
        assert file in output
        assert entry.sha256 in output


def test_verify_says_intact_or_names_the_file(run, two):
    """A whole version exits 0; a damaged one exits 1 with its file in one line."""
    status, output, _ = run("verify", "tiny@production")
    assert status == 0
    assert f"{two[0].ref} is intact: 3 files" in output
    (two[0].path / "config.json").unlink()
    status, output, errors = run("verify", "tiny@production")
    assert (status, output) == (1, "")
    assert errors == f"error: {two[0].ref} is damaged: config.json: expected a file, found nothing\n"


def test_alias_moves_and_says_so(run, registry, two):
    """An alias may be moved to another alias's version, or to an id."""
    assert run("alias", two[1].ref, "candidate", "--reason", "new")[0] == 0
    status, output, _ = run("alias", "tiny@candidate", "production", "--reason", "better")
    assert (status, output) == (0, f"tiny@production is now {two[1].id}\n")
    assert registry.resolve("tiny@production") == two[1]
    assert registry.resolve("tiny@previous") == two[0]
    assert registry.log("tiny")[-1].reason == "better"


def test_alias_takes_an_expectation_and_a_verdict(run, registry, two):
    """With a wrong expectation nothing moves; with the right one, the verdict is recorded."""
    verdict = registry.record_verdict("tiny", two[1].id, two[0].id, {"pass": True}).name
    move = ("alias", two[1].ref, "production", "--reason", "r", "--verdict", verdict, "--expected")
    status, _, errors = run(*move, two[1].id)
    assert status == 1
    assert errors.startswith("error: tiny@production has moved")
    assert run(*move, two[0].id)[0] == 0
    assert registry.alias("tiny", "production").verdict == verdict


def test_rollback_moves_back(run, registry, two):
    """Rollback puts the previous version into production and says which it is."""
    registry.move_alias("tiny", "production", two[1].id, expected=two[0].id, reason="r")
    status, output, _ = run("rollback", "tiny", "--reason", "worse")
    assert (status, output) == (0, f"tiny@production is now {two[0].id}\n")


def test_a_verdict_shows_its_decision_and_every_reason(run, registry, two):
    """What the gate decided and why can be read off the table."""
    reasons = ["it: WER 0.2 → 0.1: better", "ru: WER 0.2 → 0.3: worse"]
    registry.record_verdict("tiny", two[1].id, two[0].id, {"passed": False, "reasons": reasons})
    _, output, _ = run("verdicts", "tiny")
    assert " no " in output
    assert all(reason in output for reason in reasons)


def test_verdicts_and_log_are_shown(run, registry, two):
    """Both are readable tables, and say so when there is nothing."""
    assert run("verdicts", "tiny") == (0, "tiny has no verdicts yet\n", "")
    path = registry.record_verdict("tiny", two[1].id, two[0].id, {"wer": 0.125})
    status, output, _ = run("verdicts", "tiny")
    assert status == 0
    assert path.name in "".join(output.split())
    assert '{"wer": 0.125}' in output
    registry.move_alias("tiny", "production", two[1].id, expected=two[0].id, reason="much better")
    status, output, _ = run("log", "tiny")
    assert status == 0
    assert "much better" in output
    assert "previous" in output


def test_log_fails_on_a_broken_chain(run, registry, two):
    """A log that was tampered with is not shown as if it were sound."""
    assert registry.resolve("tiny@production") == two[0]
    path = registry.root / "models" / "tiny" / "log.jsonl"
    path.write_bytes(path.read_bytes().replace(b"setup", b"other"))
    status, _, errors = run("log", "tiny")
    assert status == 1
    assert "which the log does not say" in errors


def test_a_model_without_moves_says_so(run, publish):
    """An empty log is no error."""
    publish()
    assert run("log", "tiny") == (0, "tiny has no moves yet\n", "")


def test_gc_counts_what_it_removes(run, registry, two):
    """Leftovers are counted, and versions stay."""
    leftover = registry.root / ".tmp" / "old"
    leftover.mkdir()
    os.utime(leftover, (0, 0))
    assert run("gc") == (0, "removed 1 leftovers\n", "")
    assert run("gc") == (0, "removed 0 leftovers\n", "")
    assert registry.versions("tiny") == list(two)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("show", "tiny"), "names no version"),
        (("show", "huge@production"), "no model 'huge'; there is: tiny"),
        (("show", "tiny@shadow"), "there is: production"),
        (("show", "../x@production"), "is no model name"),
        (("alias", "tiny@production", "best", "--reason", "r"), "use one of: candidate"),
        (("rollback", "tiny", "--reason", "r"), "no previous version"),
        (("rollback", "huge", "--reason", "r"), "no model 'huge'"),
        (("verdicts", "huge"), "no model 'huge'"),
        (("log", "huge"), "no model 'huge'"),
        (("import", "--name", "Not A Name"), "is no model name"),
        (("import", "--alias", "best"), "use one of: candidate"),
        (("import", "hub:one"), "is no Hub repository"),
    ],
)
def test_errors_are_one_line_on_stderr(run, two, arguments, expected):
    """Every mistake gives exit status 1, nothing on stdout, and one line that says what to do."""
    assert two
    status, output, errors = run(*arguments)
    assert (status, output) == (1, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert expected in errors


def test_a_move_needs_a_reason(run, two):
    """Without a reason nothing moves."""
    assert run("alias", two[1].ref, "production")[0] == 2


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hub:openai/whisper-small", "whisper-small"),
        ("hub:Org/My_Model.v2@main", "my_model.v2"),
        ("/models/Whisper Base (it)/", "whisper-base--it"),
    ],
)
def test_a_model_is_named_after_its_source(source, name):
    """The default name is the source's last part, fit for the grammar."""
    assert default_name(source) == name
