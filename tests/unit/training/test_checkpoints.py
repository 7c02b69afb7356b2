"""What makes a checkpoint whole, which one is gone on from, and what is kept."""

import errno
import shutil

import pytest

from training.checkpoints import SEAL, SaveError, checkpoint_path, discard, last_checkpoint, prune, saving, seal


@pytest.fixture
def make(tmp_path):
    """Return the function that makes a sealed checkpoint of a step."""

    def checkpoint(step, **settings):
        path = checkpoint_path(tmp_path, step)
        (path / "global_step").mkdir(parents=True)
        (path / "model.safetensors").write_bytes(b"weights %d" % step)
        (path / "global_step" / "optimizer.pt").write_bytes(b"moments")
        seal(path, step=step, **{"finished": False, "threads": 2, **settings})
        return path

    return checkpoint


def test_the_newest_whole_checkpoint_is_found(make, tmp_path):
    """By number and not by name, with what its seal says; where there is none, none."""
    make(9)
    newest = make(10, finished=True)
    found = last_checkpoint(tmp_path)
    assert found.path == newest
    assert (found.seal.step, found.seal.finished, found.seal.threads) == (10, True, 2)
    assert set(found.seal.files) == {"model.safetensors", "global_step/optimizer.pt"}
    assert last_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path / SEAL).unlink(),
        lambda path: (path / SEAL).write_bytes((path / SEAL).read_bytes()[:-20]),
        lambda path: (path / SEAL).write_bytes(b""),
        lambda path: (path / "model.safetensors").unlink(),
        lambda path: (path / "model.safetensors").write_bytes(b"weights"),
        lambda path: (path / "model.safetensors").write_bytes(b"Weights 6"),
        lambda path: shutil.copytree(path, path.with_name("checkpoint-7")),
    ],
    ids=["no seal", "half a seal", "an empty seal", "a file gone", "half a file", "another byte", "another's seal"],
)
def test_a_spoilt_checkpoint_is_passed_over(make, tmp_path, spoil):
    """One that a kill or a disk spoilt is not taken; the one before it is, or that the seal was made for."""
    before, last = make(3), make(6)
    spoil(last)
    expected = last if (tmp_path / "checkpoint-7").exists() else before
    assert last_checkpoint(tmp_path).path == expected


def test_two_whole_ones_are_kept_and_what_is_spared(make, tmp_path):
    """Older ones go, and what kills left half written; the best one stays, and what is no checkpoint."""
    for step in (2, 4, 6, 10):
        make(step)
    checkpoint_path(tmp_path, 8).mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    prune(tmp_path, spare=checkpoint_path(tmp_path, 2))
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"checkpoint-{step}" for step in (2, 6, 10)),
        "checkpoint-best",
    }


def test_a_half_removed_checkpoint_is_not_whole(make, tmp_path, monkeypatch):
    """The seal goes first: a kill in the middle of removing leaves nothing that looks whole."""
    path = make(1)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    discard(path)
    assert path.is_dir()
    assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "whatever"), "No space left on device"),
        (RuntimeError("[enforce fail at inline_container.cc:858] . failed writing"), "torch could not write a file"),
    ],
)
def test_a_disk_that_refuses_is_said_in_one_line(tmp_path, error, reason):
    """What was saved, where, why not, and what to do."""
    with (
        pytest.raises(SaveError) as caught,
        saving("the checkpoint of step 3", tmp_path, "the same command starts over"),
    ):
        raise error
    assert str(caught.value) == (
        f"the checkpoint of step 3 could not be written to {tmp_path}: {reason}. "
        "Free some room there, or name another disk with --runs; the same command starts over"
    )


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, SaveError, ValueError])
def test_other_errors_are_no_matter_of_the_disk(tmp_path, error):
    """A bug in saving stays a bug, with its traceback; what was said once is not said again."""
    with pytest.raises(error, match=r"^shape mismatch$"), saving("it", tmp_path, "then"):
        raise error("shape mismatch")
