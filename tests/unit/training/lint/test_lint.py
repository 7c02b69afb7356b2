"""All of lint on one data set, by the function and by the command line; the codes, and the cost."""

import json
import re
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from registry import Registry
from speech.audio import SAMPLE_RATE
from training.__main__ import app
from training.data.manifest import write_manifest
from training.data.report import Dropped
from training.learning_rate import USUAL
from training.lint.codes import CODES
from training.lint.cost import estimate, parameters, time_steps
from training.lint.gather import gather
from training.lint.lint import lint
from training.lint.report import LintReport
from training.shell import StepError

ROOT = Path(__file__).parents[4]
WORDS = ("uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove", "dieci", "undici", "dodici")


def write_wav(path, seconds, seed):
    """Write noise."""
    samples = np.random.default_rng(seed).normal(0, 3000, round(seconds * SAMPLE_RATE)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(samples.tobytes())


@pytest.fixture
def folder(tmp_path):
    """Return an audiofolder of twelve clips of one speaker, in which nothing is wrong."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rows = ["file_name,text,speaker"]
    for i, word in enumerate(WORDS):
        write_wav(folder / f"{i}.wav", 0.5 + i / 50, i)
        rows.append(f'{i}.wav,"Il numero {word} {WORDS[i - 5]}.",Anna')
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def command(tiny_registry, tmp_path):
    """Return the function that runs `python -m training lint` and gives the result."""

    def run(*arguments):
        fixed = ["--base", "tiny@production", "--registry", str(tiny_registry.root), "--runs", str(tmp_path / "runs")]
        return CliRunner().invoke(app, ["lint", *map(str, arguments), *fixed])

    return run


def read_report(tmp_path):
    """Return the only report there is, and its page."""
    (path,) = (tmp_path / "runs" / "lint").glob("*/lint.json")
    return LintReport.model_validate_json(path.read_bytes()), path.with_suffix(".html").read_text(encoding="utf-8")


def test_a_folder_without_errors_is_passed(command, folder, tmp_path):
    """Exit status 0; report and page are written; the base has listened to all; the cost is told."""
    done = command("--folder", folder, "--language", "it", "--price-per-hour", "3")
    assert done.exit_code == 0, done.output
    report, page = read_report(tmp_path)
    assert report.errors == []
    assert "single_speaker" in {one.code for one in report.warnings}
    assert report.listened == 12
    assert report.base.startswith("tiny@")
    assert report.kept["it"]["test"].clips == 2
    assert report.cost.price == pytest.approx(3 * report.cost.training_hours)
    assert page.count("<audio") == len(report.suspects) == 12  # random weights hear nonsense
    assert str(report.cost.steps_per_epoch) in done.output


def test_errors_give_status_3_and_can_be_accepted(command, folder, tmp_path):
    """One undecodable file of thirteen is too many for training: refused, unless the caller says so."""
    with (folder / "metadata.csv").open("a", encoding="utf-8") as file:
        file.write("broken.wav,Il numero zero.,Anna\n")
    (folder / "broken.wav").write_text("no audio, though it is called so; and long enough to be looked into")
    done = command("--folder", folder, "--language", "it", "--no-model")
    assert done.exit_code == 3, done.output
    report, _ = read_report(tmp_path)
    assert {one.code for one in report.errors} == {"undecodable", "refused"}
    assert "1 of 13 rows cannot be used" in done.output
    assert any("broken.wav" in name for one in report.errors for name in one.ids)
    accepted = command(
        "--folder", folder, "--language", "it", "--no-model", "--accept", "undecodable", "--accept", "refused"
    )
    assert accepted.exit_code == 0, accepted.output
    assert "undecodable (accepted)" in accepted.output


def test_a_manifest_is_linted_as_it_is(command, folder, tmp_path, tokenizer, short_config):
    """Splits, paths and sums are the manifest's own: a clip that was lost since, and a leak, are errors."""
    config = short_config(sources=[{"kind": "folder", "path": folder, "language": "it"}])
    utterances = gather(config, None, tokenizer, tmp_path / "cache").utterances
    leak = next(u for u in utterances if u.split == "train")
    utterances.append(leak.model_copy(update={"id": "leak", "split": "test"}))
    write_manifest(folder / "manifest.jsonl", utterances)
    lost = next(u for u in utterances if u.split == "dev")
    Path(lost.audio.path).unlink()
    done = command("--manifest", folder / "manifest.jsonl")
    assert done.exit_code == 3, done.output
    report, _ = read_report(tmp_path)
    assert {one.code: one.ids for one in report.errors if one.ids} == {
        "missing_file": (lost.id,),
        "same_audio_across_splits": ("leak",),
        "same_sentence_and_speaker_across_splits": ("leak",),
    }
    assert report.listened == 12  # all but the lost one


def test_the_same_lint_twice_listens_once(command, folder, tmp_path):
    """What the base heard is kept; who corrects a transcript and lints again pays nothing."""
    assert command("--folder", folder, "--language", "it").exit_code == 0
    (cache,) = (tmp_path / "runs" / "lint" / "heard").iterdir()
    before = cache.read_bytes()
    metadata = folder / "metadata.csv"
    metadata.write_text(metadata.read_text(encoding="utf-8").replace("dieci", "cento"), encoding="utf-8")
    assert command("--folder", folder, "--language", "it").exit_code == 0
    assert cache.read_bytes() == before
    assert len(list((tmp_path / "runs" / "lint").glob("*/lint.json"))) == 2


def test_outputs_go_where_they_are_wanted(command, folder, tmp_path):
    """`--json` and `--html` name the files."""
    done = command(
        "--folder", folder, "--language", "it", "--no-model",
        "--json", tmp_path / "out" / "a.json", "--html", tmp_path / "out" / "b.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "a.json").read_text())["base"] is None
    assert "No model listened" in (tmp_path / "out" / "b.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of --folder"),
        (("--folder", "a", "--manifest", "b"), "give one of --folder"),
        (("--folder", "a", "--accept", "typo"), "--accept typo: there is no such error"),
        (("--manifest", "nowhere.jsonl"), "nowhere.jsonl: there is no such file"),
    ],
)
def test_what_cannot_be_linted_is_an_error_of_its_own(command, arguments, message):
    """A wrong call is no finding: it says what is wrong with it."""
    done = command(*arguments)
    assert done.exit_code == 1
    assert message in str(done.exception)


