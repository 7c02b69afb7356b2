"""The scheduler over a real thread and an engine without weights."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from service.scheduler import DeadlineExceededError, DeadlineUnreachableError, OverloadedError, Scheduler
from speech.audio import SAMPLE_RATE
from speech.engine import CancelledError, EngineError, Window

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(engine, **options):
    """Close the scheduler even if the engine was left waiting."""
    scheduler = Scheduler(engine, **options)
    try:
        yield scheduler
    finally:
        engine.gate.set()
        await scheduler.close()


async def decode(scheduler, *windows):
    """Be a whole request, as `service.transcribe` is."""
    with scheduler.admit(sum(w.audio.size for w in windows) / SAMPLE_RATE) as job:
        return [result.text for result in await scheduler.submit(job, windows)]


@pytest.fixture
def window(tone):
    """Make a window of a tone."""
    return lambda seconds=1.0, level=0.5: Window(tone(seconds, level), "it")


async def test_a_lone_request_is_decoded_at_once(engine, window, words):
    """An idle engine waits for no company."""
    async with running(engine) as scheduler:
        clip = window()
        assert await decode(scheduler, clip) == [words(clip.audio)]
        assert scheduler.stats().last_batch_sizes == (1,)


async def test_results_come_in_the_order_of_the_windows(make_engine, window, words):
    """Whatever the buckets and batches, each window's own result is at its place."""
    engine = make_engine(elastic=True)
    clips = [window(seconds, 0.3) for seconds in (9, 1, 30, 1.5, 8, 25)]
    async with running(engine, max_batch_size=2) as scheduler:
        assert await decode(scheduler, *clips) == [words(clip.audio) for clip in clips]


async def test_what_waits_together_is_decoded_together(engine, window, until):
    """Requests that come while the engine is busy share the next batch."""
    async with running(engine) as scheduler:
        engine.gate.clear()
        first = asyncio.create_task(decode(scheduler, window()))
        await until(lambda: engine.batches)
        rest = [asyncio.create_task(decode(scheduler, window(level=0.1 * i))) for i in range(1, 6)]
        await until(lambda: scheduler.stats().waiting_windows == 5)
        engine.gate.set()
        await asyncio.gather(first, *rest)
        stats = scheduler.stats()
    assert stats.last_batch_sizes == (1, 5)
    assert (stats.windows, stats.batches, stats.mean_batch_size) == (6, 2, 3.0)
    assert stats.audio_s == pytest.approx(6.0)
    assert stats.padded_s == pytest.approx(180.0)


async def test_a_batch_holds_one_bucket(make_engine, window):
    """Windows of different context are never decoded together."""
    engine = make_engine(elastic=True)
    async with running(engine) as scheduler:
        await asyncio.gather(*(decode(scheduler, window(1), window(12), window(30)) for _ in range(4)))
    for batch in engine.batches:
        assert len({engine.context.positions(w.audio.size) for w in batch}) == 1
    assert max(len(batch) for batch in engine.batches) >= 4


@pytest.mark.parametrize("elastic", [True, False])
async def test_a_clip_never_waits_for_a_film(make_engine, window, until, elastic):
    """A clip that comes after a film of 60 windows is done within two batches."""
    engine = make_engine(elastic=elastic)
    async with running(engine) as scheduler:
        engine.gate.clear()
        film = asyncio.create_task(decode(scheduler, *(window(30, 0.01 * i) for i in range(1, 61))))
        await until(lambda: engine.batches)
        clip = asyncio.create_task(decode(scheduler, window(2)))
        await until(lambda: scheduler.stats().waiting_windows == 53)
        engine.gate.set()
        await clip
        assert len(engine.batches) <= 3  # the third may have begun, as the engine never idles
        assert any(w.audio.size == 2 * SAMPLE_RATE for batch in engine.batches[:2] for w in batch)
        assert len(await film) == 60


async def test_a_window_that_fails_fails_alone(engine, window, words):
    """Who shares a batch with a broken window gets its words all the same."""
    bad, good = window(level=0.9), window(level=0.2)
    engine.fails = lambda w: w is bad
    async with running(engine) as scheduler:
        failed, answered = await asyncio.gather(decode(scheduler, bad), decode(scheduler, good), return_exceptions=True)
        assert scheduler.stats().last_batch_sizes == (2,)
    assert isinstance(failed, EngineError)
    assert answered == [words(good.audio)]


