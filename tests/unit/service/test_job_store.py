"""Jobs in a real SQLite file: kept until they are done and fetched, and nothing after."""

import sqlite3
import threading
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from sqlalchemy.exc import OperationalError

from service.jobs.store import MAX_ATTEMPTS, FullError, JobStore, Result, ReusedKeyError

TTL_S = 100.0
LEASE_S = 10.0
MARKER = b"nobody else may hear this "
ABANDONED = {"code": "job_abandoned"}


def open_store(path, *, max_jobs=100, max_bytes=10**9):
    """Open a database."""
    return JobStore(f"sqlite:///{path}", max_jobs=max_jobs, max_bytes=max_bytes)


@pytest.fixture
def path(tmp_path):
    """Name a database that is not there yet, in a folder that is not, either."""
    return tmp_path / "runs" / "service.db"


@pytest.fixture
def store(path):
    """Open a database, and close it."""
    store = open_store(path)
    yield store
    store.close()


def on_disk(path):
    """Return all bytes of a database and of what SQLite keeps beside it."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob("service.db*")))


def submit(store, audio=b"audio", now=0.0, **options):
    """Keep a job that is new."""
    job, is_new = store.submit(audio, [("language", "it")], now, **options)
    assert is_new
    return job


def test_nothing_is_made_before_the_first_job(store, path):
    """A service that is never asked for a job writes nothing."""
    assert not store.exists
    assert store.get("job_x", "", 0.0) is None
    assert store.list("", 0.0, limit=5) == []
    assert not path.parent.exists()
    submit(store)
    assert store.exists
    assert path.stat().st_mode & 0o077 == 0  # for its owner only


def test_a_job_is_done_once(store):
    """It waits, is claimed by one, and answered; audio and form are gone then, and the result is there."""
    job = submit(store, b"abc", 5.0)
    assert (job.status, store.audio(job.id)) == ("queued", b"abc")
    claimed = store.claim("one", 6.0, LEASE_S)
    assert claimed is not None
    assert (claimed.id, claimed.status, claimed.attempts, claimed.started_at) == (job.id, "running", 1, 6.0)
    assert claimed.fields == [["language", "it"]]
    assert store.claim("two", 6.0, LEASE_S) is None
    assert store.renew(job.id, "one", 7.0, LEASE_S, progress=0.5, audio_seconds=60.0)
    result = Result(b"words", "text/plain", {"x-model": "echo@1"})
    assert store.succeed(job.id, "one", result, 8.0, TTL_S, audio_seconds=60.0)
    done = store.get(job.id, "", 9.0)
    assert (done.status, done.progress, done.expires_at, done.fields) == ("succeeded", 1.0, 8.0 + TTL_S, [])
    assert store.audio(job.id) is None
    assert store.result(job.id) == result
    assert not store.succeed(job.id, "one", Result(b"again", None), 9.0, TTL_S, audio_seconds=None)
    assert store.result(job.id) == result


@pytest.mark.parametrize("end", ["succeed", "fail", "cancel", "delete"])
def test_no_trace_of_the_audio_is_left(store, path, end):
    """However a job ends, its audio is overwritten in the file and in SQLite's log."""
    audio = MARKER * 40_000  # many pages
    other = submit(store, b"other")
    job = submit(store, audio, 1.0)
    assert MARKER in on_disk(path)
    assert store.claim("one", 1.0, LEASE_S).id == other.id
    assert store.claim("one", 1.0, LEASE_S).id == job.id
    match end:
        case "succeed":
            store.succeed(job.id, "one", Result(b"words", None), 2.0, TTL_S, audio_seconds=None)
        case "fail":
            store.fail(job.id, "one", {"code": "damaged_audio"}, 2.0, TTL_S)
        case "cancel":
            store.cancel(job.id, 2.0, TTL_S)
        case "delete":
            assert store.delete(job.id)
            assert not store.delete(job.id)
    assert MARKER not in on_disk(path)
    assert store.audio(other.id) == b"other"


def test_no_trace_of_the_words_is_left(store, path):
    """A result is kept until it expires, and then as little of it as of the audio."""
    job = submit(store)
    store.claim("one", 0.0, LEASE_S)
    store.succeed(job.id, "one", Result(MARKER * 1000, "text/plain"), 1.0, TTL_S, audio_seconds=1.0)
    assert store.sweep(TTL_S, TTL_S, ABANDONED) == 0
    assert store.result(job.id) is not None
    assert store.get(job.id, "", 1.0 + TTL_S) is None  # hidden at once, were the sweeper late
    assert store.list("", 1.0 + TTL_S, limit=9) == []
    assert store.sweep(1.0 + TTL_S, TTL_S, ABANDONED) == 0
    assert store.result(job.id) is None
    assert MARKER not in on_disk(path)