def test_too_little_to_split_is_a_finding(command, folder, tmp_path):
    """What training would refuse is told as an error, with its reason."""
    metadata = folder / "metadata.csv"
    metadata.write_text("".join(metadata.read_text(encoding="utf-8").splitlines(keepends=True)[:2]), encoding="utf-8")
    done = command("--folder", folder, "--language", "it", "--no-model")
    assert done.exit_code == 3
    (error,) = read_report(tmp_path)[0].errors
    assert error.code == "refused"
    assert "cannot split the data" in error.what


def test_a_wanted_difference_that_cannot_show_is_an_error(clips, tokenizer, tmp_path):
    """Asked for one point of WER, twelve test clips are refused, and how many more are needed is said."""
    data = clips(48)
    report = lint(data, [], tokenizer=tokenizer, audio_root=tmp_path, detect=0.01)
    (error,) = [one for one in report.errors if one.code == "cannot_decide"]
    assert error.where == "it test"
    assert f"add {report.power['it test'].more_clips} clips" in error.todo
    assert report.power["it test"].more_clips > 100
    assert "cannot_decide" not in {one.code for one in lint(data, [], tokenizer=tokenizer, detect=1.0).errors}


def test_rows_left_out_by_a_sources_rule_are_no_fault(clips, tokenizer):
    """Only faulty rows are findings; an unknown reason is one too, with its name."""
    dropped = [
        Dropped(id="a", source="s", reason="one_word", detail="x", by_source_rule=True),
        Dropped(id="b", source="s", reason="odd_reason", detail="two cells"),
        Dropped(id="c", source="s", reason="empty_text", detail="no word"),
    ]
    report = lint(clips(24), dropped, tokenizer=tokenizer)
    rows = {one.code: (one.ids, one.details) for one in report.errors if one.code in {"unusable_row", "empty_text"}}
    assert rows == {"unusable_row": (("b",), ("odd_reason: two cells",)), "empty_text": (("c",), ("no word",))}
    assert report.left_out == {"one_word": 1}


