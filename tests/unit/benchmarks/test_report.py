"""docs/benchmarks.md comes from the results alone."""

from benchmarks.report import markdown, number, table, write_report

DETAIL = {
    "engine_throughput": {
        "set_ups": {"default engine": 25.0},
        "by_length": [{"low": 0.0, "high": 2.0, "clips": 7, "ours": 30.0, "theirs": 1.5}],
    },
    "http_throughput": {
        "ladder": {"ours": [{"clients": 4, "p50_s": 0.11, "p95_s": 0.2, "speed": 31.0}], "theirs": []},
    },
    "frontend_share": {"formats": {"mp3": {"decode_s": 0.01, "features_s": 0.02, "model_s": 0.97, "share": 0.03}}},
    "peers": {
        "rows": [
            {"name": "slow", "seconds": 20.0, "rtfx": 4.0, "wer": 0.1, "peak_mib": 900.0},
            {"name": "fast", "seconds": 2.0, "rtfx": 40.0, "wer": 0.1, "peak_mib": 300.0},
        ]
    },
    "computed_floor": {"encoder_gflop": 5.0, "token_gflop": 0.1, "token_megabytes": 50.0},
    "encoder_linearity": {},
}
MACHINE = {
    "date": "2026-11-22T15:00:00+00:00",
    "commit": "0123abc",
    "model": "whisper@1",
    "held_out_clips": 190,
    "full": False,
    "tuning": {"workers": 1},
    "processor": "AMD EPYC",
    "cores": 2,
    "flags": ["avx2"],
    "memory_gib": 23.5,
    "system": "Linux 6",
    "python": "3.11.7",
    "packages": {"numpy": "2"},
    "peers": {"faster-whisper": "1.2.1"},
}


def test_every_entry_is_in_the_table_and_has_its_section(entry):
    """Nothing that was measured is left out, whether its target was met or not."""
    entries = [entry(name, detail=detail) for name, detail in DETAIL.items()]
    document = markdown([*entries, entry("memory_idle", met=False)], MACHINE)
    for one in entries:
        assert document.count(one.title) == 2
    assert "**no**" in document
    assert "AMD EPYC" in document


def test_the_document_says_that_it_is_generated(entry):
    """Who opens it to change a figure learns the command first."""
    head = markdown([entry(detail=DETAIL["engine_throughput"])], MACHINE)[:300]
    assert "Generated" in head
    assert "python -m benchmarks report" in head


def test_the_same_results_make_the_same_document(tmp_path, entry):
    """There is no date, no order and no chance of its own in it."""
    entries = [entry(name, detail=detail) for name, detail in DETAIL.items()]
    for name in ("a.md", "b.md"):
        write_report(entries, MACHINE, tmp_path / name)
    assert (tmp_path / "a.md").read_bytes() == (tmp_path / "b.md").read_bytes()


def test_peers_are_sorted_by_their_time(entry):
    """The fastest is at the top."""
    document = markdown([entry("peers", detail=DETAIL["peers"])], MACHINE)
    assert document.index("| fast |") < document.index("| slow |")


def test_a_report_without_a_machine_is_a_report(entry):
    """Results alone are enough."""
    assert "Title of start_to_ready" in markdown([entry("start_to_ready", wer=None)], {})


def test_figures_have_three_digits():
    """Noise is not printed as precision."""
    assert [number(value) for value in (1234.5, 12.345, 0.12345)] == ["1234", "12.3", "0.123"]


def test_tables_are_markdown():
    """A head, a line below it, and one line a row."""
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | --: |\n| x | 1 |\n"