def test_a_dead_runners_job_is_begun_anew(store):
    """Who renews no claim loses it, and can neither renew nor finish what another has by then."""
    job = submit(store)
    store.claim("dead", 0.0, LEASE_S)
    assert store.claim("alive", LEASE_S - 0.1, LEASE_S) is None
    assert store.claim("alive", LEASE_S, LEASE_S).attempts == 2
    assert not store.renew(job.id, "dead", LEASE_S, LEASE_S, progress=0.9, audio_seconds=None)
    assert not store.fail(job.id, "dead", {}, LEASE_S, TTL_S)
    assert not store.release(job.id, "dead")
    assert store.succeed(job.id, "alive", Result(b"words", None), 20.0, TTL_S, audio_seconds=None)


def test_a_job_that_ends_the_service_each_time_is_given_up(store):
    """After three attempts that nobody finished it has failed, and its audio is gone."""
    job = submit(store)
    for attempt in range(MAX_ATTEMPTS):
        assert store.claim("doomed", attempt * LEASE_S, LEASE_S).attempts == attempt + 1
    now = MAX_ATTEMPTS * LEASE_S
    assert store.claim("next", now, LEASE_S) is None
    assert store.sweep(now, TTL_S, ABANDONED) == 1
    assert store.sweep(now, TTL_S, ABANDONED) == 0
    failed = store.get(job.id, "", now)
    assert (failed.status, failed.error, failed.expires_at) == ("failed", ABANDONED, now + TTL_S)
    assert store.audio(job.id) is None


def test_a_job_that_was_given_back_counts_as_not_begun(store):
    """A service that is stopped in order costs a job none of its attempts; one that is to wait waits."""
    job = submit(store)
    for _ in range(2 * MAX_ATTEMPTS):
        assert store.claim("one", 0.0, LEASE_S).attempts == 1
        assert store.release(job.id, "one")
    store.claim("one", 0.0, LEASE_S)
    store.release(job.id, "one", not_before=50.0)
    assert store.claim("one", 49.0, LEASE_S) is None
    assert store.claim("one", 50.0, LEASE_S) is not None


def test_a_cancelled_job_is_not_done(store):
    """One that waits is never begun; one that runs is lost by its runner; one that is done stays done."""
    waiting, running, done = submit(store), submit(store), submit(store)
    for expected in (waiting, running, done):
        assert store.claim("one", 0.0, LEASE_S).id == expected.id
    store.release(waiting.id, "one")
    store.succeed(done.id, "one", Result(b"words", None), 1.0, TTL_S, audio_seconds=None)
    assert [store.cancel(job.id, 2.0, TTL_S) for job in (waiting, running, done)] == [True, True, False]
    assert not store.renew(running.id, "one", 3.0, LEASE_S, progress=0.1, audio_seconds=None)
    assert store.claim("one", 99.0, LEASE_S) is None
    assert store.get(done.id, "", 3.0).status == "succeeded"


def test_twice_is_once(store):
    """With an idempotency key, the same upload is the same job; another is refused; other owners have their own."""
    first, _ = store.submit(b"a", [], 0.0, owner="anna", idempotency_key="k")
    again, is_new = store.submit(b"a", [], 1.0, owner="anna", idempotency_key="k")
    assert (again.id, is_new) == (first.id, False)
    for audio, fields in ((b"b", []), (b"a", [("language", "it")])):
        with pytest.raises(ReusedKeyError):
            store.submit(audio, fields, 2.0, owner="anna", idempotency_key="k")
    other, is_new = store.submit(b"b", [], 3.0, owner="bruno", idempotency_key="k")
    assert is_new
    assert other.id != first.id
    assert submit(store, b"a").id != submit(store, b"a").id  # without a key, twice is twice


@pytest.mark.parametrize("audio", [b"a", b"b"])
def test_an_idempotency_key_is_free_when_its_job_has_expired(store, audio):
    """Also before the sweeper comes: the same upload is a new job, and another is not refused."""
    first, _ = store.submit(b"a", [], 0.0, owner="anna", idempotency_key="k")
    store.cancel(first.id, 1.0, TTL_S)
    kept, is_new = store.submit(b"a", [], TTL_S, owner="anna", idempotency_key="k")
    assert (kept.id, is_new) == (first.id, False)
    second, is_new = store.submit(audio, [], 1.0 + TTL_S, owner="anna", idempotency_key="k")
    assert is_new
    assert [job.id for job in store.list("anna", 1.0 + TTL_S, limit=9)] == [second.id]


