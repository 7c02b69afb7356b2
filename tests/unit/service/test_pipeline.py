"""From a file to a transcript: how far a file is read ahead, what waits for what, and what is left behind."""

import asyncio
import io
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import numpy as np
import pytest

import service.transcribe
from service import decoder
from service.request import means
from service.scheduler import DeadlineExceededError
from service.transcribe import DECODE_THREADS, WINDOWS_AHEAD, detect_language, transcribe
from speech import vad
from speech.audio import SAMPLE_RATE, AudioError
from speech.engine import EngineError
from speech.language import MAX_SILENT_WINDOWS
from speech.transcribe import Options
from speech.windows import AHEAD

pytestmark = pytest.mark.anyio

IT = Options(language="it")


class Film:
    """A file that is made while it is read, and knows how far that was."""

    def __init__(self, seconds, *, pause_s=0.0):
        self.seconds, self.pause_s = seconds, pause_s
        self.read_s = 0
        self.is_open = False
        self.now = self.most = 0  # threads that read
        self._lock = threading.Lock()
        self._block = np.full(SAMPLE_RATE, 0.3, np.float32)
        self._block[: SAMPLE_RATE // 2] = 0  # a pause a second

    def stream_audio(self, _file, **_limits):
        """Yield a second at a time, in the place of `speech.audio.stream_audio`."""
        self.is_open = True
        try:
            for _ in range(self.seconds):
                with self._lock:
                    self.now += 1
                    self.most = max(self.most, self.now)
                time.sleep(self.pause_s)
                with self._lock:
                    self.now -= 1
                self.read_s += 1
                yield self._block
        finally:
            self.is_open = False


@pytest.fixture
def running(make_app, serve, engine, decode_with):
    """Run the service on a film, around the function that transcribes it."""

    @asynccontextmanager
    async def run(film, echo=engine, **settings):
        decode_with(film.stream_audio)
        app = make_app(echo, **settings)
        async with serve(app):

            def start(options=IT, **given):
                file = io.BytesIO(b"a film")
                return asyncio.create_task(transcribe(file, options, means(app, app.state.models.main), **given))

            start.means = means(app, app.state.models.main)
            start.scheduler = start.means.scheduler
            yield start

    return run


async def test_a_film_waits_for_the_engine(running, engine, until):
    """No more of its windows are in memory than may wait, and no more is read than for them; in the end, all is."""
    film = Film(40 * 60)
    async with running(film) as start:
        engine.gate.clear()
        task, seen = start(), []
        await until(lambda: start.scheduler.stats().waiting_windows >= WINDOWS_AHEAD - 1)
        for _ in range(30):
            await asyncio.sleep(0.01)
            seen.append((start.scheduler.stats().waiting_windows, film.read_s))
        assert max(windows for windows, _ in seen) <= WINDOWS_AHEAD + 1
        assert film.read_s <= 30 * (WINDOWS_AHEAD + 2) + AHEAD / SAMPLE_RATE + 1
        engine.gate.set()
        answer = await task
    assert answer.transcription.duration == film.read_s == film.seconds
    assert answer.fault is None
    assert not film.is_open


async def test_a_file_is_read_while_its_first_windows_are_decoded(running, engine, until):
    """The engine has the first one long before the last was read."""
    film = Film(300)
    async with running(film, max_batch_size=1) as start:
        warm = len(engine.batches)
        engine.gate.clear()
        read_at = []
        engine.fails = lambda _window: read_at.append(film.read_s)
        task = start()
        await until(lambda: len(engine.batches) > warm)
        await until(lambda: film.read_s == film.seconds)
        assert len(engine.batches) == warm + 1
        engine.gate.set()
        await task


async def test_without_a_language_nothing_is_read_ahead_of_it(running, engine, until):
    """The first window decides how the others are decoded; only then are they."""
    film = Film(300)
    async with running(film) as start:
        engine.gate.clear()
        task = start(Options())
        await until(lambda: len(engine.batches) == 2)
        await asyncio.sleep(0.05)
        assert start.scheduler.stats().waiting_windows == 0
        assert film.read_s < 60
        engine.gate.set()
        answer = await task
    assert answer.transcription.language == "it"
    assert {window.language for batch in engine.batches[2:] for window in batch} == {"it"}


async def test_nobodys_speech_is_not_waited_for_for_ever(running, engine):
    """Where no window has words, some are awaited for the language, and the others are read ahead of, as ever."""
    answer = engine._result
    engine._result = lambda window: replace(answer(window), text="")
    engine.seconds_a_batch = 0.05  # meanwhile, what may be read is
    film = Film(1200)
    async with running(film) as start:
        warm = len(engine.batches)
        whole = (await start(Options())).transcription
    sizes = [len(batch) for batch in engine.batches[warm:]]
    assert sizes[:MAX_SILENT_WINDOWS] == [1] * MAX_SILENT_WINDOWS
    assert max(sizes) > 1
    assert (whole.no_speech, whole.language) == (True, None)


async def test_what_is_done_is_told_before_the_rest_is_read(running):
    """Window by window, in order, with the audio that is done."""
    film, told = Film(600, pause_s=0.001), []
    async with running(film) as start:
        answer = await start(on_added=lambda added: told.append((added.seconds, film.read_s)))
    seconds = [done for done, _ in told]
    assert seconds == sorted(seconds)
    assert seconds[-1] == film.seconds
    assert told[0][1] < film.seconds
    assert len(told) == len(answer.transcription.segments)


@pytest.mark.parametrize("moment", ["reading", "decoding"])
async def test_who_leaves_closes_the_file(running, engine, until, moment):
    """The reader is ended, on whatever thread it is, and its windows are taken out of the queue."""
    film = Film(3600, pause_s=0.001 if moment == "reading" else 0.0)
    async with running(film) as start:
        engine.gate.clear()
        task = start()
        if moment == "reading":
            await until(lambda: film.read_s > 40)
        else:
            await until(lambda: start.scheduler.stats().waiting_windows >= WINDOWS_AHEAD - 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not film.is_open
        assert film.read_s < film.seconds
        assert start.scheduler.is_idle
        engine.gate.set()


@pytest.mark.parametrize("level", [0.0, 0.3])
@pytest.mark.parametrize("work", [transcribe, detect_language])
async def test_a_deadline_ends_the_reading(running, work, level):
    """Silence never gets to the engine, nor does what is not read yet: the time is over for it, too."""
    film = Film(3600, pause_s=0.01)
    film._block *= level / 0.3
    async with running(film) as start:
        soon = asyncio.get_running_loop().time() + 0.2
        with pytest.raises(DeadlineExceededError):
            await work(io.BytesIO(b"a film"), IT, replace(start.means, deadline=soon))
        assert not film.is_open
        assert film.read_s < film.seconds
        assert start.scheduler.is_idle


async def test_who_is_told_twice_to_leave_still_waits_for_the_thread(running, until):
    """A request may be cancelled by its client and by the server's end: its file is not closed under the reader."""
    film = Film(3600, pause_s=0.05)
    async with running(film) as start:
        task = start()
        await until(lambda: film.now == 1 and film.read_s > 2)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.001)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (film.now, film.is_open) == (0, False)


async def test_a_window_that_fails_ends_the_rest(running, engine):
    """The file is closed, and nothing of it waits any more."""
    film = Film(3600)
    async with running(film, max_batch_size=1) as start:
        engine.fails = lambda _window: len(engine.batches) > 3
        with pytest.raises(EngineError):
            await start()
        assert not film.is_open
        assert film.read_s < film.seconds
        assert start.scheduler.is_idle


@pytest.fixture
def lent(monkeypatch):
    """Return what each file that is open asked of the voice detector."""
    asked = []

    @contextmanager
    def listen_if(wanted):
        asked.append(wanted)
        try:
            yield None
        finally:
            asked.pop()

    monkeypatch.setattr(vad, "listen_if", listen_if)
    return asked


async def test_voice_detectors_come_back(running, lent, engine, until):
    """From who is done and from who leaves."""
    async with running(Film(1200), vad=True) as start:
        await start()
        assert lent == []
        engine.gate.clear()
        task = start()
        await until(lambda: lent == [True])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert lent == []
        engine.gate.set()


async def test_so_many_files_are_decoded_at_once(running):
    """However many are transcribed: the others wait for a thread, a window at a time."""
    film = Film(40, pause_s=0.001)
    async with running(film) as start:
        answers = await asyncio.gather(*(start() for _ in range(4 * DECODE_THREADS)))
    assert film.most == DECODE_THREADS
    assert {answer.transcription.duration for answer in answers} == {40}


async def test_so_many_files_are_open_at_once(running, lent, engine, until):
    """Each has a process while its windows wait for the engine; more files wait in turn, and no place is lost."""
    async with running(Film(70)) as start:
        start.means = replace(start.means, open_files=asyncio.Semaphore(2))
        engine.gate.clear()
        unknown = Options()  # its first window's answer is waited for before more is read
        many = [asyncio.create_task(transcribe(io.BytesIO(b"a film"), unknown, start.means)) for _ in range(6)]
        await until(lambda: len(lent) == 2)
        await asyncio.sleep(0.1)
        assert len(lent) == 2
        many[0].cancel()  # one that is open, and one that waits
        many[5].cancel()
        await asyncio.gather(many[0], many[5], return_exceptions=True)
        await until(lambda: len(lent) == 2)
        engine.gate.set()
        answers = await asyncio.gather(*many[1:5])
        assert {answer.transcription.duration for answer in answers} == {70}
        for _ in range(3):  # one window each: nothing of it is open while its answer is awaited
            await detect_language(io.BytesIO(b"a film"), unknown, start.means)
        assert start.means.open_files._value == 2


async def test_who_waits_long_for_an_open_file_is_told_to_come_again(running, engine, monkeypatch, until):
    """Whoever holds many files open makes nobody wait for ever, and takes no place when it is free at last."""
    monkeypatch.setattr(service.transcribe, "SLOT_WAIT_S", 0.1)
    async with running(Film(70)) as start:
        start.means = replace(start.means, open_files=asyncio.Semaphore(1))
        engine.gate.clear()
        first = asyncio.create_task(transcribe(io.BytesIO(b"a film"), Options(), start.means))
        await until(start.means.open_files.locked)
        with pytest.raises(decoder.BusyError):
            await transcribe(io.BytesIO(b"a film"), Options(), start.means)
        engine.gate.set()
        await first
        assert start.means.open_files._value == 1


@pytest.mark.parametrize("language", ["it", None])
async def test_previous_text_makes_windows_wait_for_each_other(running, engine, language):
    """Each is told what was said before it; without, they go together and are told nothing."""
    answer, counted = engine._result, iter(range(99, 200))  # the warm-up takes one
    engine._result = lambda window: replace(answer(window), tokens=(next(counted),))
    async with running(Film(100)) as start:
        warm = len(engine.batches)
        await start(Options(language=language, prompt=(7,), condition_on_previous_text=True))
        asked = [window.prompt for batch in engine.batches[warm:] for window in batch]
        assert asked == [(7, *range(100, 100 + i)) for i in range(len(asked))]
        assert len(asked) == len(engine.batches) - warm >= 4
        warm = len(engine.batches)
        await start(Options(language=language, prompt=(7,)))
        assert {window.prompt for batch in engine.batches[warm:] for window in batch} == {(7,)}


async def test_a_file_of_unknown_length_counts_as_what_waits(running, engine, until):
    """It said nothing of its length, and is neither free nor makes the queue look shorter than empty."""
    film = Film(300)
    async with running(film) as start:
        engine.gate.clear()
        task = start()
        await until(lambda: film.read_s == film.seconds)
        await until(lambda: start.scheduler.stats().waiting_s > 200)
        engine.gate.set()
        await task
        assert start.scheduler.stats().waiting_s == 0


async def test_what_was_heard_before_the_damage_is_answered(running, decode_with):
    """With the reason; of nothing heard, the reason is all."""
    film = Film(50)

    def damaged(file, **limits):
        yield from film.stream_audio(file, **limits)
        raise AudioError("damaged_audio", "damaged after 50 s")

    async with running(film) as start:
        decode_with(damaged)
        answer = await start()
        assert (answer.fault.code, answer.transcription.duration) == ("damaged_audio", 50)
        film.seconds = 0
        with pytest.raises(AudioError, match="damaged after"):
            await start()


async def test_one_window_is_enough_to_tell_the_language(make_app, serve, engine, decode_with):
    """Silence before it is passed over, and what comes after is not read."""
    film = Film(3600)

    def quiet_first(file, **limits):
        yield np.zeros(100 * SAMPLE_RATE, np.float32)
        yield from film.stream_audio(file, **limits)

    decode_with(quiet_first)
    app = make_app()
    async with serve(app):
        warm = len(engine.batches)
        found = await detect_language(io.BytesIO(b"a film"), Options(), means(app, app.state.models.main))
        assert app.state.models.main.scheduler.is_idle
    assert found.code == "it"
    assert len(engine.batches) == warm + 1
    assert film.read_s < 70
    assert not film.is_open


def children():
    """Return the processes that this one has started and not ended."""
    tasks = Path("/proc/self/task").glob("*/children")
    return [child for task in tasks for child in task.read_text(encoding="ascii").split()]


async def test_who_waits_holds_no_process(make_app, serve, engine, until, wav):
    """A crowd of clips that wait for the engine has as many decoders as are kept, whatever their language."""
    app = make_app()
    async with serve(app) as client, anyio.create_task_group() as group:
        engine.gate.clear()
        for _ in range(6):
            group.start_soon(partial(client.post, "/transcribe", files={"file": ("a.wav", wav(1))}))
        await until(lambda: app.state.models.main.scheduler.stats().waiting_windows == 5)
        await until(lambda: decoder._idle.qsize() > 0)
        processes = children()
        engine.gate.set()
    assert 0 < len(processes) <= decoder.MAX_IDLE
