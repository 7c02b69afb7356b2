"""How a step is shared among processes, and what one process does without others."""

from datetime import timedelta

import pytest

from training.config import ConfigError
from training.devices import _join, divide_batch, largest, n_processes, on_all, rank, wait_for_all


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "processes", "expected"),
    [(8, 2, 1, (8, 2)), (8, 2, 2, (8, 1)), (8, 1, 2, (4, 1)), (8, 1, 8, (1, 1)), (6, 2, 4, (3, 1)), (4, 3, 2, (3, 2))],
)
def test_a_step_is_the_same_clips_on_any_number_of_processes(batch_size, accumulation, processes, expected):
    """Each has an even share, in forward passes that are no larger than the recipe allows."""
    assert divide_batch(batch_size, accumulation, processes) == expected
    each, passes = expected
    assert each * passes * processes == batch_size * accumulation
    assert each <= batch_size


def test_a_step_that_cannot_be_shared_is_refused():
    """The message names both fields and the number."""
    with pytest.raises(ConfigError, match=r"3 processes cannot share the 8 clips .*batch_size \(8\).*multiple of 3"):
        divide_batch(8, 1, 3)


def test_one_process_is_first_and_asks_nobody(monkeypatch):
    """Without torchrun's variables nothing waits and nothing is sent."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (rank(), n_processes()) == (0, 1)
    wait_for_all()
    assert largest(3.5) == 3.5
    assert on_all(divmod, 7, 2) == (3, 1)


def test_failure_30_who_waits_for_the_first_waits_for_hours(monkeypatch):
    """Reading a large data set takes the first process longer than the minutes after which torch gives up by itself."""
    given = {}
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: False)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda _backend, **more: given.update(more))
    _join()
    assert given["timeout"] >= timedelta(hours=12)
