"""The registry's command line: ``python -m registry --help``.

It prints and asks; what it does is in `registry.store` and `registry.importing`.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from registry import report
from registry.errors import DamagedVersionError, RegistryError
from registry.importing import default_name, import_model, is_elastic
from registry.names import ALIASES, check_alias, check_name
from registry.store import Registry
from registry.version import Version

DEFAULT_BASE = "hub:openai/whisper-small"


class _OneLineErrors(typer.core.TyperGroup):
    """Turns the registry's errors into one line on stderr and exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (RegistryError, PermissionError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    add_completion="__main__" not in sys.argv[0],  # shells complete programs, not `python -m`
    help="Model versions on disk: import, list, verify, move aliases, roll back.",
)

RegistryOption = Annotated[
    Path, typer.Option("--registry", envvar="WHISPERLOOP_REGISTRY", help="The registry's folder.")
]
RefArgument = Annotated[str, typer.Argument(help="name@alias or name@id.")]
NameArgument = Annotated[str, typer.Argument(help="The model's name.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the log.")]

DEFAULT_ROOT = Path("runs/registry")


@app.command("list")
def list_versions(registry: RegistryOption = DEFAULT_ROOT) -> None:
    """List all models, their versions and aliases.

    For example:

        python -m registry list
    """
    store = Registry(registry)
    models = store.models()
    if not models:
        print("the registry is empty; run: python -m registry import --help")
        return
    table = report.table("model", "version", "created (UTC)", "size", "base", "context", "aliases")
    for name in models:
        aliases = store.aliases(name)
        for version_id in store.version_ids(name):
            here = ", ".join(a.alias for a in aliases.values() if a.version == version_id)
            try:
                manifest = store.version(name, version_id).manifest
            except DamagedVersionError:
                table.add_row(name, version_id, "damaged", "", "", "", here)
                continue
            created = f"{manifest.created_at:%Y-%m-%d %H:%M:%S}"
            size, context = report.megabytes(manifest.size), report.flat(manifest.context)
            table.add_row(name, version_id, created, size, manifest.base or "", context, here)
    report.show(table)


@app.command()
def show(ref: RefArgument, registry: RegistryOption = DEFAULT_ROOT) -> None:
    """Show a version's origin and files.

    For example:

        python -m registry show whisper@production
    """
    store = Registry(registry)
    version = store.resolve(ref)
    manifest = version.manifest
    here = [a.alias for a in store.aliases(version.name).values() if a.version == version.id]
    facts = {
        "version": version.ref,
        "aliases": ", ".join(here),
        "created": f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "parent": manifest.parent or "",
        "base": manifest.base or "",
        "context": report.compact(manifest.context),
        "normalizer": manifest.normalizer_version or "",
        "extra": report.compact(manifest.extra) if manifest.extra else "",
        "copy of": f"hub:{copy.repo}@{copy.commit}" if (copy := version.copy()) else "",
        "not here": ", ".join(copy.absent) if copy else "",
        "folder": str(version.path),
    }
    for key, value in facts.items():
        print(f"{key:<11} {value}".rstrip())
    table = report.table("file", "size", "sha256")
    for file, entry in manifest.files.items():
        table.add_row(file, report.megabytes(entry.size), entry.sha256)
    report.show(table)


@app.command()
def verify(ref: RefArgument, registry: RegistryOption = DEFAULT_ROOT) -> None:
    """Hash a version's files, check them against its manifest, and check the log.

    For example:

        python -m registry verify whisper@production
    """
    store = Registry(registry)
    version = store.resolve(ref)
    manifest = version.manifest
    with report.bar("checking", manifest.size) as progress:
        store.verify(version, progress)
    store.verify_log(version.name)
    print(f"{version.ref} is intact: {len(manifest.files)} files, {report.megabytes(manifest.size)}")


