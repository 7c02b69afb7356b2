"""One run on several devices: which process this is, what the first one hands the others, and what they agree on.

`torchrun` starts the processes and ends them all when one fails. The first does everything; the others `follow` it
through fine-tuning alone. How gradients are averaged is DDP's business, and Trainer's.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event
from typing import Any, ParamSpec, TypeVar

from training.config import ConfigError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

PATIENCE = timedelta(days=2)
"""How long the others wait for the first, which may have to download, decode and measure. torchrun sees to the dead."""


_called = Event()
"""Whether the others were called by `on_all`."""


def rank() -> int:
    """Return the number of this process; 0 is the one that writes and speaks."""
    return int(os.environ.get("RANK", "0"))


def n_processes() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def divide_batch(batch_size: int, accumulation: int, processes: int) -> tuple[int, int]:
    """Divide an optimiser step among processes, so that it is the same step on any number of them.

    Args:
        batch_size: clips a forward pass, at most.
        accumulation: forward passes a step, over all processes.
        processes: that share them.

    Returns:
        Clips a forward pass and forward passes a step, of each process.

    Raises:
        ConfigError: the clips of a step cannot be shared evenly.
    """
    clips = batch_size * accumulation
    if clips % processes:
        raise ConfigError(
            f"{processes} processes cannot share the {clips} clips of a step evenly: make batch_size "
            f"({batch_size}) × gradient_accumulation_steps ({accumulation}) a multiple of {processes}"
        )
    each = clips // processes
    fitting = max(n for n in range(1, batch_size + 1) if each % n == 0)
    return fitting, each // fitting


def on_all(call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """Call a function on this process, the first, and on those that `follow`."""
    if n_processes() == 1:
        return call(*args, **kwargs)
    _called.set()
    _join()
    _broadcast((call, args, kwargs))
    result = call(*args, **kwargs)
    _leave()
    return result


@contextmanager
def leading() -> Iterator[None]:
    """Let those that follow go at the end of the block, if nothing was called on them: they would wait for days."""
    yield
    if n_processes() > 1 and not _called.is_set():
        on_all(_nothing)


def _nothing() -> None:
    """What there is to do where nothing is new."""


def follow() -> None:
    """Wait for what the first process calls `on_all`, and do it with it."""
    _join()
    call, args, kwargs = _broadcast(None)
    call(*args, **kwargs)
    _leave()


def wait_for_all() -> None:
    """Return when every process is here."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()


def largest(value: float) -> float:
    """Return the largest of the values that the processes bring; all must ask at the same place."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return float(shared)


def _join() -> None:
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)


def _leave() -> None:
    import torch.distributed as dist

    dist.barrier()
    dist.destroy_process_group()


def _broadcast(content: Any) -> Any:
    """Send an object from the first process to all; pickled, between processes of one torchrun."""
    import torch.distributed as dist

    box = [content]
    dist.broadcast_object_list(box, src=0)
    return box[0]
