"""The promises of the data report."""

import json

import pytest

from training.data.report import DataReport, Dropped, TooManyDroppedError


def faulty(n, reason="missing_file", *, by_source_rule=False):
    """Make dropped rows."""
    return [
        Dropped(id=f"{reason}-{i}", source="test", reason=reason, detail="", by_source_rule=by_source_rule)
        for i in range(n)
    ]


def test_it_counts_clips_and_seconds_per_language_and_split(make_utterance):
    """A reader sees what there is of each language and split."""
    report = DataReport.of(
        [
            make_utterance("a", split="train", duration=1.5),
            make_utterance("b", split="train", duration=2.0),
            make_utterance("c", split="test", duration=1.0),
            make_utterance("d", language="ru", duration=4.0),
        ],
        [],
    )
    assert report.model_dump()["kept"] == {
        "it": {"test": {"clips": 1, "seconds": 1.0}, "train": {"clips": 2, "seconds": 3.5}},
        "ru": {"unsplit": {"clips": 1, "seconds": 4.0}},
    }
    assert report.n_kept == 4


def test_it_tells_faults_from_the_sources_own_rules(make_utterance):
    """What a source leaves out by design is counted apart."""
    report = DataReport.of(
        [make_utterance()], faulty(2) + faulty(1, "undecodable") + faulty(7, "one_word", by_source_rule=True)
    )
    assert report.faulty == {"missing_file": 2, "undecodable": 1}
    assert report.left_out == {"one_word": 7}
    assert report.n_faulty == 3


def test_up_to_the_limit_is_accepted(make_utterance):
    """Exactly 5 % faulty rows pass."""
    DataReport.of([make_utterance(str(i)) for i in range(95)], faulty(5)).check()


def test_above_the_limit_is_refused_with_reasons_and_ids(make_utterance):
    """The message is enough to start repairing: counts per reason, and the first ids."""
    report = DataReport.of([make_utterance(str(i)) for i in range(93)], faulty(6, "empty_text") + faulty(1, "too_long"))
    with pytest.raises(TooManyDroppedError) as caught:
        report.check()
    message = str(caught.value)
    assert "7 of 100 rows" in message
    assert "empty_text: 6 (empty_text-0, empty_text-1, empty_text-2, empty_text-3, empty_text-4, …)" in message
    assert "too_long: 1 (too_long-0)" in message
    report.check(limit=0.07)


def test_the_sources_own_rules_do_not_count_against_it(make_utterance):
    """A source may leave out most of what it has without being called faulty."""
    DataReport.of([make_utterance()], faulty(500, "one_word", by_source_rule=True)).check()


@pytest.mark.parametrize("dropped", [[], faulty(3), faulty(3, by_source_rule=True)])
def test_an_empty_data_set_is_refused(dropped):
    """When nothing is left there is nothing to train on, whatever the reason."""
    with pytest.raises(TooManyDroppedError):
        DataReport.of([], dropped).check()


def test_it_is_written_as_json(tmp_path, make_utterance):
    """The file holds the counts and every dropped row."""
    path = tmp_path / "run" / "data_report.json"
    report = DataReport.of([make_utterance()], faulty(1))
    report.write(path)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["faulty"] == {"missing_file": 1}
    assert written["dropped"][0]["id"] == "missing_file-0"
    assert DataReport.model_validate_json(path.read_text(encoding="utf-8")) == report
