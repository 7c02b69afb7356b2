"""Where to compute: on the GPU, if there is one that torch can drive, or on the CPU. Imports neither."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda"]


def takes_gpu(device: Device) -> bool:
    """Say whether `speech.engine.load_engine` takes the torch engine on a GPU, or CTranslate2 on the CPU."""
    return device == "cuda" or (device == "auto" and _gpu_is_usable())


def _gpu_is_usable() -> bool:
    import importlib.util

    import ctranslate2

    # Asks the driver without importing torch, which takes seconds and hundreds of MB.
    return ctranslate2.get_cuda_device_count() > 0 and importlib.util.find_spec("torch") is not None