async def test_an_exception_fails_one_batch_and_not_the_loop(engine, window, words):
    """After the engine blew up, the next request is answered."""
    async with running(engine) as scheduler:
        engine.explodes = True
        with pytest.raises(EngineError):
            await decode(scheduler, window())
        engine.explodes = False
        assert scheduler.is_running
        assert await decode(scheduler, window()) == [words(window().audio)]


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
@pytest.mark.parametrize("bad", [{0}, {3}, {7}, {1, 6}, set(range(8))])
async def test_a_window_that_blows_the_engine_up_fails_alone(engine, window, words, until, error, bad):
    """Its company is decoded without it, wherever in the batch it was; each gets its own words."""
    levels = [0.1 + i / 100 for i in range(8)]
    poison = {words(window(level=levels[i]).audio) for i in bad}
    transcribe = engine.transcribe

    def explode(windows, is_cancelled):
        if any(words(one.audio) in poison for one in windows):
            raise error("out of something")
        return transcribe(windows, is_cancelled)

    async with running(engine) as scheduler:
        engine.gate.clear()
        first = asyncio.create_task(decode(scheduler, window()))
        await until(lambda: engine.batches)
        engine.transcribe = explode
        rest = [asyncio.create_task(decode(scheduler, window(level=level))) for level in levels]
        await until(lambda: scheduler.stats().waiting_windows == 8)
        engine.gate.set()
        answers = await asyncio.gather(first, *rest, return_exceptions=True)
        assert scheduler.stats().last_batch_sizes == (1, 8)
    for i, (level, answer) in enumerate(zip(levels, answers[1:], strict=True)):
        if i in bad:
            assert isinstance(answer, EngineError)
        else:
            assert answer == [words(window(level=level).audio)]


async def test_an_engine_that_hangs_is_told(engine, window, until, monkeypatch):
    """A batch that does not come back is no running service, and nobody begins to wait for it."""
    async with running(engine) as scheduler:
        engine.gate.clear()
        waiting = asyncio.create_task(decode(scheduler, window()))
        await until(lambda: engine.batches)
        assert scheduler.is_running
        monkeypatch.setattr("service.scheduler.HUNG_S", 0)
        assert not scheduler.is_running
        with pytest.raises(EngineError):
            await decode(scheduler, window())
        engine.gate.set()
        await waiting
        await until(lambda: scheduler.is_running)


async def test_a_wrong_number_of_results_is_an_error(engine, window):
    """No result is ever handed to another window because one is missing."""
    transcribe = engine.transcribe
    engine.transcribe = lambda windows, is_cancelled: transcribe(windows, is_cancelled)[1:]
    async with running(engine) as scheduler:
        with pytest.raises(EngineError, match="0 results for 1 windows"):
            await decode(scheduler, window(), window())


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_as_many_batches_run_as_the_engine_likes(engine, window, until, words, concurrency):
    """Two at once where that is faster, and one otherwise; the rest waits."""
    engine.concurrency = concurrency
    clips = [window(1, 0.1 + 0.1 * i) for i in range(5)]
    async with running(engine, max_batch_size=1) as scheduler:
        engine.gate.clear()
        tasks = [asyncio.create_task(decode(scheduler, clip)) for clip in clips]
        await until(lambda: scheduler.stats().waiting_windows == 5 - concurrency)
        await asyncio.sleep(0.02)
        assert len(engine.batches) == concurrency
        engine.gate.set()
        assert await asyncio.gather(*tasks) == [[words(clip.audio)] for clip in clips]
        assert scheduler.stats().batches == 5


async def test_a_batch_that_ends_first_makes_room_for_the_next(engine, window, words):
    """Of two batches at once, the short one does not wait for the long one."""
    long, *short = (window(1, 0.1 * i) for i in range(1, 5))
    others, transcribe = threading.Semaphore(0), engine.transcribe

    def wait_for_three(windows, is_cancelled):
        answers = transcribe(windows, is_cancelled)
        for _ in range(3):
            if windows[0] is long:
                assert others.acquire(timeout=10)
        others.release()
        return answers

    engine.transcribe, engine.concurrency = wait_for_three, 2
    async with running(engine, max_batch_size=1) as scheduler:
        answers = await asyncio.gather(*(decode(scheduler, clip) for clip in (long, *short)))
    assert answers == [[words(clip.audio)] for clip in (long, *short)]