@app.command()
def alias(
    ref: RefArgument,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help=f"One of: {', '.join(ALIASES)}.")],
    *,
    reason: ReasonOption,
    expected: Annotated[
        str | None, typer.Option(help="Move only if the alias names this version id. (as it is now)")
    ] = None,
    verdict: Annotated[str | None, typer.Option(help="File name of the verdict that allows the move.")] = None,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Point an alias at a version.

    For example:

        python -m registry alias whisper@candidate production --reason 'heard and liked'
    """
    store = Registry(registry)
    version = store.resolve(ref)
    _move(store, version, name, reason=reason, expected=expected, verdict=verdict)


@app.command()
def rollback(name: NameArgument, reason: ReasonOption, registry: RegistryOption = DEFAULT_ROOT) -> None:
    """Swap production and previous.

    For example:

        python -m registry rollback whisper --reason 'names are misspelt'
    """
    moved = Registry(registry).rollback(name, reason=reason)
    print(f"{name}@production is now {moved.version}")


@app.command()
def verdicts(name: NameArgument, registry: RegistryOption = DEFAULT_ROOT) -> None:
    """Show what the gate decided on a model's versions, and why.

    For example:

        python -m registry verdicts whisper
    """
    store = Registry(registry)
    paths = store.verdicts(name)
    if not paths:
        print(f"{name} has no verdicts yet")
        return
    table = report.table("verdict", "passed", "why")
    for path in paths:
        table.add_row(path.name, *report.outcome(store.verdict(name, path.name)))
    report.show(table)


@app.command()
def log(name: NameArgument, registry: RegistryOption = DEFAULT_ROOT) -> None:
    """Show all alias moves of a model, oldest first.

    For example:

        python -m registry log whisper
    """
    store = Registry(registry)
    entries = store.log(name)
    if not entries:
        print(f"{name} has no moves yet")
        return
    table = report.table("seq", "moved (UTC)", "alias", "from", "to", "reason", "verdict")
    for entry in entries:
        when, verdict = f"{entry.moved_at:%Y-%m-%d %H:%M:%S}", entry.verdict or ""
        if entry.undoes is not None:
            table.add_row(str(entry.seq), when, f"(undoes {entry.undoes})", "", "", entry.reason)
        for change in entry.changes:
            row = (change.alias, change.before or "", change.after, entry.reason, verdict)
            table.add_row(str(entry.seq), when, *row)
    report.show(table)
    store.verify_log(name)


@app.command()
def gc(registry: RegistryOption = DEFAULT_ROOT) -> None:
    """Remove what stopped writers left behind; never a version.

    For example:

        python -m registry gc
    """
    removed = Registry(registry).collect_garbage()
    print(f"removed {len(removed)} leftovers")


@app.command("import")
def import_command(
    source: Annotated[
        str, typer.Argument(help="A transformers or CTranslate2 folder, or hub:org/name@revision.")
    ] = DEFAULT_BASE,
    name: Annotated[
        str | None,
        typer.Option(help="The model's name. (the source's last part; what was pushed keeps its own)"),
    ] = None,
    to: Annotated[str | None, typer.Option("--alias", help=f"Then point at it: {', '.join(ALIASES)}.")] = None,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Make a Whisper model from elsewhere a version, with its CTranslate2 export; take in a version that was pushed.

    For example:

        python -m registry import --name whisper --alias production

        python -m registry import hub:openai/whisper-small --name small

        python -m registry import my-checkpoint --name mine
    """
    store = Registry(registry)
    check_name(name or default_name(source))
    if to is not None:
        check_alias(to)
    before = {f"{model}@{version}" for model in store.models() for version in store.version_ids(model)}
    version = import_model(source, name, store)
    print(f"{version.ref} is already there" if version.ref in before else version.ref)
    if version.ref not in before and not is_elastic(version):
        print(
            "every clip will cost 30 s, however short; it teaches itself otherwise from speech without transcripts: "
            f"python -m training elasticize {version.ref} --audio FOLDER",
            file=sys.stderr,
        )
    if to is not None:
        _move(store, version, to, reason="imported")


def _move(
    store: Registry,
    version: Version,
    alias: str,
    *,
    reason: str,
    expected: str | None = None,
    verdict: str | None = None,
) -> None:
    if expected is None:
        current = store.alias(version.name, alias)
        expected = current.version if current else None
    with report.bar("checking", version.manifest.size) as progress:
        moved = store.move_alias(
            version.name, alias, version.id, expected=expected, reason=reason, verdict=verdict, progress=progress
        )
    print(f"{version.name}@{alias} is now {moved.version}")


def main() -> None:
    """Run the command line, as `python -m registry` or as the script `whisperloop-registry`."""
    app(prog_name="python -m registry" if "__main__" in sys.argv[0] else None)


if __name__ == "__main__":
    main()
