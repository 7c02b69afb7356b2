"""Run the suite against a server: `python -m tests.conformance --base-url http://127.0.0.1:8000/v1`."""

import argparse
import fnmatch
import shlex
import sys
import warnings
from pathlib import Path

from tests.conformance import (  # noqa: F401 - each registers its checks
    check_errors,
    check_fields,
    check_formats,
    check_load,
    check_node,
    check_silence,
    check_streaming,
)
from tests.conformance.sound import SPEECH, Clip, read_wav
from tests.conformance.suite import AREAS, CHECKS, Server, run_check
from tests.conformance.table import load, markdown, save, summary

SIGNS = {"pass": "pass", "fail": "FAIL", "skip": "skip"}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    made.add_argument("--base-url", required=True, help="the server's address, with /v1")
    made.add_argument("--api-key", default="-", help="a key that it takes")
    made.add_argument("--model", default="whisper-1", help="the model to ask for (whisper-1)")
    made.add_argument("--audio", type=Path, action="append", default=[], metavar="FILE",
                      help="speech of your own, 16-bit mono WAV; may be repeated")  # fmt: skip
    made.add_argument("--text", action="append", default=[], help="what is said in it: one for each --audio")
    made.add_argument("--language", default="en", help="of --audio, ISO 639-1 (en)")
    made.add_argument("--upload-limit", type=int, metavar="BYTES", help="the largest file that the server takes")
    made.add_argument("--only", default="*", metavar="PATTERN", help="checks or areas by name: 'silence', '*stream*'")
    made.add_argument("--timeout", type=float, default=600, help="seconds that an answer may take (600)")
    made.add_argument("--name", default="this server", help="the server's name in the table")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    made.add_argument("--beside", type=Path, action="append", default=[], metavar="FILE",
                      help="results of another server (--json), as a column of the table; may be repeated")  # fmt: skip
    made.add_argument("--list", action="store_true", help="list the checks and run none")
    return made


def _clips(arguments: argparse.Namespace) -> tuple[Clip, ...]:
    if len(arguments.audio) != len(arguments.text):
        raise SystemExit("give one --text for each --audio")
    clips = tuple(
        Clip(path, text, arguments.language) for path, text in zip(arguments.audio, arguments.text, strict=True)
    )
    try:
        rates = {read_wav(clip.content).rate for clip in clips}
    except (OSError, ValueError, EOFError) as error:
        raise SystemExit(f"--audio: {error}") from error
    if len(rates) > 1:
        raise SystemExit("--audio: the files must have one sample rate")
    return clips or SPEECH


def main(argv: list[str] | None = None) -> int:
    """Run the suite; exit status 1 where a promise is broken."""
    arguments = parser().parse_args(argv)
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # OpenAI's client says that OpenAI's own ends
    in_order = sorted(CHECKS, key=lambda one: AREAS.index(one.area))
    chosen = [one for one in in_order if any(fnmatch.fnmatch(x, arguments.only) for x in (one.area, one.name))]
    if arguments.list:
        for one in chosen:
            print(f"{one.area:14} {one.name:42} {one.promise}")
        return 0
    server = Server(
        arguments.base_url,
        arguments.api_key,
        arguments.model,
        _clips(arguments),
        arguments.upload_limit,
        arguments.timeout,
    )
    results = []
    for one in chosen:
        result = run_check(one, server)
        results.append(result)
        reason = f"  {result.detail}" if result.detail else ""
        print(f"{SIGNS[result.outcome]}  {result.seconds:6.1f} s  {one.area:12}  {one.name}{reason}", flush=True)
    server.close()
    print(summary(results))
    if arguments.json:
        save(results, arguments.name, arguments.json)
    if arguments.markdown:
        command = shlex.join(["python", "-m", "tests.conformance", *(sys.argv[1:] if argv is None else argv)])
        servers = [(arguments.name, results), *map(load, arguments.beside)]
        arguments.markdown.write_text(markdown(servers, command))
    return int(any(result.outcome == "fail" for result in results))


if __name__ == "__main__":
    sys.exit(main())
