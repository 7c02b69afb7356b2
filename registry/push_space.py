"""Push the files of a Hugging Face Space: one commit onto what is there, nothing else of it touched.

It knows neither what the files do nor which model they name: `training.space` writes them.
"""

from pathlib import Path
from typing import NamedTuple

from registry.hub_writing import PushError, doing, writing_api
from registry.names import HubReference


class PushedSpace(NamedTuple):
    """What is on the Hub now.

    Attributes:
        commit: The head of the Space's `main`.
        is_new: Whether this push made it; False if the same files were there.
        is_private: Whether only its members see it.
    """

    commit: str
    is_new: bool
    is_private: bool


def push_space(folder: Path, space: str, *, sdk: str, public: bool = False) -> PushedSpace:
    """Push all files of a folder into a Space, which is made if there is none.

    Args:
        folder: Holds the files; no folder in it is looked into.
        space: The Space, as ``org/name``.
        sdk: What runs it, such as ``gradio``.
        public: Whether all the world may see it. Without, nothing is pushed into a Space that the world sees.

    Raises:
        PushError: There is no token, it may not write, somebody else committed meanwhile, or the network failed.
    """
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    HubReference(space)
    api = writing_api(space)
    nothing = "nothing in it was changed; run the same command again"
    with doing(space, "making the Space", nothing):
        api.create_repo(space, repo_type="space", space_sdk=sdk, private=not public, exist_ok=True)
        before = api.repo_info(space, repo_type="space")
        if not before.private and not public:
            raise PushError(f"all the world sees {space}; nothing was pushed: say --public if that is meant")
    additions = [CommitOperationAdd(file.name, file) for file in sorted(folder.iterdir()) if file.is_file()]
    with doing(space, "committing", f"unless all of it arrived, {nothing}"):
        try:
            done = api.create_commit(
                space, additions, commit_message="Whisperloop", repo_type="space", parent_commit=before.sha
            )
        except HfHubHTTPError as error:
            if error.response.status_code != 412:
                raise
            raise PushError(f"somebody committed to {space} meanwhile; {nothing}") from error
    return PushedSpace(str(done.oid), str(done.oid) != before.sha, bool(before.private))


def holds_version(repo: str, version_id: str) -> bool:
    """Say whether a model's repository on the Hub holds a version, by its tag.

    Raises:
        PushError: There is no token, no such repository, or the network failed.
    """
    api = writing_api(repo)
    with doing(repo, "looking for the version", "nothing was changed"):
        return version_id in {tag.name for tag in api.list_repo_refs(repo).tags}