@pytest.mark.parametrize(("cap", "sizes"), [(None, {96: 5, 1500: 2}), (3, {96: 3, 1500: 2}), (99, {96: 5, 1500: 2})])
async def test_the_engine_says_how_large_a_batch_is(make_engine, window, until, cap, sizes):
    """By the context of its windows; a setting can make batches smaller, and no larger."""
    engine = make_engine(elastic=True)
    engine.batch_size = lambda positions: 2 if positions == 1500 else 5
    async with running(engine, max_batch_size=cap) as scheduler:
        engine.gate.clear()
        first = asyncio.create_task(decode(scheduler, window(12)))
        await until(lambda: engine.batches)
        rest = [asyncio.create_task(decode(scheduler, *[window(seconds)] * 10)) for seconds in (1, 30)]
        await until(lambda: scheduler.stats().waiting_windows == 20)
        engine.gate.set()
        await asyncio.gather(first, *rest)
    largest = {}
    for batch in engine.batches[1:]:
        positions = batch[0].positions(engine.context)
        largest[positions] = max(largest.get(positions, 0), len(batch))
    assert largest == sizes


async def test_the_engine_is_told_who_left(engine, window, until):
    """While a batch runs, exactly the windows whose request was cancelled are cancelled."""
    told, transcribe = [], engine.transcribe

    def listen(windows, is_cancelled):
        told.append((windows, is_cancelled))
        return transcribe(windows, is_cancelled)

    engine.transcribe = listen
    async with running(engine) as scheduler:
        engine.gate.clear()
        first = asyncio.create_task(decode(scheduler, window()))
        await until(lambda: told)
        stays, leaves = ([window(level=level), window(level=level + 0.05)] for level in (0.2, 0.6))
        staying, leaving = (asyncio.create_task(decode(scheduler, *windows)) for windows in (stays, leaves))
        await until(lambda: scheduler.stats().waiting_windows == 4)
        engine.gate.set()
        await first
        engine.gate.clear()
        await until(lambda: len(told) == 2)
        windows, is_cancelled = told[1]
        assert not any(is_cancelled(i) for i in range(4))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert [is_cancelled(i) for i in range(4)] == [any(w is gone for gone in leaves) for w in windows]
        engine.gate.set()
        assert len(await staying) == 2


async def test_a_request_that_failed_has_left(engine, window, until):
    """One window's error ends its request, and the engine need not finish that request's other windows."""
    bad, good = window(level=0.9), window(level=0.2)
    told, transcribe, gate = [], engine.transcribe, threading.Event()

    def listen(windows, is_cancelled):
        if windows[0] is good:
            told.append(is_cancelled)
            assert gate.wait(timeout=10)
        return transcribe(windows, is_cancelled)

    engine.transcribe, engine.fails, engine.concurrency = listen, lambda w: w is bad, 2
    engine.gate.clear()
    async with running(engine, max_batch_size=1) as scheduler:
        failing = asyncio.create_task(decode(scheduler, bad, good))
        await until(lambda: told)
        assert not told[0](0)
        engine.gate.set()
        with pytest.raises(EngineError):
            await failing
        assert told[0](0)
        gate.set()


async def test_a_cancelled_answer_harms_nobody(engine, window, words, until):
    """What the engine says of a window that was left goes nowhere."""
    transcribe = engine.transcribe

    def obey(windows, is_cancelled):
        answers = transcribe(windows, is_cancelled)
        return [CancelledError("gone") if is_cancelled(i) else answer for i, answer in enumerate(answers)]

    engine.transcribe = obey
    async with running(engine) as scheduler:
        engine.gate.clear()
        gone = asyncio.create_task(decode(scheduler, window()))
        await until(lambda: engine.batches)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        engine.gate.set()
        assert await decode(scheduler, window(2)) == [words(window(2).audio)]
        assert scheduler.is_running


async def test_an_engine_is_replaced_between_batches(engine, make_engine, window, until):
    """The running batch finishes on the old engine, the next one begins on the new, and nobody notices."""
    faster = make_engine()
    faster.concurrency = 3
    async with running(engine, max_batch_size=1) as scheduler:
        engine.gate.clear()
        faster.gate.clear()
        tasks = [asyncio.create_task(decode(scheduler, window())) for _ in range(4)]
        await until(lambda: engine.batches)
        scheduler.engine = faster
        assert scheduler.engine is faster
        await until(lambda: len(faster.batches) == 2)  # it takes three at once: two, and the one that runs
        assert not any(task.done() for task in tasks)
        faster.gate.set()
        await until(lambda: sum(task.done() for task in tasks) == 3)
        engine.gate.set()
        await asyncio.gather(*tasks)
    assert (len(engine.batches), len(faster.batches)) == (1, 3)