def test_errors_come_first(clips, tokenizer):
    """Who reads three lines reads the worst three."""
    levels = [one.level for one in lint(clips(24), [], tokenizer=tokenizer).findings]
    assert levels == sorted(levels)
    assert "error" in levels  # the files do not exist


def test_every_code_is_documented_as_what_it_is():
    """docs/training/lint.md lists all codes, each as error or warning and in the report's own words, and no other."""
    text = (ROOT / "docs" / "training" / "lint.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (error|warning) \| (.*) \| (.*) \|$", text, flags=re.MULTILINE)
    assert {code: tuple(row) for code, *row in listed} == {
        code: (rule.level, rule.what, rule.todo) for code, rule in CODES.items()
    }
    assert len(listed) == len(CODES)


def test_every_reason_of_the_row_checks_has_a_code():
    """A row that `training.data.checks` drops is not a nameless one here."""
    source = (ROOT / "training" / "data" / "checks.py").read_text(encoding="utf-8")
    reasons = set(re.findall(r'drop\(row, "(\w+)"', source)) | {"zero_length", "too_long", "undecodable"}
    assert len(reasons) >= 8
    assert reasons <= set(CODES)


def test_the_cost_is_arithmetic(tiny, clips, tokenizer, short_config):
    """Steps, hours, price and disk from a known second a step; a time budget ends it sooner."""
    data = clips(48)  # 24 to train on
    config = short_config(batch_size=4, gradient_accumulation_steps=2, max_steps=60)
    cost = estimate(config, tiny.checkpoint, data, tokenizer, seconds_per_step=60.0, price_per_hour=2.0)
    assert (cost.steps_per_epoch, cost.steps, cost.epochs) == (3, 60, 20)
    assert cost.training_hours == pytest.approx(1.0)
    assert cost.price == pytest.approx(2.0)
    assert cost.hours == pytest.approx(sum(u.audio.duration for u in data if u.split == "train") / 3600)
    assert cost.disk_gb == pytest.approx(30 * sum(parameters(tiny.checkpoint)) / 1e9)
    budgeted = estimate(
        short_config(batch_size=4, max_steps=60, time_budget_s=600.0), tiny.checkpoint, data, tokenizer,
        seconds_per_step=60.0,
    )  # fmt: skip
    assert (budgeted.steps, budgeted.price) == (10, None)
    assert budgeted.training_hours == pytest.approx(1 / 6)


def test_parameters_are_counted_from_the_weights(tiny):
    """As many as transformers counts, encoder and decoder apart."""
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(tiny.checkpoint)
    encoder = sum(p.numel() for p in model.model.encoder.parameters())
    assert parameters(tiny.checkpoint) == (encoder, sum(p.numel() for p in model.parameters()) - encoder)


def test_longer_clips_and_larger_batches_are_estimated_to_cost_more(tiny, clips, tokenizer, short_config):
    """Without a probe, the time follows from positions and parameters: twice the batch, twice the time, about."""
    small, large = (estimate(short_config(batch_size=size), tiny.checkpoint, clips(24), tokenizer) for size in (2, 16))
    assert "GFLOP/s" in small.how
    assert large.seconds_per_step > 3 * small.seconds_per_step


