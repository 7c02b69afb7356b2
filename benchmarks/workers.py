"""A contender in a process of its own, started when it is first asked and idle between its rounds."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from training.shell import StepError

ROOT = Path(__file__).parent.parent


class Worker:
    """A script of `benchmarks.peers`, spoken to as `benchmarks.peers.protocol` says.

    Args:
        python: the environment that it runs in.
        script: a module of `benchmarks.peers`.
        options: what it is loaded with.
        log: where its standard error goes.
    """

    def __init__(self, python: Path, script: str, options: Mapping[str, Any], log: Path) -> None:
        self._command = [str(python), "-m", f"benchmarks.peers.{script}"]
        self._options = options
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        self._process.communicate()

    def transcribe(self, clips: Sequence[tuple[Path, str | None]], *, one_by_one: bool = False) -> dict[str, Any]:
        """Transcribe files, together or one by one.

        Returns:
            `seconds` of all, `each` call's seconds, and `texts` in the order of the clips.

        Raises:
            StepError: the contender failed; the message says with what.
        """
        listed = [[str(path), language] for path, language in clips]
        return self.ask({"do": "transcribe", "clips": listed, "one_by_one": one_by_one})

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer; loads the model before the first one."""
        if self._process is None:
            self._process = self._start()
            self._exchange({"do": "load", **self._options})
        return self._exchange(request)

    def _start(self) -> "subprocess.Popen[str]":
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                cwd=ROOT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for the runner, which then ends this one
            )

    def _exchange(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process is not None  # noqa: S101 - for the type checker
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: there is no answer either
        line = self._process.stdout.readline()
        if not line:
            raise StepError(f"{self._command[-1]} ended with status {self._process.wait()}; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise StepError(f"{self._command[-1]} failed: {answer['error']}; see {self._log}")
        return answer