def test_errors_of_the_database_hold_no_prompt(store, path):
    """They are logged; SQLAlchemy's would show what was to be written."""
    submit(store)
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE jobs")
    connection.close()
    with pytest.raises(OperationalError) as raised:
        store.submit(b"audio", [("prompt", "Dear Mrs Rossi")], 0.0)
    assert "INSERT INTO jobs" in str(raised.value)
    assert "Rossi" not in str(raised.value)


def test_there_is_an_end_to_what_is_kept(path):
    """More jobs, or more bytes of audio and results, than are allowed are refused and leave nothing."""
    store = open_store(path, max_jobs=2, max_bytes=100)
    first = submit(store, b"x" * 40)
    with pytest.raises(FullError):
        submit(store, b"x" * 61)
    submit(store, b"x" * 40)
    with pytest.raises(FullError):
        submit(store, b"")
    store.claim("one", 0.0, LEASE_S)
    store.succeed(first.id, "one", Result(b"w" * 50, None), 1.0, TTL_S, audio_seconds=None)
    with pytest.raises(FullError):
        submit(store, b"x" * 11)  # 40 and 50 are there
    submit(store, b"x" * 10)
    assert len(store.list("", 2.0, limit=9)) == 3
    store.close()


def test_owners_do_not_see_each_other(store):
    """A job is its owner's; nobody else finds it, not even to begin a page with."""
    mine = [submit(store, owner="anna") for _ in range(3)]
    other = submit(store, owner="bruno")
    assert store.get(other.id, "anna", 0.0) is None
    assert store.get(mine[0].id, "", 0.0) is None
    assert [job.id for job in store.list("anna", 0.0, limit=2)] == [mine[2].id, mine[1].id]
    assert [job.id for job in store.list("anna", 0.0, limit=2, before=mine[1].id)] == [mine[0].id]
    assert store.list("anna", 0.0, limit=9, before=other.id) == []


def test_the_place_in_the_queue(store):
    """Jobs ahead are counted, and their seconds where all of them are known."""
    jobs = [submit(store, audio_seconds=seconds) for seconds in (100.0, 50.0, None, 10.0)]
    store.claim("one", 0.0, LEASE_S)
    store.renew(jobs[0].id, "one", 1.0, LEASE_S, progress=0.25, audio_seconds=200.0)
    assert [store.place(job).ahead for job in jobs] == [0, 1, 2, 3]
    assert [store.place(job).seconds for job in jobs] == [150.0, 200.0, None, None]
    store.cancel(jobs[2].id, 2.0, TTL_S)
    assert (store.place(jobs[3]).ahead, store.place(jobs[3]).seconds) == (2, 210.0)


def test_messages_are_due_when_jobs_are_finished(store):
    """Not before; then one at a time, again after a failure, never after a success or when given up."""
    told, quiet = submit(store, webhook="https://a/b"), submit(store)
    assert store.next_webhook(0.0, 60.0) is None
    for job in (told, quiet):
        store.cancel(job.id, 5.0, TTL_S)
    due = store.next_webhook(5.0, 60.0)
    assert (due.id, due.webhook_attempts) == (told.id, 1)
    assert store.next_webhook(64.0, 60.0) is None  # somebody is at it
    store.webhook_sent(told.id, error="500", next_at=100.0)
    assert store.get(told.id, "", 50.0).webhook_error == "500"
    assert store.next_webhook(99.0, 60.0) is None
    assert store.next_webhook(100.0, 60.0).webhook_attempts == 2
    assert store.next_webhook(160.0, 60.0).webhook_attempts == 3  # who was at it died
    store.webhook_sent(told.id, error=None, next_at=None)
    assert store.get(told.id, "", 50.0).webhook_status == "delivered"
    assert store.next_webhook(1e9, 60.0) is None


