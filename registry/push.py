"""Push a version to the Hugging Face Hub: one commit of all its public files, tagged by the version's id.

The checkpoint lies at the repository's root, so that `pipeline("org/name")` works. Aliases are branches, moved by
compare-and-swap: the Hub takes a commit only onto the parent that it was made for. Whatever fails leaves what others
see as it was, or whole: running the same push again goes on from there. It decides nothing of what is worth pushing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from registry.copies import is_public
from registry.errors import AliasConflictError
from registry.files import Progress
from registry.hub_writing import PushError, doing, writing_api
from registry.manifest import MANIFEST
from registry.names import HubReference, check_alias
from registry.version import Version, verify_version

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

HYPOTHESES = "hyps/"
AUDIO = "smoke/"
"""The folders of a version that hold what people said; they are pushed only if asked for."""

ATTEMPTS = 3
"""How often a commit onto `main` is tried while others commit, too."""

MAIN = "main"
GIT_ATTRIBUTES = ".gitattributes"  # the Hub's own, of every repository


class Pushed(NamedTuple):
    """What is on the Hub now.

    Attributes:
        commit: That the version's tag names.
        is_new: Whether this push made it, or an earlier one.
        is_private: Whether only the repository's members see it.
        moved: The branches that were moved.
    """

    commit: str
    is_new: bool
    is_private: bool
    moved: tuple[str, ...]


def files_to_push(version: Version, *, with_audio: bool = False, with_hyps: bool = False) -> list[str]:
    """List the files of a version that leave home: those that `registry.copies.PUBLIC` lists, and what is asked for.

    Args:
        version: The version.
        with_audio: The smoke clip and its tokens, too.
        with_hyps: The hypotheses, with the references that they are compared with, too.

    Returns:
        Paths relative to the version's folder; the manifest, which is always pushed, is not among them.
    """
    asked = (*([AUDIO] if with_audio else []), *([HYPOTHESES] if with_hyps else []))
    return sorted(file for file in version.manifest.files if is_public(file) or file.startswith(asked))


def push_version(
    version: Version,
    repo: str,
    *,
    public: bool = False,
    with_audio: bool = False,
    with_hyps: bool = False,
    aliases: Sequence[str] = (),
    progress: Progress | None = None,
) -> Pushed:
    """Push a version, tag it with its id, and move the branches that are its aliases.

    Args:
        version: The version; its files are verified first.
        repo: The repository, as ``org/name``; it is made if there is none.
        public: Whether all the world may see it. Without, nothing is pushed into a repository that the world sees.
        with_audio: Push the smoke clip, too.
        with_hyps: Push the hypotheses, too.
        aliases: Branches to move to this version, such as ``production``.
        progress: Told how many of the version's bytes were just checked.

    Returns:
        What is on the Hub now.

    Raises:
        PushError: There is no token, it may not write, the network failed, or others were faster on `main`.
        AliasConflictError: Somebody else moved an alias's branch; the version is pushed, and that branch is as it was.
        DamagedVersionError: The version is not whole; nothing was pushed.
    """
    HubReference(repo)
    for alias in aliases:
        check_alias(alias)
    verify_version(version, progress)
    files = files_to_push(version, with_audio=with_audio, with_hyps=with_hyps)
    for file in files:
        if not (version.path / file).is_file():
            raise PushError(f"{version.ref} is a copy without {file}: push that from where the version was published")
    return _Push(version, repo, files).run(public=public, aliases=aliases)


class _Push:
    def __init__(self, version: Version, repo: str, files: Sequence[str]) -> None:
        self._version, self._repo, self._api = version, repo, writing_api(repo)
        self._files = {MANIFEST: version.manifest_sha256()} | {
            file: version.manifest.files[file].sha256 for file in files
        }

    def run(self, *, public: bool, aliases: Sequence[str]) -> Pushed:
        version, repo = self._version, self._repo
        nothing = f"nothing of {version.ref} is visible in {repo}; run the same command again, it goes on"
        with doing(repo, "making the repository", nothing):
            self._api.create_repo(repo, private=not public, exist_ok=True)
            is_private = bool(self._api.repo_info(repo).private)
            if not is_private and not public:
                raise PushError(f"all the world sees {repo}; nothing was pushed: say --public if that is meant")
            refs = self._api.list_repo_refs(repo)
        heads = {branch.name: branch.target_commit for branch in refs.branches}
        commit = {tag.name: tag.target_commit for tag in refs.tags}.get(version.id)
        is_new = commit is None
        if commit is None:
            with doing(repo, "committing", f"unless all of it arrived, {nothing}"):
                commit = self._commit_to_main(heads.get(MAIN))
            untagged = f"{version.ref} is in {repo} as commit {commit}, without its tag: run the same command again"
            with doing(repo, "tagging", untagged):
                self._tag(commit)
        with doing(repo, "checking what was pushed", f"{repo} has the tag {version.id}; run the same command again"):
            self._check(commit)
        moved = []
        for alias in aliases:
            there = f"{version.ref} is in {repo}; only the branch {alias} may not be moved yet"
            with doing(repo, f"moving the branch {alias}", f"{there}: run the same command again"):
                if self._move(alias, heads.get(alias), commit):
                    moved.append(alias)
        return Pushed(commit, is_new, is_private, tuple(moved))

    def _commit_to_main(self, head: str | None) -> str:
        for attempt in range(ATTEMPTS):
            # An earlier push may have been cut off between its commit and its tag.
            if head is not None and self._holds_just_this(head):
                return head
            commit = self._commit(MAIN, head)
            if commit is not None:
                return commit
            if attempt + 1 < ATTEMPTS:
                head = self._head(MAIN)
        raise PushError(
            f"others committed to {self._repo} {ATTEMPTS} times while {self._version.ref} was pushed; nothing of it is "
            "visible there: run the same command again"
        )

    def _tag(self, commit: str) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            self._api.create_tag(
                self._repo, tag=self._version.id, revision=commit, tag_message=f"{self._version.ref}, by Whisperloop"
            )
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            # Somebody pushed the same version at the same time: `_check` compares what the tag names.

    def _check(self, commit: str) -> None:
        """Compare what the tag names, file by file, with what was to be pushed."""
        found = self._tree(self._version.id)
        for path in sorted(self._files):
            if path not in found:
                raise PushError(
                    f"{self._version.ref} was pushed to {self._repo} before, without {path}, and a tag does not "
                    f"change; to push it with that, delete the tag {self._version.id} there first"
                )
            if not self._is_same(path, found[path]):
                raise PushError(
                    f"{path} of tag {self._version.id} in {self._repo} is not that of {self._version.ref}: somebody "
                    f"moved the tag (it names {commit}); delete it there and push again"
                )

    def _move(self, alias: str, head: str | None, commit: str) -> bool:
        from huggingface_hub.errors import HfHubHTTPError

        if head is None:
            try:
                self._api.create_branch(self._repo, branch=alias, revision=commit)
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
            else:
                return True
        elif self._holds_just_this(head):
            return False
        elif self._commit(alias, head) is not None:
            return True
        found = self._head(alias)
        if found is not None and self._holds_just_this(found):
            return False  # somebody else moved it to the same version
        raise AliasConflictError(f"branch {alias} of {self._repo}", head, found)

    def _commit(self, branch: str, head: str | None) -> str | None:
        """Make a branch hold just this version; return the commit, or None if its head is another than `head`."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import HfHubHTTPError

        additions = []
        for path, sha256 in self._files.items():
            addition = CommitOperationAdd(path, self._version.path / path)
            addition.upload_info.sha256 = bytes.fromhex(sha256)  # verified just now: no need to hash it again
            additions.append(addition)
        others = self._tree(head).keys() - self._files.keys() if head else ()
        deletions = [CommitOperationDelete(path, is_folder=False) for path in sorted(others)]
        try:
            done = self._api.create_commit(
                self._repo,
                [*deletions, *additions],
                commit_message=self._version.ref,
                revision=branch,
                parent_commit=head,
            )
        except HfHubHTTPError as error:
            if error.response.status_code == 412:  # the branch has another head than the parent
                return None
            raise
        return str(done.oid)

    def _head(self, branch: str) -> str | None:
        refs = self._api.list_repo_refs(self._repo)
        return next((one.target_commit for one in refs.branches if one.name == branch), None)

    def _holds_just_this(self, commit: str) -> bool:
        tree = self._tree(commit)
        return tree.keys() == self._files.keys() and all(self._is_same(path, tree[path]) for path in tree)

    def _is_same(self, path: str, there: "RepoFile") -> bool:
        from huggingface_hub.utils.sha import git_hash

        if there.lfs is not None:
            return bool(there.lfs.sha256 == self._files[path])
        return bool(there.blob_id == git_hash((self._version.path / path).read_bytes()))

    def _tree(self, revision: str) -> "dict[str, RepoFile]":
        from huggingface_hub.hf_api import RepoFile

        entries = self._api.list_repo_tree(self._repo, recursive=True, revision=revision)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile) and entry.path != GIT_ATTRIBUTES}
