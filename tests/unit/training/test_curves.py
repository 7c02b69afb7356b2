"""The pictures of a run: what was logged, also over an interruption, and nothing else."""

import struct
import time

import pytest
from torch.utils.tensorboard import SummaryWriter

from training.curves import PICTURES, draw_curves, logged_seconds, read_curves


def log(folder, points, *, at, tag="train/loss"):
    """Log points (step, value) as one start of a run does, one a second from `at`."""
    with SummaryWriter(str(folder), filename_suffix=f".{at}") as writer:
        for i, (step, value) in enumerate(points):
            writer.add_scalar(tag, value, step, walltime=at + i)


def test_what_was_logged_is_read(tmp_path):
    """Every scalar comes back under its tag, by step."""
    log(tmp_path, [(5, 2.0), (10, 1.5)], at=time.time())
    log(tmp_path, [(10, 0.25)], at=time.time(), tag="eval/wer")
    assert read_curves(tmp_path) == {"train/loss": [(5, 2.0), (10, 1.5)], "eval/wer": [(10, 0.25)]}


def test_a_resumed_run_is_one_curve(tmp_path):
    """Steps that were logged before an interruption and again after it are those of the second time."""
    now = time.time()
    log(tmp_path, [(5, 2.0), (10, 1.5), (15, 9.0)], at=now)
    log(tmp_path, [(15, 1.25), (20, 1.0)], at=now + 100)
    assert read_curves(tmp_path) == {"train/loss": [(5, 2.0), (10, 1.5), (15, 1.25), (20, 1.0)]}


def test_the_time_is_that_of_each_start(tmp_path):
    """What lay between two starts is no training time."""
    now = time.time()
    log(tmp_path, [(5, 2.0), (10, 1.5), (15, 1.0)], at=now + 10)
    assert logged_seconds(tmp_path) == pytest.approx(12, abs=1)
    log(tmp_path, [(20, 1.0)], at=now + 5_000)
    assert logged_seconds(tmp_path) == pytest.approx(12 + 5_000, abs=3)  # this start began now, and logged much later


def test_a_start_that_logged_nothing_is_no_matter(tmp_path):
    """Event files that are empty, or hold nothing yet, change nothing."""
    (tmp_path / "events.out.tfevents.1.host.1.0").touch()
    SummaryWriter(str(tmp_path)).close()
    log(tmp_path, [(5, 2.0)], at=time.time())
    assert read_curves(tmp_path) == {"train/loss": [(5, 2.0)]}
    assert logged_seconds(tmp_path) < 60


def test_no_logs_are_no_curves(tmp_path):
    """A run without logs has no curve, no time and no picture."""
    assert read_curves(tmp_path / "nothing") == {}
    assert logged_seconds(tmp_path / "nothing") == 0
    assert draw_curves({}, tmp_path / "curves") == []
    assert draw_curves({"train/learning_rate": [(1, 0.1)]}, tmp_path / "curves") == []
    assert draw_curves({"train/loss": [(1, float("nan")), (2, float("inf"))]}, tmp_path / "curves") == []
    assert not (tmp_path / "curves").exists()


def test_pictures_are_drawn(tmp_path):
    """Each picture is a PNG of its size, the same for the same points, and another for others."""
    curves = {"train/loss": [(i, 3.0 / i) for i in range(1, 60)], "eval/loss": [(30, 0.2)], "eval/wer": [(30, 0.25)]}
    assert draw_curves(curves, tmp_path / "one") == list(PICTURES)
    draw_curves(curves, tmp_path / "two")
    draw_curves({**curves, "eval/wer": [(30, 0.5)]}, tmp_path / "three")
    for name in PICTURES:
        content = (tmp_path / "one" / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert struct.unpack(">II", content[16:24]) == (840, 420)
        assert content == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one" / "wer.png").read_bytes() != (tmp_path / "three" / "wer.png").read_bytes()
    assert (tmp_path / "one" / "loss.png").read_bytes() == (tmp_path / "three" / "loss.png").read_bytes()
