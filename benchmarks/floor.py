"""How fast a clip could be at best: Whisper's arithmetic and memory traffic, by formula, over what the machine can do.

With N encoder positions (T = 2 N mel frames), width d, L layers and V tokens, a multiplication and an addition being
two operations:

    encoder     24 N d^2 L + 4 N^2 d L + 2 T 3 n_mel d + 2 N 3 d^2     (matrices; attention; the two convolutions)
    cross K, V  4 N d^2 L_dec
    each token  28 d^2 L_dec + 2 V d + 4 N d L_dec

A token also reads every weight of the decoder (14 d^2 L_dec + V d bytes in int8) and all cross keys and values
(8 N d L_dec bytes in float32).
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

INT8_OPERATIONS_PER_CYCLE = 128
FLOAT_OPERATIONS_PER_CYCLE = 32
"""Of a core with AVX-512 VNNI that starts one 512-bit multiply-accumulate a cycle: 64 int8 or 16 float32 pairs."""


@dataclass(frozen=True)
class Sizes:
    """A Whisper's sizes, by the letters of the formulae."""

    d: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int
    n_mels: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Sizes":
        """Read them from a transformers config."""
        return cls(
            config["d_model"],
            config["encoder_layers"],
            config["decoder_layers"],
            config["vocab_size"],
            config["num_mel_bins"],
        )


def encoder_operations(sizes: Sizes, positions: int) -> dict[str, float]:
    """Return the operations of encoder and cross keys and values: `int8` for its matrices, `float32` for the rest."""
    d, n = sizes.d, positions
    return {
        "int8": 24 * n * d**2 * sizes.encoder_layers + 4 * n * d**2 * sizes.decoder_layers,
        "float32": 4 * n**2 * d * sizes.encoder_layers + 2 * 2 * n * 3 * sizes.n_mels * d + 2 * n * 3 * d**2,
    }


def token_operations(sizes: Sizes, positions: int) -> dict[str, float]:
    """Return the operations of one decoder step."""
    return {
        "int8": 28 * sizes.d**2 * sizes.decoder_layers + 2 * sizes.vocabulary * sizes.d,
        "float32": 4 * positions * sizes.d * sizes.decoder_layers,
    }


def token_bytes(sizes: Sizes, positions: int) -> float:
    """Return the bytes that one decoder step reads: int8 weights, float32 cross keys and values."""
    weights = 14 * sizes.d**2 * sizes.decoder_layers + sizes.vocabulary * sizes.d
    return weights + 8 * positions * sizes.d * sizes.decoder_layers


def floor_seconds(sizes: Sizes, positions: int, tokens: int, *, cores: int, hertz: float, bandwidth: float) -> float:
    """Return the least time of one clip: arithmetic at the peak, each step's memory traffic if that takes longer.

    Args:
        sizes: of the model.
        positions: that the encoder is given.
        tokens: decoder steps.
        cores: that work at it.
        hertz: of each.
        bandwidth: of the memory, in bytes a second.
    """

    def arithmetic(operations: Mapping[str, float]) -> float:
        rates = {"int8": INT8_OPERATIONS_PER_CYCLE, "float32": FLOAT_OPERATIONS_PER_CYCLE}
        return sum(operations[kind] / (rate * hertz * cores) for kind, rate in rates.items())

    step = max(arithmetic(token_operations(sizes, positions)), token_bytes(sizes, positions) / bandwidth)
    return arithmetic(encoder_operations(sizes, positions)) + tokens * step


def clock_hertz(cpuinfo: Path = Path("/proc/cpuinfo")) -> float:
    """Return the clock that the processor reports, 2.5 GHz where it reports none."""
    found = (
        re.findall(r"^cpu MHz\s*: ([\d.]+)", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if cpuinfo.is_file()
        else []
    )
    return 1e6 * max((float(value) for value in found), default=2500.0)


def memory_bandwidth(size: int = 256 * 1024 * 1024) -> float:
    """Return the bytes a second that a copy reads and writes, the best of five."""
    source, target = np.ones(size, dtype=np.uint8), np.empty(size, dtype=np.uint8)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - started)
    return 2 * size / min(times)
