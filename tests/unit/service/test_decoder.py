"""The promises of decoding in processes of their own: what a file does to FFmpeg, it does to its request only."""

import io
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from service import decoder
from speech.audio import SAMPLE_RATE, AudioError, decode_audio, until_damage


@pytest.fixture(autouse=True)
def _no_process_is_left():
    """End what a test started."""
    yield
    decoder.close_idle()


def decode(data, max_seconds=1000.0):
    """Return the declared seconds and all samples."""
    with decoder.decoding(io.BytesIO(data), max_seconds) as (declared, blocks):
        return declared, np.concatenate(list(blocks))


def test_the_samples_are_those_of_decoding_here(wav):
    """To the bit, whatever the length; and the header's length is there before them."""
    for seconds in (0.05, 1.0, 7.3):
        declared, audio = decode(wav(seconds))
        assert np.array_equal(audio, decode_audio(wav(seconds)))
        assert declared == pytest.approx(seconds, abs=0.01)


def test_one_process_decodes_file_after_file(wav):
    """Starting one takes longer than a clip: it is kept, also after a file that was none."""
    decode(wav(1))
    with pytest.raises(AudioError):
        decode(b"no audio at all")
    first = decoder._take()
    decoder._idle.put(first)
    decode(wav(1))
    assert decoder._take() is first
    first.close()


@pytest.mark.parametrize(
    ("data", "code"), [(b"", "empty_audio"), (b"no audio at all", "unsupported_audio")], ids=["empty", "text"]
)
def test_errors_come_over_the_pipe(data, code):
    """With their codes and messages."""
    with pytest.raises(AudioError) as raised:
        decode(data)
    assert raised.value.code == code
    with pytest.raises(AudioError) as here:
        decode_audio(data)
    assert str(raised.value) == str(here.value)


def test_too_long_is_told_by_the_limit(wav):
    """The limit goes along with the file."""
    with pytest.raises(AudioError, match="longer than 2 seconds"):
        decode(wav(3), max_seconds=2)


def test_what_was_heard_before_the_damage_comes_first(wav):
    """A file that is cut off gives its samples, and its error then."""
    faults = []
    data = wav(5)[: 2 * 3 * SAMPLE_RATE]
    with decoder.decoding(io.BytesIO(data), 100) as (_, blocks):
        heard = np.concatenate(list(until_damage(blocks, faults.append)))
    assert heard.size / SAMPLE_RATE == pytest.approx(3, abs=0.1)
    assert [fault.code for fault in faults] == ["truncated_audio"]


@pytest.mark.parametrize("signal_", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_costs_one_file(wav, signal_):
    """Who is being decoded gets an error, and who comes next a new process."""
    victim = decoder.Decoder()
    decoder._idle.put(victim)
    with decoder.decoding(io.BytesIO(wav(600)), 1000) as (_, blocks):
        next(blocks)
        os.kill(victim._process.pid, signal_)
        with pytest.raises(AudioError) as raised:
            list(blocks)
    assert raised.value.code == "undecodable_audio"
    assert not victim.is_alive
    assert decode(wav(1))[1].size == SAMPLE_RATE


def test_a_process_that_died_while_idle_is_replaced(wav):
    """Nobody's request finds out."""
    dead = decoder.Decoder()
    os.kill(dead._process.pid, signal.SIGKILL)
    dead._process.wait()
    decoder._idle.put(dead)
    assert decode(wav(1))[1].size == SAMPLE_RATE


def test_a_process_that_hangs_is_given_up(wav, monkeypatch):
    """Whoever takes so long for a tenth of a second never ends."""
    monkeypatch.setattr(decoder, "PATIENCE_S", 0.2)
    stopped = decoder.Decoder()
    decoder._idle.put(stopped)
    os.kill(stopped._process.pid, signal.SIGSTOP)
    with pytest.raises(AudioError) as raised:
        decode(wav(1))
    assert raised.value.code == "undecodable_audio"
    assert not stopped.is_alive


def test_a_file_that_nobody_wants_any_more_ends_its_process(wav):
    """A client that leaves in the middle of a film leaves no process that decodes it to the end."""
    with decoder.decoding(io.BytesIO(wav(600)), 1000) as (_, blocks):
        next(blocks)
        process = blocks.gi_frame.f_locals["self"]
    assert not process.is_alive


def test_no_more_are_kept_than_are_needed(wav):
    """A crowd's processes end with it."""
    crowd = [threading.Thread(target=decode, args=(wav(1),)) for _ in range(5)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert 0 < decoder._idle.qsize() <= decoder.MAX_IDLE


def test_a_process_knows_no_secrets(monkeypatch):
    """What reads hostile files has neither keys nor passwords in its environment, and all that it needs."""
    secrets = ("WHISPERLOOP_WEBHOOK_SECRET", "HF_TOKEN", "WHISPERLOOP_CORRECTIONS", "MY_API_KEY", "PGPASSWORD")
    for name in secrets:
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("LANG", "C.UTF-8")
    process = decoder.Decoder()
    try:
        known = Path(f"/proc/{process._process.pid}/environ").read_bytes()
        assert b"hidden" not in known
        assert {b"LANG=C.UTF-8", b"PATH=" + os.environb[b"PATH"]} <= set(known.split(b"\0"))
    finally:
        process.close()


def test_a_process_ends_with_its_parent():
    """When the pipe closes, nobody will send another file."""
    orphan = decoder.Decoder()
    orphan._process.stdin.close()
    orphan._process.wait(timeout=20)
    assert not orphan.is_alive
    orphan.close()


def test_a_file_may_not_take_all_memory():
    """The process has a limit of its own."""
    limited = decoder.Decoder()
    try:
        deadline = time.monotonic() + 20
        limits = ""
        while str(decoder.MAX_MEMORY) not in limits and time.monotonic() < deadline:
            with open(f"/proc/{limited._process.pid}/limits", encoding="utf-8") as file:  # noqa: PTH123
                limits = next(line for line in file if line.startswith("Max address space"))
        assert str(decoder.MAX_MEMORY) in limits
    finally:
        limited.close()