def test_the_probe_times_real_steps_and_leaves_nothing(tiny, noise_clips, short_config, tmp_path):
    """Three steps of the real trainer; its folder is gone after."""
    shutil.copytree(tiny.checkpoint, tmp_path / "base", ignore=shutil.ignore_patterns("ctranslate2"))
    clips, folder = noise_clips
    data = [u.model_copy(update={"split": "dev" if i < 2 else "train"}) for i, u in enumerate(clips)]
    seconds = time_steps(short_config(), tmp_path / "base", data, folder, tmp_path / "runs")
    assert 0 < seconds < 60
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("rate", [1e-7, 3e-3])
def test_a_learning_rate_from_elsewhere_is_said(folder, tiny_registry, tmp_path, monkeypatch, rate):
    """By lint, as a warning of its own, and by a run before it trains; a usual one is not mentioned."""
    monkeypatch.setitem(USUAL, 16, 1e-4)  # the tiny model's width
    runs = ["--registry", str(tiny_registry.root), "--runs", str(tmp_path / "runs")]
    recipe = tmp_path / "recipe.toml"

    def said(command, learning_rate):
        recipe.write_text(
            f'name = "x"\nbase = "tiny@production"\nlearning_rate = {learning_rate}\n'
            f'[[sources]]\nkind = "folder"\npath = {json.dumps(str(folder))}\nlanguage = "it"\n'
        )
        return CliRunner().invoke(app, [*command, "--config", str(recipe), *runs])

    def trained(*_args):
        raise StepError("it got as far as training")

    monkeypatch.setattr("training.run._run", trained)
    linted = said(["lint", "--no-model"], rate)
    assert linted.exit_code == 0, linted.output
    assert "warning unusual_learning_rate" in linted.output
    run = said(["run"], rate)
    assert str(run.exception) == "it got as far as training", run.output
    assert f"warning: learning_rate is {rate:g}" in run.output
    for usual in (said(["lint", "--no-model"], 1e-4), said(["run"], 1e-4)):
        assert "unusual_learning_rate" not in usual.output
        assert "learning_rate is" not in usual.output


@pytest.mark.parametrize("name", ["run", "retrain"])
def test_what_lint_refuses_can_be_accepted(folder, tiny_registry, tmp_path, monkeypatch, name):
    """Errors end a training with their codes before it begins; with the codes accepted, the same data are learned."""
    rows = (folder / "metadata.csv").read_text(encoding="utf-8").splitlines()
    shutil.copyfile(folder / "0.wav", folder / "11.wav")  # one recording in train and in test
    splits = ["split", *["train"] * 9, "dev", "test", "test"]
    table = "\n".join(f"{row},{split}" for row, split in zip(rows, splits, strict=True))
    (folder / "metadata.csv").write_text(table + "\n", encoding="utf-8")

    def trained(*_args, **_options):
        raise StepError("it got as far as training")

    monkeypatch.setattr("training.run._run", trained)
    command = [name, "--folder", str(folder), "--language", "it", "--base", "tiny@production"]
    command += ["--registry", str(tiny_registry.root), "--runs", str(tmp_path / "runs")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 3, refused.output
    codes = re.search(r"errors in the data \(([\w, ]+)\)", refused.output)[1].split(", ")
    assert CliRunner().invoke(app, command).exit_code == 3  # until they are mended
    accepted = CliRunner().invoke(app, [*command, *(part for code in codes for part in ("--accept", code))])
    assert str(accepted.exception) == "it got as far as training"
    wrong = CliRunner().invoke(app, [*command, "--accept", "typo"])
    assert "--accept typo: there is no such error" in str(wrong.exception)


def test_clips_without_speech_are_no_errors(clips, utterance, tokenizer):
    """That nobody speaks in them is what they say: they have no text to be wrong."""
    silent = utterance("silence", "x").model_copy(update={"text": "", "no_speech": True})
    report = lint([*clips(12), silent], [], tokenizer=tokenizer)
    codes = {one.code for one in (*report.errors, *report.warnings)}
    assert not codes & {"empty_text", "repetitive_text", "other_script"}


def test_a_base_that_a_later_rule_refuses_is_not_trained(tiny, folder, tmp_path):
    """It was imported before the rule: the run says so at its start, and not at the export, after all the training."""
    old = tmp_path / "old"
    shutil.copytree(tiny.checkpoint, old)
    config = json.loads((old / "config.json").read_text()) | {"vocab_size": 100}
    (old / "config.json").write_text(json.dumps(config))
    registry = Registry(tmp_path / "registry")
    version = registry.publish("old", old, context={"elastic": False, "margin": 0})
    command = ["run", "--folder", str(folder), "--language", "it", "--base", version.ref]
    done = CliRunner().invoke(app, [*command, "--registry", str(registry.root), "--runs", str(tmp_path / "runs")])
    assert str(done.exception).startswith(f"{version.ref} cannot be a base: config.json: vocab_size is 100")
