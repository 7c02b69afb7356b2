"""The promises about freed memory: glibc keeps it for the next layer, and gives it back when told to."""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import speech
from speech.engine.allocator import keep_freed_memory, return_freed_memory

BLOCK = 100_000_000  # bytes, more than glibc keeps by itself

BEGIN = f"""
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from speech.engine.allocator import keep_freed_memory, return_freed_memory

def use_a_block():
    np.empty({BLOCK}, np.uint8)[::4096] = 1

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
"""
SECOND_TIME = """
worker = ThreadPoolExecutor(1)
worker.submit(use_a_block).result()
before = faults()
worker.submit(use_a_block).result()
print(faults() - before)
"""
RETURNED = """
keep_freed_memory()
use_a_block()
before = resident()
return_freed_memory()
print(before - resident())
"""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def number(script):
    """Return what a script prints, in a process whose memory nobody else uses."""
    command = [sys.executable, "-c", BEGIN + script]
    root = Path(speech.__file__).parents[1]
    return int(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)


@needs_glibc
def test_freed_memory_is_there_for_the_next_layer():
    """On a worker's thread, too, a large block is had again without asking the system for each page."""
    kept, without = number("keep_freed_memory()" + SECOND_TIME), number(SECOND_TIME)
    assert 10 * kept < without


@needs_glibc
def test_freed_memory_is_given_back_when_told():
    """What was kept no longer counts as the process' own."""
    assert number(RETURNED) > 0.9 * BLOCK


def test_another_c_library_is_left_alone(monkeypatch):
    """Where there is neither function, nothing is done and nothing fails."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    keep_freed_memory.__wrapped__()  # an engine that was loaded before has had its effect
    return_freed_memory()
