"""`make loop-demo`: the loop closed, on real speech. A service is corrected, learns from it, and answers better.

Whisper-base is served; clips are transcribed and corrected over HTTP, as the console does it; `retrain` learns from the
corrections with other speech rehearsed, the gate promotes what came of it, and the running service takes it while
somebody keeps asking. The user is played by the clips' known transcripts. As `training.demo`, a tour and no library.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydantic import TypeAdapter
from rich.table import Table

from registry import Registry
from speech.text import normalize
from training.data.manifest import Utterance
from training.data.sources.asterisk import fetch, read_asterisk
from training.data.splits import split
from training.demo import fetch_base, free_port, run_module, serving
from training.gate import Comparison
from training.schedule import step_back
from training.shell import Shell, StepError

LANGUAGE, OTHER_LANGUAGE = "ru", "en"  # in Italian the base errs half as often: a gain takes more clips to be shown
CORRECTED, HELD_OUT, REHEARSED = 120, 150, 24  # what was tried: docs/measurements.md
MIN_S, MAX_S = 0.8, 15.0
USERS = 8
ASK_EVERY_S = 10.0
SWAP_TIMEOUT_S = 120.0
MODEL = "loop"

RECIPE = """# What `make loop-demo` learns by: corrections, English rehearsed, judged on clips that nobody corrected.
name = "loop"
base = "{base}"
learning_rate = 3e-5
warmup_steps = 10
max_steps = 120
full_context_share = 0.02
eval_steps = 1000
dev_clips = 24

[[sources]]
kind = "corrections"
url = "{database}"

[[sources]]
kind = "folder"
path = "held-out"
language = "{language}"
use = "test"

