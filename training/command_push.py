"""`python -m training push`: a version of the registry goes to the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from registry import Reference, Registry, files_to_push, push_version
from training.shell import Shell


def push(
    ref: Annotated[str, typer.Argument(help="name@alias or name@version; an alias's branch is moved, too.")],
    *,
    repo: Annotated[str, typer.Option(help="The Hub repository, as org/name; it is made if there is none.")],
    public: Annotated[bool, typer.Option("--public", help="Let all the world see it; else it is private.")] = False,
    with_audio: Annotated[bool, typer.Option("--with-audio", help="Push the smoke clip, too: a voice.")] = False,
    with_hyps: Annotated[bool, typer.Option("--with-hyps", help="Push the hypotheses and references, too.")] = False,
    alias: Annotated[list[str] | None, typer.Option(help="A branch to move to it, such as production.")] = None,
    registry: Annotated[
        Path, typer.Option("--registry", envvar="WHISPERLOOP_REGISTRY", help="Folder of the model registry.")
    ] = Path("runs/registry"),
) -> None:
    """Push a version to the Hub: one commit, tagged by its id. What people said stays here unless it is asked for.

    The token is read from HF_TOKEN, or from what `hf auth login` left.

    For example:

        python -m training push whisper@production --repo my-org/calls
    """
    shell = Shell()
    version = Registry(registry).resolve(ref)
    reference = Reference.parse(ref)
    aliases = dict.fromkeys([*([reference.selector] if reference.is_alias else []), *(alias or [])])
    files = files_to_push(version, with_audio=with_audio, with_hyps=with_hyps)
    size = sum(version.manifest.files[file].size for file in files)
    shell.say(f"{version.ref} to {repo}: {len(files)} files, {size / 1e6:,.1f} MB")
    if stays := sorted(version.manifest.files.keys() - set(files)):
        shell.say(f"stays here: {', '.join(stays)}")
    with shell.progress("checking", version.manifest.size) as advance:
        pushed = push_version(
            version,
            repo,
            public=public,
            with_audio=with_audio,
            with_hyps=with_hyps,
            aliases=list(aliases),
            progress=advance,
        )
    seen = "private" if pushed.is_private else "public"
    shell.say(f"hub:{repo}@{version.id} is {'' if pushed.is_new else 'already '}there: commit {pushed.commit}, {seen}")
    if public and pushed.is_private:
        shell.say(f"{repo} was private before and stays so: its settings page on the Hub changes that")
    for name in aliases:
        shell.say(f"hub:{repo}@{name} is {'now' if name in pushed.moved else 'already'} this version")
    shell.say(f"serve it anywhere: WHISPERLOOP_MODEL=hub:{repo}@{version.id} python -m service")
