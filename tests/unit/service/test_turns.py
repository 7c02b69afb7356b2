"""Whose turn it is."""

import asyncio
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.turns import INTERACTIVE_SHARE, UNKNOWN_S, Item, Job, Lane, Queue
from speech.audio import SAMPLE_RATE
from speech.engine import Window

WINDOW = Window(np.zeros(SAMPLE_RATE, np.float32))


LOOP = asyncio.new_event_loop()
LOOP.close()  # a future wants to belong to one; nobody waits for it here


def add(job: Job, *buckets: int) -> Job:
    """Let windows of a request wait, of a second each, given their buckets."""
    job.add([Item(job, WINDOW, positions, asyncio.Future(loop=LOOP)) for positions in buckets])
    return job


def make_queue(*buckets: list[int], lane: Lane = "interactive") -> Queue:
    """Make a queue of requests, given the buckets of their windows."""
    queue = Queue()
    queue.jobs += [add(Job(declared_s=float(len(positions)), lane=lane), *positions) for positions in buckets]
    return queue


def make_lanes(interactive: list[list[int]], batch: list[list[int]]) -> Queue:
    """Make a queue with requests in both lanes; the batch lane's came first."""
    queue = make_queue(*batch, lane="batch")
    queue.jobs += make_queue(*interactive).jobs
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


def test_who_is_waited_for_goes_first():
    """The batch lane waits as long as interactive requests are few, however early its requests came."""
    queue = make_lanes([[64] * 2, [64]], [[64] * 9])
    film, *clips = queue.jobs
    assert served(queue, [film, *clips], 8) == [1, 2, 1]
    assert served(queue, [film, *clips], 8) == [0] * 8


def test_lanes_do_not_share_a_batch():
    """Room beside a clip stays empty: the clip would wait for the film's windows in it."""
    queue = make_lanes([[64]], [[64] * 9])
    assert [item.job.lane for item in queue.next_batch(lambda _: 8)] == ["interactive"]


@pytest.mark.parametrize("film_bucket", [64, 1500])
def test_a_tenth_of_the_engine_is_the_batch_lanes(film_bucket):
    """While both lanes always have work, the batch lane gets its share of what the engine is paid for, and no more."""
    queue = make_lanes([], [[film_bucket] * 1500])
    paid: Counter[Lane] = Counter()
    for _ in range(3000):
        if not any(job.lane == "interactive" and job.waiting for job in queue.jobs):
            queue.jobs += make_queue([64] * 8).jobs
        batch = queue.next_batch(lambda _: 4)
        paid[batch[0].job.lane] += sum(item.positions for item in batch)
        queue.mark_decoded(batch)
    share = paid["batch"] / paid.total()
    assert share == pytest.approx(1 / (1 + INTERACTIVE_SHARE), rel=0.1)  # whole batches


def test_nobody_saves_up_turns():
    """A lane that had nothing to do has no claim on the time that others used meanwhile."""
    queue = make_lanes([[64] * 1000], [[64] * 2])
    for _ in range(8):
        assert queue.next_batch(lambda _: 1)[0].job.lane == "interactive"
    queue.jobs = [job for job in queue.jobs if job.lane == "interactive"]
    queue.next_batch(lambda _: 1)
    queue.jobs += make_queue([64], lane="batch").jobs
    for _ in range(INTERACTIVE_SHARE):
        assert queue.next_batch(lambda _: 1)[0].job.lane == "interactive"


def test_what_has_expired_is_passed_by():
    """A window whose request nobody waits for any longer is not begun, and who comes next is."""
    queue = make_queue([64], [64])
    late, next_one = queue.jobs
    late.deadline = 10.0
    assert [item.job for item in queue.next_batch(lambda _: 8, now=10.0)] == [next_one]
    assert queue.next_batch(lambda _: 8, now=10.0) == []
    assert [item.job for item in queue.next_batch(lambda _: 8, now=9.9)] == [late]


@pytest.mark.parametrize("declared_s", [0.0, 3.0, 100.0])
def test_a_request_lasts_what_it_declared_or_what_it_brought(declared_s):
    """Windows may come one after another: what is left is what is to come, or more."""
    queue = Queue()
    job = Job(declared_s)
    queue.jobs.append(job)
    assert job.remaining_s == declared_s
    assert job.progress == 0
    add(job, *[64] * 5)
    assert job.remaining_s == max(declared_s, 5)
    queue.mark_decoded(queue.next_batch(lambda _: 4))
    assert job.remaining_s == max(declared_s, 5) - 4
    assert job.progress == pytest.approx(4 / max(declared_s, 5))
    add(job, *[64] * 4)
    assert job.remaining_s == max(declared_s, 9) - 4


