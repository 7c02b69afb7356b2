"""Prepares data and fine-tunes in processes of its own, each ended at a given place or left to itself.

    python -m tests.killing < plan.json

torch is imported once; each run is a fork. A place is a count, so that a seed can choose it and it can be had again:

    {}                         nowhere; the calls are counted
    {"calls": n}               kill at the n-th call of a function, Python's or C's
    {"reading": n}             kill at the n-th call while the data are read
    {"saving": n}              kill at the n-th call within the saving of checkpoints
    {"files": n}               kill as soon as the folder of a checkpoint holds n files
    {"bytes": n, "step": s}    after step s, kill in the middle of a write: at byte n of a file
    {"limit": n, "step": s}    after step s, the disk has no room for a file of more than n bytes
    {"signal": n, "step": s}   send the signal n after step s

Prints a JSON line for each run: the signal that ended it (0: none), its error, or how many calls it made.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from speech.tokens import WhisperTokenizer
from training import trainer
from training.checkpoints import SaveError
from training.config import make_config
from training.data.manifest import write_manifest
from training.finetune import fine_tune
from training.prepare import prepare


class Calls:
    """Counts calls, as Python's profiler sees them, and dies at the one that was chosen."""

    def __init__(self, place):
        self.place = place
        self.calls = self.reading = self.saving = 0
        self.reads = False
        self.folder = None  # of the checkpoint that is being saved

    def count(self, frame, event, argument):
        """Count one."""
        self.calls += 1
        self.reading += self.reads
        self.saving += self.folder is not None
        files = self.place.get("files")
        if (
            self.calls == self.place.get("calls")
            or self.reading == self.place.get("reading", -1)
            or self.saving == self.place.get("saving", -1)
            or (files and self.folder and self.folder.is_dir() and len(os.listdir(self.folder)) >= files)  # noqa: PTH208
        ):
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self):
        """Start to count, and to know when a checkpoint is being saved."""
        save = trainer.ElasticTrainer._save_checkpoint

        def watched(one, *arguments):
            self.folder = Path(one.args.output_dir, f"checkpoint-{one.state.global_step}")
            save(one, *arguments)
            self.folder = None

        trainer.ElasticTrainer._save_checkpoint = watched
        sys.setprofile(self.count)


class AfterStep(TrainerCallback):
    """Sends the process a signal, or bounds the size of files, after a step."""

    def __init__(self, place):
        self.place = place

    def on_step_end(self, args, state, control, **_):
        """Do it."""
        if state.global_step != self.place["step"]:
            return
        if "signal" in self.place:
            os.kill(os.getpid(), self.place["signal"])
        if "bytes" in self.place:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and gets an error instead
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        size = self.place.get("bytes", self.place.get("limit"))
        if size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def one_run(plan, run, place):
    """Prepare the data and fine-tune."""
    torch.set_num_threads(plan["threads"])
    calls = Calls(place)
    if place and "step" in place:
        begin = trainer.ElasticTrainer.__init__

        def init(one, **arguments):
            begin(one, **arguments)
            one.add_callback(AfterStep(place))

        trainer.ElasticTrainer.__init__ = init
    elif place is not None:
        calls.watch()
    base = Path(plan["base"])
    config = make_config("test", plan["config"])
    tokenizer = WhisperTokenizer.from_folder(base)
    calls.reads = True
    data = prepare(config, tokenizer, run / "data")
    calls.reads = False
    write_manifest(run / "manifest.jsonl", data.utterances)
    fine_tune(config, base, data.of("train"), data.of("dev"), run, run)
    sys.setprofile(None)
    return {"calls": calls.calls, "reading": calls.reading, "saving": calls.saving}


def forked(plan, run, place):
    """Make one run in a process of its own; return what became of it."""
    run.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = {"error": "a traceback, on stderr"}
        try:
            said = one_run(plan, run, place)
        except (KeyboardInterrupt, SaveError) as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        except Exception:  # noqa: BLE001 - a fork must not go on as its parent
            sys.setprofile(None)
            sys.excepthook(*sys.exc_info())
        finally:
            sys.setprofile(None)
            os.write(writer, json.dumps(said).encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = json.loads(answer.read() or "{}")
    _, status = os.waitpid(child, 0)
    return {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, **said}


def main():
    """Run the plan."""
    plan = json.load(sys.stdin)
    out = os.dup(1)
    os.dup2(2, 1)  # what training prints is no answer
    for run, place in plan["runs"]:
        os.write(out, (json.dumps(forked(plan, Path(run), place)) + "\n").encode())


if __name__ == "__main__":
    main()
