"""The scheduler over a real thread and an engine without weights."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service.scheduler import OverloadedError, Scheduler
from speech.audio import SAMPLE_RATE
from speech.engine import EngineError, Window

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


async def test_a_wrong_number_of_results_is_an_error(engine, window):
    """No result is ever handed to another window because one is missing."""
    transcribe = engine.transcribe
    engine.transcribe = lambda windows: transcribe(windows)[1:]
    async with running(engine) as scheduler:
        with pytest.raises(EngineError, match="1 results for 2 windows"):
            await decode(scheduler, window(), window())


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