async def test_closing_waits_for_all_running_batches(engine, window, until):
    """With several batches at once, close returns when the last of them is answered."""
    engine.concurrency = 2
    scheduler = Scheduler(engine, max_batch_size=1)
    engine.gate.clear()
    tasks = [asyncio.create_task(decode(scheduler, window())) for _ in range(3)]
    await until(lambda: len(engine.batches) == 2)
    closing = asyncio.create_task(scheduler.close())
    await asyncio.sleep(0.02)
    assert not closing.done()
    engine.gate.set()
    await closing
    assert [len(answers) for answers in await asyncio.gather(*tasks)] == [1, 1, 1]


async def test_closing_waits_for_a_batch_that_nobody_waits_for(engine, window, until):
    """The engine's thread is not left behind with a batch whose request is gone."""
    scheduler = Scheduler(engine)
    engine.gate.clear()
    gone = asyncio.create_task(decode(scheduler, window()))
    await until(lambda: engine.batches)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert scheduler.is_idle
    closing = asyncio.create_task(scheduler.close())
    await asyncio.sleep(0.02)
    assert not closing.done()
    engine.gate.set()
    await closing
    assert scheduler.stats().batches == 1


async def test_every_batch_is_reported(make_engine, window):
    """Who asked to be told learns of windows, audio, what was paid for it, and how long it took to come and to go."""
    reported = []
    async with running(make_engine(elastic=True, seconds_a_batch=0.01), on_batch=reported.append) as scheduler:
        await decode(scheduler, window(1), window(1.1))
        await decode(scheduler, window(30))
        stats = scheduler.stats()
    assert [batch.windows for batch in reported] == [2, 1]
    assert [batch.audio_s for batch in reported] == pytest.approx([2.1, 30])
    assert [batch.padded_s for batch in reported] == pytest.approx([2 * 96 / 50, 30])
    assert all(batch.busy_s >= 0.01 for batch in reported)
    assert all(0 <= batch.waited_s < 10 for batch in reported)
    for name in ("windows", "audio_s", "padded_s", "waited_s", "busy_s"):
        assert getattr(stats, name) == pytest.approx(sum(getattr(batch, name) for batch in reported))


async def test_waiting_is_counted(engine, window, until):
    """A window that waited behind a batch has waited as long as that took."""
    async with running(engine) as scheduler:
        engine.gate.clear()
        tasks = [asyncio.create_task(decode(scheduler, window()))]
        await until(lambda: engine.batches)
        tasks.append(asyncio.create_task(decode(scheduler, window(), window())))
        await until(lambda: scheduler.stats().waiting_windows == 2)
        await asyncio.sleep(0.05)
        engine.gate.set()
        await asyncio.gather(*tasks)
        assert scheduler.stats().waited_s >= 2 * 0.05


async def test_full_context_is_paid_for_and_counted_as_more_to_do(make_engine, window, until):
    """A window that is decoded again makes its request longer, and fills a bucket of 30 s."""
    engine = make_engine(elastic=True)
    async with running(engine) as scheduler:
        with scheduler.admit(1.0) as job:
            await scheduler.submit(job, [window()])
            assert scheduler.stats().waiting_s == pytest.approx(0)
            engine.gate.clear()
            again = asyncio.create_task(scheduler.submit(job, [replace(window(), full_context=True)], again=True))
            await until(lambda: len(engine.batches) == 2)
            assert scheduler.stats().waiting_s == pytest.approx(1)
            engine.gate.set()
            (result,) = await again
            assert result.positions == 1500
            assert scheduler.stats().waiting_s == pytest.approx(0)
        assert scheduler.stats().padded_s == pytest.approx(96 / 50 + 30)


