"""One process in a folder at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from training.alone import alone_in
from training.shell import StepError

ROOT = Path(__file__).parents[3]

HOLDER = """
import sys
from pathlib import Path
from training.alone import alone_in
with alone_in(Path(sys.argv[1]), RuntimeError()):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_that_another_process_holds(tmp_path):
    """Is refused at once, with what the caller says; when that process is killed, it is free."""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StepError, match="somebody is here"), alone_in(folder, StepError("somebody is here")):
            pass
        holder.kill()
    with alone_in(folder, StepError("nobody is here")):
        pass
