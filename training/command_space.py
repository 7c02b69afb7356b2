"""`python -m training space`: a page on the Hugging Face Hub that shows a version that is there."""

from pathlib import Path
from typing import Annotated

import typer

from registry import Registry, holds_version, push_space
from training.shell import Shell, StepError


def space_command(
    ref: Annotated[str, typer.Argument(help="name@alias or name@version; pushed before, with `push`.")],
    *,
    model: Annotated[str, typer.Option(help="The Hub repository that holds the version, as org/name.")],
    into: Annotated[Path, typer.Option(help="Folder for the Space's files.")] = Path("runs/space"),
    push: Annotated[str | None, typer.Option(help="Push them, too: the Space, as org/name; made if need be.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Let all the world see it; else it is private.")] = False,
    title: Annotated[str | None, typer.Option(help="Of the page. (the model's name)")] = None,
    registry: Annotated[
        Path, typer.Option("--registry", envvar="WHISPERLOOP_REGISTRY", help="Folder of the model registry.")
    ] = Path("runs/registry"),
) -> None:
    """Write the files of a Hugging Face Space that transcribes with a version, and push them if that is asked for.

    The token is read from HF_TOKEN, or from what `hf auth login` left.

    For example:

        python -m training push whisper@production --repo my-org/calls

        python -m training space whisper@production --model my-org/calls --push my-org/calls-demo
    """
    from training.space.files import SDK, write_space

    shell = Shell()
    version = Registry(registry).resolve(ref)
    names = write_space(version, model, into, title=title)
    shell.say(f"{into}: {', '.join(names)}")
    if push is None:
        shell.say(f"try it here: python {into / 'app.py'} (it loads hub:{model}@{version.id})")
        return
    if not holds_version(model, version.id):
        raise StepError(
            f"{model} does not hold {version.ref}, which the Space would load; push it first: "
            f"python -m training push {ref} --repo {model}"
        )
    pushed = push_space(into, push, sdk=SDK, public=public)
    seen = "private" if pushed.is_private else "public"
    shell.say(f"Space {push} is {'' if pushed.is_new else 'already '}there: commit {pushed.commit}, {seen}")
    if public and pushed.is_private:
        shell.say(f"{push} was private before and stays so: its settings page on the Hub changes that")