[[replay]]
kind = "folder"
path = "general"
language = "{other}"
"""


@dataclass
class Asked:
    """What somebody who kept asking got."""

    answers: int = 0
    failed: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    """Each version that answered, in the order of their first answers."""


@dataclass(frozen=True)
class Heard:
    """What the service made of clips, before or after."""

    texts: list[str]
    version: str


def loop_demo(registry_root: Path, runs: Path, port: int, shell: Shell) -> dict[str, Any]:
    """Close the loop once, print what changed, and return (and write) the report; the one there is, if it was closed.

    Raises:
        StepError: something did not happen that should; the message says what.
    """
    started = time.monotonic()
    folder = (runs / "loop-demo").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    store = Registry(registry_root)
    if (closed := _closed_before(folder, store)) is not None:
        shell.console.print(_table(closed))
        shell.say(
            f"it was closed before; to close it again: python -m registry rollback {MODEL} --reason again, then "
            f"rm -r {folder} {runs / 'retrain' / MODEL}"
        )
        return closed
    source = fetch_base(runs / "demo", shell)
    if MODEL not in store.models() or store.alias(MODEL, "production") is None:
        command = ["registry", "import", str(source), "--name", MODEL, "--alias", "production"]
        run_module(*command, "--registry", str(registry_root))
    before_version = store.resolve(f"{MODEL}@production").ref  # also what is trained from: an alias would move

    corrected, held_out = _clips(runs)
    _write_folder(held_out, folder / "held-out")
    _write_folder(_prompts(OTHER_LANGUAGE, runs)[:REHEARSED], folder / "general")
    database = f"sqlite:///{folder / 'corrections.db'}"
    recipe = folder / "loop.toml"
    content = RECIPE.format(base=before_version, database=database, language=LANGUAGE, other=OTHER_LANGUAGE)
    recipe.write_text(content, encoding="utf-8")
    retrain = ["training", "retrain", "--config", str(recipe), "--registry", str(registry_root), "--runs", str(runs)]

    port = free_port(port)
    settings = {"WHISPERLOOP_CORRECTIONS": database, "WHISPERLOOP_DATABASE": ""}
    with serving(registry_root, port, folder / "service.log", model=f"{MODEL}@production", environment=settings) as (
        _,
        address,
    ):
        shell.say(f"{before_version} is served at {address}; {len(corrected)} clips are transcribed and corrected")
        before = _hear(address, corrected, shell)
        for clip, text in zip(corrected, before.texts, strict=True):
            correct(address, clip, text, before.version)
        # A short one: what is asked meanwhile takes its time from the training.
        with asking(address, min(held_out, key=lambda clip: clip.audio.duration)) as asked:
            shell.say("retraining on the corrections, while somebody keeps asking")
            process = subprocess.Popen([sys.executable, "-m", *retrain])
            step_back(process)  # as `schedule` does it
            status = process.wait()
            if status != 0:
                raise StepError(f"retrain ended with status {status}; its reasons are above")
            _wait_for_swap(address, before_version)
            time.sleep(2 * ASK_EVERY_S)  # for an answer of the new one
        after = _hear(address, corrected, shell)
    again = subprocess.run([sys.executable, "-m", *retrain], check=False, capture_output=True, text=True)

    report = _report(corrected, before, after, _verdict(store), asked)
    report |= {
        "second_retrain": (again.stdout or again.stderr).strip().rpartition("\n")[2],
        "seconds": round(time.monotonic() - started, 1),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    shell.console.print(_table(report))
    shell.say(f"done in {report['seconds'] / 60:.1f} minutes; report: {folder / 'report.json'}")
    return report


def _closed_before(folder: Path, store: Registry) -> dict[str, Any] | None:
    """Return the report of a loop that was closed, if what came of it is still in production."""
    path = folder / "report.json"
    if not path.is_file() or MODEL not in store.models():
        return None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    alias = store.alias(MODEL, "production")
    return report if alias is not None and f"{MODEL}@{alias.version}" == report["after"] else None


def correct(address: str, clip: Utterance, hypothesis: str, version: str) -> None:
    """Send what was really said in a clip, as the console does it."""
    with Path(clip.audio.path).open("rb") as file:
        answer = httpx.post(
            f"{address}/v1/feedback",
            files={"file": (Path(clip.audio.path).name, file)},
            data={
                "hypothesis": hypothesis,
                "correction": clip.text,
                "language": clip.language,
                "model": version,
                "consent": "true",
            },
            timeout=60,
        )
    if not answer.is_success:
        raise StepError(f"the correction of {clip.id} was refused: {answer.text}")


def _clips(runs: Path) -> tuple[list[Utterance], list[Utterance]]:
    """Return clips to be corrected and clips to judge by, of different sentences."""
    divided, _ = split(_prompts(LANGUAGE, runs), seed=1, test_per_language=HELD_OUT, dev_per_language=0)
    named = {name: [clip for clip in divided if clip.split == name] for name in ("train", "test")}
    return named["train"][:CORRECTED], named["test"]


def _prompts(language: str, runs: Path) -> list[Utterance]:
    root = fetch([language], runs / "data" / "asterisk")
    found, _ = read_asterisk(root, language, runs / "data" / "asterisk-audio")
    return [clip for clip in found if MIN_S <= clip.audio.duration <= MAX_S]


def _write_folder(clips: Sequence[Utterance], folder: Path) -> None:
    """Write clips with their transcripts as audiofolder has them."""
    folder.mkdir(exist_ok=True)
    rows = []
    for clip in clips:
        path = folder / f"{Path(clip.audio.path).stem}.wav"
        if not path.exists():
            os.link(clip.audio.path, path)
        rows.append(json.dumps({"file_name": path.name, "text": clip.text}, ensure_ascii=False))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _hear(address: str, clips: Sequence[Utterance], shell: Shell) -> Heard:
    """Transcribe clips by the service, several at once, as from several users: it decodes them together."""
    with (
        shell.progress("transcribing", len(clips)) as advance,
        httpx.Client(timeout=600) as client,
        ThreadPoolExecutor(USERS) as users,
    ):
        answers = []
        for answer in users.map(lambda clip: _ask(client, address, clip), clips):
            answers.append(answer)
            advance(1)
    return Heard([text for text, _ in answers], answers[-1][1])


def _ask(client: httpx.Client, address: str, clip: Utterance) -> tuple[str, str]:
    with Path(clip.audio.path).open("rb") as file:
        answer = client.post(
            f"{address}/transcribe",
            files={"file": (Path(clip.audio.path).name, file)},
            data={"language": clip.language},
        )
    answer.raise_for_status()
    content = answer.json()
    return content["text"], content["model"]


@contextmanager
def asking(address: str, clip: Utterance) -> Iterator[Asked]:
    """Ask again and again on a thread, for as long as the block runs, and count."""
    asked, stop = Asked(), threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=600) as client:
            while not stop.wait(ASK_EVERY_S):
                try:
                    _, version = _ask(client, address, clip)
                except (httpx.HTTPError, ValueError, KeyError) as error:  # also an answer that is none
                    asked.failed.append(str(error))
                    continue
                asked.answers += 1
                if version not in asked.versions:
                    asked.versions.append(version)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        stop.set()
        thread.join()


def _wait_for_swap(address: str, before: str) -> None:
    deadline = time.monotonic() + SWAP_TIMEOUT_S
    while (httpx.get(f"{address}/version", timeout=10).json()["model"] or {}).get("ref") == before:
        if time.monotonic() > deadline:
            raise StepError(f"the service still serves {before}; its log says why")
        time.sleep(0.5)


def _verdict(store: Registry) -> Comparison:
    """Return what the gate found on the unseen clips: it decodes them as the service does, and once is enough."""
    alias = store.alias(MODEL, "production")
    if alias is None or alias.verdict is None:
        raise StepError(f"{MODEL}@production was not promoted by a verdict")
    found = store.verdict(MODEL, alias.verdict)["comparisons"]
    return TypeAdapter(dict[str, Comparison]).validate_python(found)[LANGUAGE]


def _report(
    corrected: Sequence[Utterance], before: Heard, after: Heard, unseen: Comparison, asked: Asked
) -> dict[str, Any]:
    def exact(heard: Heard) -> float:
        same = [normalize(clip.text) == normalize(text) for clip, text in zip(corrected, heard.texts, strict=True)]
        return round(sum(same) / len(same), 4)

    difference = unseen.difference
    return {
        "before": before.version,
        "after": after.version,
        "corrected_clips": len(corrected),
        "exact_before": exact(before),
        "exact_after": exact(after),
        "held_out_clips": unseen.clips,
        "wer_before": round(unseen.base.value, 4),
        "wer_after": round(unseen.candidate.value, 4),
        "wer_difference": [round(value, 4) for value in (difference.value, difference.low, difference.high)],
        "requests_meanwhile": asked.answers,
        "requests_failed": len(asked.failed),
        "versions_that_answered": asked.versions,
    }


def _table(report: dict[str, Any]) -> Table:
    table = Table("", "before", "after", title="The loop, closed")
    table.add_row("version that answers", report["before"], report["after"])
    share = [f"{100 * report[key]:.0f} %" for key in ("exact_before", "exact_after")]
    table.add_row(f"exact of {report['corrected_clips']} corrected clips", *share)
    value, low, high = report["wer_difference"]
    table.add_row(
        f"WER on {report['held_out_clips']} unseen clips",
        f"{report['wer_before']:.3f}",
        f"{report['wer_after']:.3f} ({value:+.3f} [{low:+.3f}, {high:+.3f}])",
    )
    table.add_row("requests meanwhile, failed", "", f"{report['requests_meanwhile']}, {report['requests_failed']}")
    return table