async def test_what_is_decoded_again_goes_before_the_rest(engine, window, until):
    """At whatever context: the request's later windows wait to be sent after it. Others keep their turn."""
    first, second, third = window(level=0.1), window(level=0.2), window(level=0.3)
    async with running(engine, max_batch_size=1) as scheduler:
        with scheduler.admit(3.0) as job:
            await scheduler.submit(job, [first])
            engine.gate.clear()
            rest = asyncio.create_task(scheduler.submit(job, [second, third]))
            await until(lambda: len(engine.batches) == 2)
            again = asyncio.create_task(scheduler.submit(job, [first], again=True))
            await until(lambda: scheduler.stats().waiting_windows == 2)
            assert scheduler.stats().waiting_s == pytest.approx(3)
            engine.gate.set()
            await asyncio.gather(rest, again)
            assert scheduler.stats().waiting_s == pytest.approx(0)
    assert [batch[0] for batch in engine.batches] == [first, second, first, third]


async def test_a_request_that_is_longer_than_it_said_counts_what_waits(engine, window, until):
    """A file that does not tell its length is admitted as nothing: it is neither free nor makes others free."""
    async with running(engine, max_batch_size=1) as scheduler:
        with scheduler.admit(0.0) as job:
            engine.gate.clear()
            task = asyncio.create_task(scheduler.submit(job, [window()] * 3))
            await until(lambda: engine.batches)
            assert scheduler.stats().waiting_s == pytest.approx(3)
            engine.gate.set()
            await task
            await scheduler.submit(job, [window()])
            assert scheduler.stats().waiting_s == 0


@pytest.mark.parametrize("leave", ["cancelled", "failed"])
async def test_who_leaves_takes_its_windows_along(engine, window, until, leave):
    """Nothing is decoded for a request that was cancelled or that failed already."""
    marked = window(level=0.9)
    async with running(engine, max_batch_size=1) as scheduler:
        engine.gate.clear()
        gone = asyncio.create_task(decode(scheduler, marked, *[window()] * 9))
        await until(lambda: engine.batches)
        if leave == "cancelled":
            gone.cancel()
        else:
            engine.fails = lambda w: w is marked
            engine.gate.set()
        (outcome,) = await asyncio.gather(gone, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError if leave == "cancelled" else EngineError)
        assert scheduler.stats().waiting_windows == 0
        assert scheduler.stats().waiting_s == 0
        engine.gate.set()
        await decode(scheduler, window())
    assert len(engine.batches) <= 3


async def test_too_much_waiting_audio_is_refused(engine, window, until):
    """Above the limit a request is told when to come back, and who was admitted is still served."""
    async with running(engine, max_queue_s=5) as scheduler:
        engine.gate.clear()
        accepted = asyncio.create_task(decode(scheduler, window(10)))
        await until(lambda: engine.batches)
        with pytest.raises(OverloadedError) as refused:
            await decode(scheduler, window(8))
        assert refused.value.retry_after_s == 3  # 3 s too many, at no measured speed yet
        clip = asyncio.create_task(decode(scheduler, window(4)))
        await until(lambda: scheduler.stats().waiting_s == pytest.approx(14))
        engine.gate.set()
        assert len(await accepted) == len(await clip) == 1
        assert scheduler.stats().waiting_s == pytest.approx(0)


async def test_an_empty_queue_admits_anything(engine, window):
    """A request is never refused for its own length."""
    async with running(engine, max_queue_s=0) as scheduler:
        assert len(await decode(scheduler, *(window(30) for _ in range(20)))) == 20


async def test_closing_finishes_what_was_admitted(engine, window, until):
    """Close refuses newcomers and returns when the last admitted request is answered."""
    scheduler = Scheduler(engine, max_batch_size=2)
    engine.gate.clear()
    admitted = asyncio.create_task(decode(scheduler, *[window()] * 7))
    await until(lambda: engine.batches)
    closing = asyncio.create_task(scheduler.close())
    await asyncio.sleep(0.02)
    assert not closing.done()
    with pytest.raises(OverloadedError):
        await decode(scheduler, window())
    engine.gate.set()
    await closing
    assert len(await admitted) == 7
    assert not scheduler.is_running


