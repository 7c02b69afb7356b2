"""What the C library does with memory that the CPU engine gives back between two layers.

By default glibc hands large blocks back to the system at once, and each next layer pays for getting them again, page
by page: a quarter of the encoder's time in a batch, and at 30 s (docs/experiments.md). Without glibc, nothing is done.
"""

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h

KEPT_BYTES = 256 * 1024**2
"""Of freed memory at most: more than the largest block of any Whisper, the attention of large-v3 at 30 s (180 MB)."""

OLD_LIMIT_BYTES = 32 * 1024**2
"""More is refused by older versions of glibc: half of the most that an arena had."""


@cache
def keep_freed_memory() -> None:
    """Keep up to `KEPT_BYTES` of freed memory for the next layer, in one arena, as others cap their blocks at 64 MB."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        if not mallopt(M_MMAP_THRESHOLD, KEPT_BYTES):
            mallopt(M_MMAP_THRESHOLD, OLD_LIMIT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Give all freed memory back: loading leaves twice the model's size behind."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
