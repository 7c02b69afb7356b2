"""`python -m benchmarks training`: what is changed, what is held out, and what the tables say."""

import math
from dataclasses import replace

import pytest

from benchmarks.recipe.clock import FIRST_STEPS, StepClock
from benchmarks.recipe.report import padding_report, report, speed_report
from benchmarks.recipe.rows import CROSS_VALIDATION, FOLDS, PADDING, RECIPE, ROWS, Heard, Laboratory, changed, fold_of
from benchmarks.recipe.speed import Speed
from speech.context import ElasticContext
from training.config import read_config
from training.data.manifest import AudioSlice, Utterance
from training.evaluate import Hypothesis
from training.prepare import Data, DataReport

SPEED = Speed((0.5, 0.4), (2.0, 2.4), None, None)


def utterance(i, language="it", text=None):
    """Make an utterance of one second."""
    audio = AudioSlice(path=f"{i}.wav", sha256="0" * 64, offset=0.0, duration=1.0)
    return Utterance(id=f"{language}-{i}", audio=audio, text=text or f"frase numero {i}", language=language, source="s")


def heard(row, wrong, *, alpha=1.0, context=None):
    """Make what a row heard: `wrong` of ten words a language, and of the guard, are not right."""
    context = context or ElasticContext(elastic=True, margin=32)

    def hypothesis(language, i):
        text = f"parola {i}"
        return Hypothesis(id=f"{language}-{i}", language=language, reference=text, hypothesis="" if i < wrong else text)

    learned = [hypothesis(language, i) for language in ("it", "ru") for i in range(10)]
    return Heard(row, alpha, context, 200, learned, [hypothesis("en", i) for i in range(10)])


@pytest.mark.parametrize("row", [*ROWS, *PADDING, *CROSS_VALIDATION], ids=lambda row: row.name)
def test_every_row_is_a_recipe_of_its_own(row):
    """A row's config is valid, differs from the recipe in what it names alone, and rehearses only if it says so."""
    recipe = read_config(RECIPE)
    plain, this = changed(recipe, ROWS[0]).model_dump(mode="json"), changed(recipe, row).model_dump(mode="json")
    different = {name for name in plain if plain[name] != this[name]}
    assert different - set(row.changes) <= ({"replay"} if row.replay else set())
    assert bool(this["replay"]) == row.replay
    assert row.fold is not None or row.replay or row.doubled_start or different or row is ROWS[0]


def test_rows_have_names_of_their_own():
    """No two rows are kept in one folder."""
    names = [row.name for row in (*ROWS, *PADDING, *CROSS_VALIDATION)]
    assert len(set(names)) == len(names)


def test_a_sentence_is_in_one_fold():
    """However it is written, a sentence is held out in one fold; every clip is held out once; no fold is empty."""
    assert fold_of(utterance(1, text="Buongiorno, Anna!")) == fold_of(utterance(2, text="buongiorno anna"))
    clips = [utterance(i) for i in range(200)]
    recipe = read_config(RECIPE, dev_clips=4)
    laboratory = Laboratory(recipe, None, Data(clips, DataReport.of(clips, []), "f"), None)
    tested = []
    for fold in range(FOLDS):
        divided = laboratory.clips(fold)
        held = {one.id for one in divided["test"]}
        assert held
        assert not held & {one.id for name in ("train", "dev") for one in divided[name]}
        assert sum(len(part) for part in divided.values()) == len(clips)
        assert len(divided["dev"]) == 4
        tested += held
    assert sorted(tested) == sorted(one.id for one in clips)


def test_the_table_says_what_was_measured():
    """Each row has its rates, its paired difference to the recipe and that of English to the base; alphas are named."""
    base = heard("base", 4, context=ElasticContext())
    rows = [[heard("the recipe", 3, alpha=0.5), heard("the recipe", 2)], [heard("noise", 1)]]
    text = report(base, rows, [(base, replace(heard("fold 1", 1), row="fold 1"))])
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "| 0.400 | 0.400 |" in lines["the base, at 30 s"]
    assert "| 0.300 | 0.300 | +0.100 [" in lines["the recipe, α 0.5"]
    assert "| 0.200 | 0.200 |  | -0.200 [" in lines["the recipe"]
    assert "| 0.100 | 0.100 | -0.100 [" in lines["noise"]
    assert "| 20 | 0.400 | 0.100 | 0.400 | 0.100 | -0.300 [" in lines["1"]
    assert "200 steps a row" in text
    assert "20 held-out clips" in text


def test_padding_alone_is_between_the_two():
    """Short and padded differ in the share of steps at 30 s and in nothing else."""
    short, padded = (changed(read_config(RECIPE), row).model_dump() for row in PADDING)
    assert {name for name in short if short[name] != padded[name]} == {"full_context_share"}
    assert padded["full_context_share"] == 1.0


@pytest.mark.parametrize(
    ("wrong", "verdict"), [(1, "served at a margin of 32"), (3, "served at 30 s"), (4, "served at none of these")]
)
def test_short_against_padded_has_a_verdict(wrong, verdict):
    """The upper end of the difference decides, and the ratio of the times is padded over short."""
    base = heard("base", 4, context=ElasticContext())
    elastic = ElasticContext(elastic=True, margin=32)
    short = [
        replace(heard("short", wrong, context=elastic), seconds_a_step=0.5),
        replace(heard("short", 1 if wrong == 3 else 4, context=ElasticContext()), seconds_a_step=0.5),
    ]
    padded = replace(heard("padded", 2, context=ElasticContext()), seconds_a_step=3.0)
    text = padding_report(base, short, padded, full_share=0.02)
    rate = f"0.{wrong}00"
    assert f"| short | 0.50 | a margin of 32 | {rate} | {rate} | {rate} | {(wrong - 2) / 10:+.3f} [" in text
    assert "| padded | 3.00 | 30 s | 0.200 | 0.200 | 0.200 | | |" in text
    assert f"by the interval's upper end: {verdict}. " in text
    assert "6.0 times faster" in text
    lost = padding_report(base, [replace(one, seconds_a_step=math.nan) for one in short], padded, full_share=0.02)
    assert "The times were lost." in lost
    assert "nan times" not in lost
    assert "with 2 % of the steps at 30 s" in text


def test_speed_is_a_ratio_of_the_fastest_rounds():
    """Elastic steps are compared with padded ones, and a recipe's share of padded steps is paid for."""
    assert SPEED.ratio == pytest.approx(5.0)
    assert SPEED.with_full_share(0.0) == pytest.approx(5.0)
    assert SPEED.with_full_share(1.0) == pytest.approx(1.0)
    assert SPEED.with_full_share(0.25) == pytest.approx(2.0 / (0.75 * 0.4 + 0.25 * 2.0))
    text = speed_report(SPEED, batch_size=8, full_share=0.25)
    assert "| elastic | 400 | 5.0 |" in text
    assert "25 % of the steps at 30 s" in text
    assert "GiB" not in text
    assert "1.0 GiB elastic, 3.0 GiB padded" in speed_report(
        Speed((1.0,), (2.0,), 2**30, 3 * 2**30), batch_size=8, full_share=0.0
    )


def test_the_clock_leaves_the_first_steps_out():
    """Libraries warm up in the first steps; the mean is of those after them."""
    clock = StepClock()
    clock.ends = [*[10.0, 20.0, 30.0][:FIRST_STEPS], 31.0, 32.0, 33.5]
    assert clock.seconds_a_step == pytest.approx(3.5 / 3)