async def test_nobody_waits_for_a_loop_that_died(engine, window, until, monkeypatch, caplog):
    """If a bug ends the scheduler's loop, who is decoded, who waits and who comes are all told so."""
    async with running(engine, max_batch_size=1) as scheduler:
        monkeypatch.setattr(scheduler._queue, "mark_decoded", lambda _batch: 1 / 0)
        engine.gate.clear()
        tasks = [asyncio.create_task(decode(scheduler, window())) for _ in range(3)]
        await until(lambda: engine.batches)
        engine.gate.set()
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert [type(outcome) for outcome in outcomes] == [EngineError] * 3
        assert not scheduler.is_running
        with pytest.raises(EngineError, match="stopped"):
            await decode(scheduler, window())
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("seed", range(5))
async def test_everybody_gets_exactly_their_own_words(make_engine, words, seed):
    """Fifty random requests at once, some of them leaving, each get their own windows' words and no others."""
    rng = np.random.default_rng(seed)
    engine = make_engine(elastic=True, seconds_a_batch=0.001)

    async def one(windows, patience_s):
        await asyncio.sleep(float(rng.uniform(0, 0.02)))
        return await asyncio.wait_for(decode(scheduler, *windows), patience_s)

    async with running(engine, max_batch_size=int(rng.integers(1, 9))) as scheduler:
        requests = [
            [
                Window(rng.uniform(-level, level, size).astype(np.float32), "it")
                for level, size in zip(rng.uniform(0.1, 1, n), rng.integers(100, 50_000, n), strict=True)
            ]
            for n in rng.integers(1, 12, 50)
        ]
        patience = np.where(rng.random(50) < 0.2, 0.01, 30.0)
        answers = await asyncio.gather(*map(one, requests, patience.tolist()), return_exceptions=True)
        assert scheduler.stats().waiting_windows == 0
    for windows, answer, patience_s in zip(requests, answers, patience, strict=True):
        if not (isinstance(answer, TimeoutError) and patience_s < 1):
            assert answer == [words(w.audio) for w in windows]


def after(seconds):
    """Return a deadline."""
    return asyncio.get_running_loop().time() + seconds


