"""CUDA graphs: a step's hundreds of kernels launched as one, and the memory that stays where it is for them.

A captured graph runs the same kernels on the same addresses each time. So what is captured here may depend on nothing
that varies but the content of tensors that live as long as the graph: `Memory`, and the model's weights. On the CPU
nothing is captured, and the same functions are simply called.
"""

import math
from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor

WARM_UPS = 2
ROWS = (1, 2, 4, 8, 16, 32)
"""Graphs are captured for so many rows; fewer are padded up."""


def padded_rows(rows: int) -> int:
    """Return the smallest of `ROWS` that holds `rows`."""
    return next(size for size in ROWS if size >= rows)


class Memory:
    """Flat tensors that are allocated once; what each batch needs is cut from their beginning.

    Zeroed, because keys and values that no batch has written yet are masked, not left out: a weight of zero times
    whatever lay there must be zero.
    """

    def __init__(self, sizes: Mapping[str, int], *, dtype: torch.dtype, device: torch.device) -> None:
        self._sizes = sizes
        self._dtype = dtype
        self._device = device
        self._flat: dict[str, Tensor] = {}

    def cut(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """Return a view of the piece called `name`: of one shape, always at the same address.

        Raises:
            ValueError: it is smaller than `shape`.
        """
        if math.prod(shape) > self._sizes[name]:
            raise ValueError(f"{name} of shape {shape} does not fit into {self._sizes[name]} elements")
        if name not in self._flat:
            self._flat[name] = torch.zeros(self._sizes[name], dtype=dtype or self._dtype, device=self._device)
        return self._flat[name][: math.prod(shape)].view(shape)


class Graphs:
    """Calls functions; on CUDA captures each at its first call and replays it ever after."""

    def __init__(self, device: torch.device) -> None:
        # One pool for all: a graph may then reuse the memory of another's intermediate results, and write over its
        # output. That is safe while replays follow one another on one stream and each output is consumed before the
        # next replay, which is the promise of `run`.
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._captured: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def run(self, key: Hashable, function: Callable[[], Tensor]) -> Tensor:
        """Return what `function` computes; the tensor is valid until the next call.

        Args:
            key: whatever decides about shapes and addresses.
            function: reads and writes only tensors that stay where they are, never waits for the device, and does the
                same when it is called again on the same content (it is, before and by the capture).
        """
        if self._pool is None:
            return function()
        if key not in self._captured:
            self._captured[key] = self._capture(function)
        graph, output = self._captured[key]
        graph.replay()
        return output

    def _capture(self, function: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        # Libraries allocate and choose their kernels at the first calls, which no capture can hold; and those calls
        # belong on another stream than the one that other work waits on (PyTorch, "CUDA semantics").
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": what other threads ask of CUDA meanwhile must not break this capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = function()
        return graph, output
