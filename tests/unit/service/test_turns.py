"""Whose turn it is."""

import asyncio

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.turns import Item, Job, Queue
from speech.audio import SAMPLE_RATE
from speech.engine import Window

WINDOW = Window(np.zeros(SAMPLE_RATE, np.float32))


def make_queue(*buckets: list[int]) -> Queue:
    """Make a queue of requests, given the buckets of their windows."""
    loop = asyncio.new_event_loop()
    queue = Queue()
    for positions in buckets:
        job = Job(remaining_s=float(len(positions)))
        job.waiting.extend(Item(job, WINDOW, p, loop.create_future()) for p in positions)
        queue.jobs.append(job)
    loop.close()
    return queue


def served(queue: Queue, names: list[Job], max_size: int) -> list[int]:
    """Take a batch, decode it, and tell whose windows it held."""
    batch = queue.next_batch(lambda _: max_size)
    queue.mark_decoded(batch)
    return [names.index(item.job) for item in batch]


def test_a_batch_takes_one_window_of_each_request_before_a_second_of_any():
    """A batch is shared between requests before it is filled with more of one."""
    queue = make_queue([64] * 9, [64] * 2, [64])
    assert served(queue, list(queue.jobs), 8) == [0, 1, 2, 0, 1, 0, 0, 0]


def test_the_first_window_of_the_turn_decides_the_bucket():
    """Requests with windows of another bucket sit the batch out, and lose nothing by it."""
    queue = make_queue([64, 1500], [1500], [64])
    names = list(queue.jobs)
    assert served(queue, names, 8) == [0, 2]
    assert served(queue, names, 8) == [1, 0]


def test_who_was_served_goes_to_the_back():
    """With batches of one, requests alternate whatever their length."""
    queue = make_queue([64] * 3, [64] * 3, [64])
    names = list(queue.jobs)
    assert [served(queue, names, 1)[0] for _ in range(7)] == [0, 1, 2, 0, 1, 0, 1]


def test_the_bucket_decides_the_size_of_the_batch():
    """Many short windows go together, and few long ones."""
    queue = make_queue([64] * 9 + [1500] * 9)
    sizes = []
    while batch := queue.next_batch(lambda positions: 2 if positions == 1500 else 8):
        queue.mark_decoded(batch)
        sizes.append((batch[0].positions, len(batch)))
    assert sizes == [(64, 8), (64, 1), *[(1500, 2)] * 4, (1500, 1)]


def test_an_empty_queue_asks_for_no_size():
    """Where nothing waits there is no bucket to ask about."""
    queue = make_queue([])
    assert queue.next_batch(lambda _: 1 // 0) == []


def test_who_comes_during_a_batch_goes_before_who_is_in_it():
    """A newcomer's first window is in the next batch."""
    queue = make_queue([64] * 20)
    batch = queue.next_batch(lambda _: 8)
    queue.jobs.extend(make_queue([1500]).jobs)
    queue.mark_decoded(batch)
    assert queue.next_batch(lambda _: 8)[0].positions == 1500


def test_newcomers_do_not_starve_a_film():
    """A film gets every other batch, though a clip of another bucket comes as often as one can be decoded."""
    queue = make_queue([1500] * 5)
    film = queue.jobs[0]
    order = []
    while film.waiting:
        batch = queue.next_batch(lambda _: 1)
        order.append(batch[0].job is film)
        if len(order) % 2:
            queue.jobs.extend(make_queue([64]).jobs)
        queue.mark_decoded(batch)
    assert order == [True, False] * 4 + [True]


def test_a_request_waits_for_no_more_of_another_than_it_has_itself():
    """Seconds ahead count each other request up to the newcomer's own length."""
    queue = make_queue([64] * 100, [64] * 3)
    assert queue.seconds_ahead(0.5) == 1.0
    assert queue.seconds_ahead(10) == 13.0
    assert queue.seconds_ahead(1000) == 103.0
    assert Queue().seconds_ahead(1000) == 0


@given(
    st.lists(st.lists(st.sampled_from([64, 96, 1500]), min_size=1, max_size=12), min_size=1, max_size=8),
    st.integers(1, 8),
)
def test_every_window_is_decoded_once_in_batches_of_one_bucket(buckets, max_size):
    """Whatever waits: no window is lost or decoded twice, no bucket mixed, no batch too large, nobody starved."""
    queue = make_queue(*buckets)
    expected = {item for job in queue.jobs for item in job.waiting}
    n_jobs = len(queue.jobs)
    seen: list[Item] = []
    unserved = dict.fromkeys(queue.jobs, 0)
    while batch := queue.next_batch(lambda _: max_size):
        assert len(batch) <= max_size
        assert len({item.positions for item in batch}) == 1
        in_batch = {item.job for item in batch}
        for job in queue.jobs:
            unserved[job] = 0 if job in in_batch or not job.waiting else unserved[job] + 1
            assert unserved[job] < n_jobs
        queue.mark_decoded(batch)
        seen += batch
    assert len(seen) == len(expected)
    assert set(seen) == expected
    assert all(job.remaining_s == 0 for job in queue.jobs)
