"""A Space's files on the Hub, with the real client: what it makes, what it leaves alone, and who may."""

import pytest

from registry import PushError, holds_version, push_space
from tests.hub_server import READER

pytestmark = pytest.mark.usefixtures("hub")

SPACE = "org/demo"
KEPT = f"spaces/{SPACE}"


@pytest.fixture
def folder(tmp_path):
    """Two files, and a folder that is none of the Space's."""
    (tmp_path / "app.py").write_text("print('hello')\n")
    (tmp_path / "README.md").write_text("---\nsdk: gradio\n---\n")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "app.pyc").write_bytes(b"x")
    return tmp_path


def files(hub):
    """Return what the Space's main holds, without what the Hub puts there itself."""
    repo = hub.repos[KEPT]
    return {path: file.content for path, file in repo.commits[repo.find("main")].items() if path != ".gitattributes"}


def test_a_space_is_made_and_filled(hub, folder):
    """It is private, a Gradio Space, and holds the folder's files, and no folder's."""
    pushed = push_space(folder, SPACE, sdk="gradio")
    assert files(hub) == {name: (folder / name).read_bytes() for name in ("app.py", "README.md")}
    assert (pushed.is_new, pushed.is_private) == (True, True)
    assert hub.repos[KEPT].find("main") == pushed.commit
    assert SPACE not in hub.repos  # no model of its name


def test_the_same_again_is_no_commit(hub, folder):
    """Pushing twice changes nothing, and says so; another content is a commit."""
    first = push_space(folder, SPACE, sdk="gradio")
    again = push_space(folder, SPACE, sdk="gradio")
    assert (again.commit, again.is_new) == (first.commit, False)
    (folder / "app.py").write_text("print('other')\n")
    assert push_space(folder, SPACE, sdk="gradio").is_new
    assert files(hub)["app.py"] == b"print('other')\n"


def test_what_somebody_put_there_stays(hub, folder):
    """A file that is not ours is not deleted."""
    push_space(folder, SPACE, sdk="gradio")
    hub.edit(KEPT, "main", "logo.txt", b"ours")
    push_space(folder, SPACE, sdk="gradio")
    assert files(hub)["logo.txt"] == b"ours"


def test_a_lost_race_changes_nothing(hub, folder):
    """Somebody commits between our look and our commit: theirs stays, and the message says what to do."""
    push_space(folder, SPACE, sdk="gradio")
    (folder / "app.py").write_text("print('mine')\n")

    def theirs(branch):
        hub.before_commit = lambda _branch: None
        hub.edit(KEPT, branch, "app.py", b"theirs")

    hub.before_commit = theirs
    with pytest.raises(PushError, match=r"somebody committed to org/demo meanwhile.*run the same command again"):
        push_space(folder, SPACE, sdk="gradio")
    assert files(hub)["app.py"] == b"theirs"


def test_nothing_goes_into_what_the_world_sees(hub, folder):
    """Without --public, a public Space is left alone; with it, it is filled."""
    hub.new_repo(KEPT, private=False)
    with pytest.raises(PushError, match=r"all the world sees org/demo; nothing was pushed: say --public"):
        push_space(folder, SPACE, sdk="gradio")
    assert files(hub) == {}
    assert not push_space(folder, SPACE, sdk="gradio", public=True).is_private
    assert "app.py" in files(hub)


def test_who_may_not_write_is_told(hub, folder, monkeypatch):
    """A token that reads only, and none at all: one line, and nothing there."""
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(PushError, match=r"making the Space in org/demo: the token may not write there"):
        push_space(folder, SPACE, sdk="gradio")
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(PushError, match=r"no token to push to org/demo"):
        push_space(folder, SPACE, sdk="gradio")
    assert hub.repos == {}


def test_a_version_is_found_by_its_tag(hub):
    """A model's repository holds a version if there is a tag of its id; no repository is an error of one line."""
    repo = hub.new_repo("org/tiny", private=True)
    assert not holds_version("org/tiny", "20260101T000000Z-00000000")
    repo.tags["20260101T000000Z-00000000"] = repo.find("main")
    assert holds_version("org/tiny", "20260101T000000Z-00000000")
    with pytest.raises(PushError, match="looking for the version in org/none"):
        holds_version("org/none", "20260101T000000Z-00000000")
