"""The loop, closed: a running service is corrected, learns from that, and answers better, with no failed request."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from corrections import CorrectionStore
from registry import Registry
from training.loop_demo import LANGUAGE, OTHER_LANGUAGE

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

MIN_CORRECTED, MIN_EXACT = 60, 0.8


def test_a_corrected_service_learns(base_source, prompts, tmp_path):
    """Sixty clips at least are corrected over HTTP; the gate promotes what was learned; the service swaps to it.

    On clips that nobody corrected, the upper bound of the WER's difference is below zero; of the corrected ones, four
    in five come out exact; English was rehearsed; nobody who kept asking got an error; a second retraining has nothing
    to do.
    """
    for language in (LANGUAGE, OTHER_LANGUAGE):
        prompts(language)  # fetches them, or skips
    runs = Path(base_source).parents[1]
    for name in ("demo", "data"):  # what was downloaded
        (tmp_path / name).symlink_to(runs / name)
    registry = tmp_path / "registry"
    command = [sys.executable, "-m", "training", "loop-demo", "--registry", str(registry), "--runs", str(tmp_path)]
    done = subprocess.run([*command, "--port", "8700"], capture_output=True, text=True, check=False)
    print(done.stdout)  # noqa: T201 - the figures
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "loop-demo" / "report.json").read_text())
    assert report["corrected_clips"] >= MIN_CORRECTED
    assert report["wer_difference"][2] < 0
    assert report["exact_after"] >= MIN_EXACT
    assert report["requests_failed"] == 0
    assert report["versions_that_answered"] == [report["before"], report["after"]]
    assert "no change" in report["second_retrain"]
    store = CorrectionStore(f"sqlite:///{tmp_path}/loop-demo/corrections.db")
    assert store.count().clips == report["corrected_clips"]
    store.close()
    production = Registry(registry).resolve("loop@production")
    assert production.ref == report["after"]
    learned = json.loads((production.path / "data.json").read_text())
    assert {name: part["languages"] for name, part in learned["replay"].items()} == {"folder:general": [OTHER_LANGUAGE]}