def test_several_processes_share_the_work(path):
    """Twelve threads with databases opened of their own claim forty jobs: each job is claimed once."""
    with_jobs = open_store(path)
    expected = {submit(with_jobs).id for _ in range(40)}
    claimed: Counter[str] = Counter()

    def work(name):
        store = open_store(path)
        while (job := store.claim(name, 1.0, LEASE_S)) is not None:
            claimed[job.id] += 1
            store.succeed(job.id, name, Result(b"w", None), 2.0, TTL_S, audio_seconds=None)
        store.close()

    threads = [threading.Thread(target=work, args=(f"runner {i}",)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert claimed == dict.fromkeys(expected, 1)
    assert {job.status for job in with_jobs.list("", 3.0, limit=99)} == {"succeeded"}
    with_jobs.close()


def test_it_is_set_up_to_survive_and_to_forget(store, path):
    """Write-ahead log and secure deletion are on; the file is sound."""
    submit(store)
    with store._engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "secure_delete", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "secure_delete": 1, "busy_timeout": 10_000}
    store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


class Jobs(RuleBasedStateMachine):
    """Any history of two runners and some jobs, beside a model of a few lines."""

    ids = Bundle("ids")
    runners = st.sampled_from(["one", "two"])

    def __init__(self):
        super().__init__()
        self.folder = TemporaryDirectory()
        self.store = open_store(Path(self.folder.name) / "service.db")
        self.now = 0.0
        self.state = {}  # status, runner, lease

    def teardown(self):
        """Leave nothing behind."""
        self.store.close()
        self.folder.cleanup()

    def holds(self, job_id, runner):
        """Whether a job is a runner's."""
        return self.state.get(job_id, ("",))[:2] == ("running", runner)

    @rule(seconds=st.sampled_from([1.0, LEASE_S]))
    def wait(self, seconds):
        """Let time pass."""
        self.now += seconds

    @rule(target=ids)
    def submit(self):
        """Add a job."""
        job = submit(self.store, now=self.now)
        self.state[job.id] = ("queued", None, 0.0)
        return job.id

    @rule(runner=runners)
    def claim(self, runner):
        """Take the first job that is free, if it was not begun too often."""
        job = self.store.claim(runner, self.now, LEASE_S)
        free = [
            i
            for i, (status, _, until) in self.state.items()
            if status == "queued" or (status == "running" and until <= self.now)
        ]
        if job is None:
            assert all(self.store.get(i, "", self.now).attempts >= MAX_ATTEMPTS for i in free)
        else:
            assert job.id in free
            self.state[job.id] = ("running", runner, self.now + LEASE_S)

    @rule(job_id=ids, runner=runners)
    def renew(self, job_id, runner):
        """Only who holds a job may renew its claim."""
        renewed = self.store.renew(job_id, runner, self.now, LEASE_S, progress=0.5, audio_seconds=None)
        assert renewed == self.holds(job_id, runner)
        if renewed:
            self.state[job_id] = ("running", runner, self.now + LEASE_S)

    @rule(job_id=ids, runner=runners)
    def succeed(self, job_id, runner):
        """Only who holds a job may finish it."""
        done = self.store.succeed(job_id, runner, Result(b"w", None), self.now, 1e9, audio_seconds=None)
        assert done == self.holds(job_id, runner)
        if done:
            self.state[job_id] = ("succeeded", None, 0.0)

    @rule(job_id=ids, runner=runners)
    def release(self, job_id, runner):
        """Only who holds a job may give it back."""
        released = self.store.release(job_id, runner)
        assert released == self.holds(job_id, runner)
        if released:
            self.state[job_id] = ("queued", None, 0.0)

    @rule(job_id=ids)
    def cancel(self, job_id):
        """Whoever may ask; what is finished stays so."""
        cancelled = self.store.cancel(job_id, self.now, 1e9)
        assert cancelled == (self.state.get(job_id, ("",))[0] in {"queued", "running"})
        if cancelled:
            self.state[job_id] = ("cancelled", None, 0.0)

    @rule(job_id=ids)
    def delete(self, job_id):
        """It is gone."""
        assert self.store.delete(job_id) == (job_id in self.state)
        self.state.pop(job_id, None)

    @rule()
    def sweep(self):
        """What was begun too often has failed."""
        for i, (status, _, until) in list(self.state.items()):
            if status == "running" and until <= self.now and self.store.get(i, "", 0.0).attempts >= MAX_ATTEMPTS:
                self.state[i] = ("failed", None, 0.0)
        self.store.sweep(self.now, 1e9, ABANDONED)

    @invariant()
    def agrees(self):
        """Every job is in the model's state, and has its audio exactly until it is finished."""
        for i, (status, _, _) in self.state.items():
            assert self.store.get(i, "", self.now).status == status
            assert (self.store.audio(i) is not None) == (status in {"queued", "running"})


class TestJobs(Jobs.TestCase):
    """Whatever happens, a job has one runner and one end, and its audio ends with it."""

    settings = settings(max_examples=15, stateful_step_count=25)