@pytest.mark.parametrize("declared_s", [0.0, 5.0])
def test_what_is_decoded_again_is_work_but_no_more_audio(declared_s):
    """It is waited for like the rest, and forgotten like the rest; what the request declared stays what it was."""
    queue = Queue()
    job = add(Job(declared_s), *[64] * 5)
    queue.jobs.append(job)
    queue.mark_decoded(queue.next_batch(lambda _: 4))
    first, second = (Item(job, WINDOW, 64, asyncio.Future(loop=LOOP)) for _ in range(2))
    job.add([first, second], again=True)
    assert list(job.waiting)[:2] == [first, second]
    assert (job.declared_s, job.remaining_s) == (declared_s, 3)
    assert job.progress == pytest.approx(4 / 7)
    job.withdraw(first)
    assert (job.declared_s, job.remaining_s) == (declared_s, 2)
    assert job.progress == pytest.approx(4 / 6)
    queue.mark_decoded(queue.next_batch(lambda _: 8))
    assert (job.remaining_s, job.progress) == (0, 1)


def test_a_window_that_was_withdrawn_is_not_waited_for():
    """Neither is it decoded, nor do others count it."""
    queue = make_queue([])
    (job,) = queue.jobs
    add(job, 64, 64)
    first, second = job.waiting
    job.withdraw(first)
    assert queue.next_batch(lambda _: 8) == [second]
    assert job.remaining_s == 1
    job.withdraw(second)  # taken meanwhile: the engine has it
    assert job.remaining_s == 1


def test_the_other_lane_is_ahead_by_its_share_only():
    """A clip expects a tenth of the time to be the batch lane's; a job, all that is interactive up to its turn."""
    queue = make_lanes([[64] * 100], [[64] * 1000])
    assert queue.seconds_ahead(8) == pytest.approx(8 + 16 / INTERACTIVE_SHARE)
    assert queue.seconds_ahead(8, "batch") == 8 + 100
    assert queue.seconds_ahead(1, "batch") == 1 + 2 * INTERACTIVE_SHARE
    assert queue.remaining_s("batch") == 1000


def test_an_unknown_length_is_taken_for_a_window():
    """A stream that declares nothing is behind others by what it will bring at least."""
    queue = make_queue([64] * 100)
    assert queue.seconds_ahead(0) == UNKNOWN_S


@st.composite
def arrivals(draw):
    """Draw requests: lane, buckets, when they come, and how many of their windows at a time."""
    buckets = st.lists(st.sampled_from([64, 96, 1500]), min_size=1, max_size=10)
    one = st.tuples(st.sampled_from(["interactive", "batch"]), buckets, st.integers(0, 12), st.integers(1, 10))
    return draw(st.lists(one, min_size=1, max_size=12))


@given(arrivals(), st.integers(1, 8), st.sets(st.integers(0, 11), max_size=3))
def test_whoever_comes_is_served_in_order_and_in_time(requests, max_size, leaving):
    """Whatever comes and goes: one lane and bucket a batch, a job's windows of a bucket in order, nobody starves."""
    queue = Queue()
    jobs = [Job(0.0, lane) for lane, *_ in requests]
    to_come = [list(enumerate(buckets)) for _, buckets, *_ in requests]
    places: dict[Item, int] = {}
    seen: dict[Job, list[tuple[int, int]]] = {job: [] for job in jobs}
    unserved: Counter[Lane] = Counter()
    step = 0
    while step <= 12 or any(job.waiting for job in queue.jobs) or any(to_come):
        for number, (job, (_, _, at, chunk)) in enumerate(zip(jobs, requests, strict=True)):
            if step == at:
                queue.jobs.append(job)
            if step >= at and not job.waiting:
                coming, to_come[number] = to_come[number][:chunk], to_come[number][chunk:]
                add(job, *(positions for _, positions in coming))
                places |= zip(job.waiting, (place for place, _ in coming), strict=True)
            if number in leaving and step == at + 3 and job in queue.jobs:
                queue.jobs.remove(job)
                job.waiting.clear()
                to_come[number] = []
        waiting = {job.lane for job in queue.jobs if job.waiting}
        batch = queue.next_batch(lambda _: max_size)
        assert bool(batch) == bool(waiting)
        assert len(batch) <= max_size
        assert len({(item.positions, item.job.lane) for item in batch}) == (1 if batch else 0)
        for item in batch:
            assert item.job in queue.jobs
            seen[item.job].append((item.positions, places[item]))
        for lane in ("interactive", "batch"):
            unserved[lane] = unserved[lane] + 1 if lane in waiting and lane != batch[0].job.lane else 0
        # The dearest batch of one lane, in the cheapest of the other's.
        assert unserved["batch"] <= INTERACTIVE_SHARE * max_size * 1500 / 64
        assert unserved["interactive"] <= 1 + max_size * 1500 / 64 / INTERACTIVE_SHARE
        queue.mark_decoded(batch)
        step += 1
        assert step < 2000
    for number, job in enumerate(jobs):
        for bucket in (64, 96, 1500):
            in_order = [place for positions, place in seen[job] if positions == bucket]
            assert in_order == sorted(in_order)
        if number not in leaving:
            assert sorted(place for _, place in seen[job]) == list(range(len(requests[number][1])))
            assert job.remaining_s == 0


def test_a_length_stays():
    """Silence, for whose end nobody waits, is taken from what is to come, and not from how long the file is."""
    job = Job(declared_s=100.0)
    job.declared_s -= 30.0
    assert (job.remaining_s, job.length_s) == (70.0, 100.0)