async def test_nothing_is_begun_for_the_dead(engine, window, until):
    """Of a hundred requests that expire while they wait, each is told so, and none is started."""

    async def one(level):
        with scheduler.admit(1, deadline=after(0.05)) as job:
            await scheduler.submit(job, [window(level=level)])

    async with running(engine, max_batch_size=4) as scheduler:
        engine.gate.clear()
        busy = asyncio.create_task(decode(scheduler, window()))
        await until(lambda: engine.batches)
        outcomes = await asyncio.gather(*(one(i / 1000) for i in range(100)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {DeadlineExceededError}
        assert scheduler.stats().waiting_windows == 0
        engine.gate.set()
        await busy
        await decode(scheduler, window(level=0.9))
    assert [len(batch) for batch in engine.batches] == [1, 1]


async def test_a_deadline_ends_what_is_running(engine, window, until):
    """The engine is told that nobody waits for a window any longer, as when a client leaves."""
    seen = []
    transcribe = engine.transcribe

    def watch(windows, is_cancelled):
        results = transcribe(windows)
        seen.append(is_cancelled(0))
        return results

    engine.transcribe = watch
    async with running(engine) as scheduler:
        engine.gate.clear()
        with scheduler.admit(1, deadline=after(0.05)) as job, pytest.raises(DeadlineExceededError):
            await scheduler.submit(job, [window()])
        engine.gate.set()
        await until(lambda: seen)
    assert seen == [True]


async def test_a_deadline_that_is_met_changes_nothing(engine, window, words):
    """Who is done in time gets all words, over as many submissions as it takes."""
    async with running(engine) as scheduler:
        with scheduler.admit(0, deadline=after(30)) as job:
            for level in (0.1, 0.2):
                (result,) = await scheduler.submit(job, [window(level=level)])
                assert result.text == words(window(level=level).audio)


async def test_a_deadline_that_is_over_is_not_admitted(engine):
    """The upload may have taken all the time there was."""
    async with running(engine) as scheduler:
        with pytest.raises(DeadlineExceededError), scheduler.admit(1, deadline=after(-0.001)):
            pass


async def test_what_cannot_be_done_in_time_is_refused_at_once(engine, window, until):
    """By the measured speed: with when to come back if others are in the way, without if nothing helps but time."""
    async with running(engine, max_batch_size=1) as scheduler:
        assert scheduler.expected_wait_s(10) is None
        with scheduler.admit(1e6, deadline=after(0.001)):
            pass  # nothing is measured yet: nobody is refused on a guess
        scheduler._measured.append((10.0, 1.0))  # as if it had been
        assert scheduler.expected_wait_s(10) == pytest.approx(1)
        engine.gate.clear()
        film = asyncio.create_task(decode(scheduler, *[window(1)] * 100))
        await until(lambda: len(engine.batches) == 1)
        with pytest.raises(DeadlineUnreachableError) as busy, scheduler.admit(20, deadline=after(3.5)):
            pass
        assert busy.value.expected_wait_s == pytest.approx(4)
        assert busy.value.retry_after_s == 1
        with pytest.raises(DeadlineUnreachableError) as never, scheduler.admit(100, deadline=after(2)):
            pass
        assert never.value.retry_after_s is None
        with scheduler.admit(20, deadline=after(60)):
            pass
        film.cancel()
        await asyncio.gather(film, return_exceptions=True)
        engine.gate.set()


async def test_an_old_measurement_refuses_nobody_for_ever(engine, window, words, monkeypatch):
    """A slow batch makes deadlines look out of reach; an idle engine lets one be tried after a while, and is seen."""
    async with running(engine) as scheduler:
        transcribe = engine.transcribe
        engine.transcribe = lambda *given: time.sleep(0.2) or transcribe(*given)
        await decode(scheduler, window(0.1))
        engine.transcribe = transcribe

        async def ask():
            with scheduler.admit(1, deadline=after(1)) as job:
                return [result.text for result in await scheduler.submit(job, [window()])]

        with pytest.raises(DeadlineUnreachableError):
            await ask()
        monkeypatch.setattr("service.scheduler.STALE_S", 0)
        assert await ask() == [words(window().audio)]
        monkeypatch.setattr("service.scheduler.STALE_S", 1e9)
        assert await ask() == [words(window().audio)]


async def test_who_is_refused_learns_the_wait(make_engine, window, until):
    """A full queue tells when the request would have been done, once a speed was measured."""
    engine = make_engine(seconds_a_batch=0.05)
    async with running(engine, max_queue_s=5) as scheduler:
        await decode(scheduler, window(5))
        engine.gate.clear()
        film = asyncio.create_task(decode(scheduler, window(10)))
        await until(lambda: len(engine.batches) == 2)
        with pytest.raises(OverloadedError, match="this would be done in about 1 s") as refused:
            await decode(scheduler, window(10))
        assert refused.value.expected_wait_s == pytest.approx(20 / scheduler.speed)
        engine.gate.set()
        await film


async def test_a_clip_that_is_waited_for_overtakes_the_batch_lane(engine, window, until):
    """However much of the batch lane waits, an interactive request has the next batch."""
    async with running(engine, max_batch_size=2) as scheduler:

        async def batch_lane():
            with scheduler.admit(30, lane="batch") as job:
                await scheduler.submit(job, [window(level=0.1)] * 30)

        engine.gate.clear()
        films = [asyncio.create_task(batch_lane()) for _ in range(3)]
        await until(lambda: engine.batches)
        clip = asyncio.create_task(decode(scheduler, window(level=0.9)))
        await until(lambda: scheduler.stats().lanes["interactive"].windows == 1)
        assert scheduler.stats().lanes["batch"].requests == 3
        assert scheduler.stats().lanes["batch"].audio_s == pytest.approx(90)
        engine.gate.set()
        await clip
        assert [w.audio.max() > 0.8 for w in engine.batches[1]] == [True]
        await asyncio.gather(*films)


async def test_windows_come_one_after_another(engine, window, words, until):
    """A request of unknown length is admitted, and grows as its file is read."""
    async with running(engine, max_batch_size=1) as scheduler:
        with scheduler.admit(0) as job:
            engine.gate.clear()
            first = asyncio.create_task(scheduler.submit(job, [window(level=0.1)]))
            await until(lambda: engine.batches)
            second = asyncio.create_task(scheduler.submit(job, [window(level=0.2)]))
            await until(lambda: scheduler.stats().waiting_s == pytest.approx(2))
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            assert scheduler.stats().waiting_s == pytest.approx(1)
            engine.gate.set()
            ((said,),) = await asyncio.gather(first)
            assert said.text == words(window(level=0.1).audio)
            assert job.progress == 1
    assert len(engine.batches) == 1


async def test_the_speed_is_that_of_the_last_batches(make_engine, window):
    """What is measured is audio over the engine's time, and a slow start is forgotten."""
    engine = make_engine(seconds_a_batch=0.02)
    async with running(engine, max_batch_size=1) as scheduler:
        assert scheduler.speed is None
        await decode(scheduler, window(1))
        stats = scheduler.stats()
        assert scheduler.speed == pytest.approx(stats.audio_s / stats.busy_s)
        engine.seconds_a_batch = 0
        await decode(scheduler, *[window(30)] * 40)
        assert scheduler.speed > 100
