"""Pushing to the Hub and back, with the real client: what goes, what stays, races, cuts, tokens."""

import logging
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import logging as hub_logging
from typer.testing import CliRunner

from registry import AliasConflictError, PushError, Registry, RegistryError, files_to_push, push_version
from registry.__main__ import app as models
from registry.importing import import_model
from registry.push import ATTEMPTS
from tests.hub_server import READER, TOKEN
from training.__main__ import app as training

# The client's own way to send a file without Xet, deprecated by its HTTP library.
pytestmark = [pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"), pytest.mark.usefixtures("hub")]

REPO = "org/tiny"

CHECKPOINT = ["config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json"]
CHECKPOINT += ["tokenizer.json", "tokenizer_config.json"]
EXPORT = ["config.json", "model.bin", "preprocessor_config.json", "tokenizer.json", "vocabulary.json"]
ABOUT = ["README.md", "curves/loss.png", "curves/wer.png", "data.json", "metrics.json", "provenance.json"]
GOES = sorted([*CHECKPOINT, *(f"ctranslate2/{name}" for name in EXPORT), *ABOUT])
STAYS = ["hyps/test.jsonl.gz", "smoke/clip.wav", "smoke/expected.json", "words.txt"]
CONTEXT = {"elastic": True, "margin": 32}


@pytest.fixture
def version(registry, tiny, tmp_path):
    """A version with all that training puts into one, and a file that nobody has thought about."""
    folder = tmp_path / "version"
    folder.mkdir()
    for name in CHECKPOINT:
        shutil.copyfile(tiny.checkpoint / name, folder / name)
    shutil.copytree(tiny.export, folder / "ctranslate2")
    for file in [*ABOUT, *STAYS]:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(f"---\nlanguage: [it]\n---\n# tiny\n\nthe {file} of this version\n")
    return registry.publish("tiny", folder, context=CONTEXT)


@pytest.fixture
def other(registry, version, tmp_path):
    """Another version of the same model: the next one, with a picture less and another card."""
    folder = tmp_path / "other"
    shutil.copytree(version.path, folder, ignore=shutil.ignore_patterns("manifest.json", "wer.png"))
    (folder / "README.md").chmod(0o644)
    (folder / "README.md").write_text("---\nlanguage: [it]\n---\nThe next one.\n")
    return registry.publish("tiny", folder, context=CONTEXT)


def files(hub, revision, repo=REPO):
    """Return what a commit holds, by path, without what the Hub puts there itself."""
    found = hub.repos[repo].commits[hub.repos[repo].find(revision)]
    return {path: file.content for path, file in found.items() if path != ".gitattributes"}


def local(version, paths):
    """Return the bytes of a version's files, by path."""
    return {path: (version.path / path).read_bytes() for path in paths}


def test_what_goes_and_what_stays(version):
    """The model and what tells of it go; hypotheses, voices, and whatever nobody has looked at stay at home."""
    assert files_to_push(version) == GOES
    assert sorted(version.manifest.files.keys() - set(GOES)) == STAYS
    assert set(files_to_push(version, with_hyps=True)) - set(GOES) == {"hyps/test.jsonl.gz"}
    assert set(files_to_push(version, with_audio=True)) - set(GOES) == {"smoke/clip.wav", "smoke/expected.json"}


def test_a_push_is_one_commit_with_a_tag(hub, version):
    """The repository is private; one commit on main holds the public files and the manifest; the id is its tag."""
    pushed = push_version(version, REPO)
    repo = hub.repos[REPO]
    assert repo.private
    assert (pushed.is_new, pushed.is_private, pushed.moved) == (True, True, ())
    assert repo.branches == {"main": pushed.commit}
    assert repo.tags == {version.id: pushed.commit}
    assert len(repo.commits) == 2  # the Hub's own first, and this
    assert files(hub, "main") == local(version, [*GOES, "manifest.json"])
    for private in STAYS:
        assert f"the {private} of".encode() not in b"".join([*hub.objects.values(), *files(hub, "main").values()])


def test_nothing_of_the_registry_but_the_version_goes(hub, registry, version):
    """Verdicts, aliases, the log and pages of the gate are beside a version, and never pushed."""
    registry.record_verdict("tiny", version.id, version.id, {"passed": True, "secret": "a sentence"})
    registry.move_alias("tiny", "production", version.id, expected=None, reason="a sentence")
    (version.path.parents[1] / "gate.html").write_text("a sentence")
    push_version(version, REPO, aliases=["production"], with_audio=True, with_hyps=True)
    assert files(hub, "main").keys() == {*GOES, *STAYS, "manifest.json"} - {"words.txt"}
    assert not any(b"a sentence" in content for content in [*hub.objects.values(), *files(hub, "main").values()])


def test_pushing_again_changes_nothing(hub, version):
    """A version that is there is found there: no commit, no upload, the same answer."""
    first = push_version(version, REPO, aliases=["production"])
    before = dict(hub.repos[REPO].commits), dict(hub.repos[REPO].branches)
    hub.requests.clear()
    again = push_version(version, REPO, aliases=["production"])
    assert again == first._replace(is_new=False, moved=())
    assert (hub.repos[REPO].commits, hub.repos[REPO].branches) == before
    assert hub.count("PUT", "/storage/") == hub.count("POST", "/commit/") == 0


def test_the_next_version_replaces_the_files(hub, version, other):
    """The second commit holds the second version alone, has the first as parent, and uploads only what is new."""
    first = push_version(version, REPO)
    hub.requests.clear()
    second = push_version(other, REPO)
    repo = hub.repos[REPO]
    assert repo.parents[second.commit] == first.commit
    assert files(hub, "main") == local(other, [*(set(GOES) - {"curves/wer.png"}), "manifest.json"])
    assert files(hub, version.id) == local(version, [*GOES, "manifest.json"])
    assert hub.count("PUT", "/storage/") == 0


def test_aliases_are_branches(hub, version, other):
    """An alias's branch is made, moved on, and moved back; each time it holds just the version's files."""
    first = push_version(version, REPO, aliases=["production"])
    assert first.moved == ("production",)
    for pushed in (other, version):
        assert push_version(pushed, REPO, aliases=["production"]).moved == ("production",)
        assert files(hub, "production") == local(pushed, [*files_to_push(pushed), "manifest.json"])
    assert set(hub.repos[REPO].tags) == {version.id, other.id}
    with pytest.raises(RegistryError, match="no alias"):
        push_version(version, REPO, aliases=["main"])


# Back again.


def test_what_was_pushed_comes_back_identical(version, tmp_path):
    """An import has the same name, id and manifest, to the byte; what stayed at home is named; and it is whole."""
    pushed = push_version(version, REPO, aliases=["production"])
    for revision in (version.id, pushed.commit, "production", "main"):
        elsewhere = Registry(tmp_path / f"elsewhere-{revision}")
        back = import_model(f"hub:{REPO}@{revision}", None, elsewhere)
        assert (back.ref, back.manifest) == (version.ref, version.manifest)
        assert back.manifest_sha256() == version.manifest_sha256()
        assert local(back, GOES) == local(version, GOES)
        assert sorted(back.copy().absent) == STAYS
        elsewhere.verify(back)
        assert elsewhere.resolve(version.ref) == back
    assert version.copy() is None


def test_all_that_was_asked_for_comes_back(version, tmp_path):
    """With audio and hypotheses pushed, an import has those, too."""
    push_version(version, REPO, with_audio=True, with_hyps=True)
    back = import_model(f"hub:{REPO}@{version.id}", None, Registry(tmp_path / "elsewhere"))
    assert back.copy().absent == ("words.txt",)
    assert local(back, STAYS[:3]) == local(version, STAYS[:3])


def test_what_is_there_is_not_fetched_again(hub, registry, version, tmp_path):
    """Importing what was pushed from here, or imported before, downloads the manifest and no weights."""
    push_version(version, REPO)
    elsewhere = Registry(tmp_path / "elsewhere")
    import_model(f"hub:{REPO}@main", None, elsewhere)
    shutil.rmtree(tmp_path / "hf")  # the client's cache
    hub.requests.clear()
    assert import_model(f"hub:{REPO}@main", None, registry) == version
    assert import_model(f"hub:{REPO}@main", "tiny", elsewhere).ref == version.ref
    assert hub.count("GET", "safetensors") == 0


def test_a_foreign_model_is_converted_once(hub, tiny, tmp_path):
    """A repository without a manifest is imported as ever; the same commit again downloads and converts nothing."""
    repo = hub.new_repo("org/foreign", private=False)
    for name in CHECKPOINT:
        hub.edit("org/foreign", "main", name, (tiny.checkpoint / name).read_bytes())
    hub.edit("org/foreign", "main", "manifest.json", b'{"name": "an app"}')
    elsewhere = Registry(tmp_path / "elsewhere")
    first = import_model("hub:org/foreign", None, elsewhere)
    assert (first.name, first.copy()) == ("foreign", None)
    assert local(first, ["model.safetensors"]) == local(first, ["model.safetensors"])
    shutil.rmtree(tmp_path / "hf")
    hub.requests.clear()
    assert import_model(f"hub:org/foreign@{repo.branches['main']}", None, elsewhere) == first
    assert hub.count("GET", "safetensors") == 0


def test_a_pushed_version_keeps_its_name(version, tmp_path):
    """Another name is refused: the name is in the manifest, and the manifest's hash is the version's."""
    push_version(version, REPO)
    with pytest.raises(RegistryError, match="leave out --name"):
        import_model(f"hub:{REPO}@main", "another", Registry(tmp_path / "elsewhere"))


def test_what_was_edited_on_the_hub_is_not_taken_in(hub, version, tmp_path):
    """A branch on which somebody edited a file is refused, with the tag that is as it was pushed."""
    push_version(version, REPO)
    hub.edit(REPO, "main", "README.md", b"better")
    elsewhere = Registry(tmp_path / "elsewhere")
    with pytest.raises(RegistryError, match=rf"README.md is not what .* hub:{REPO}@{version.id}$"):
        import_model(f"hub:{REPO}@main", None, elsewhere)
    assert elsewhere.models() == []
    assert import_model(f"hub:{REPO}@{version.id}", None, elsewhere).ref == version.ref


def test_a_version_without_its_weights_is_not_taken_in(hub, version, tmp_path):
    """What a model runs with may not be missing, whatever the manifest says."""
    push_version(version, REPO)
    repo = hub.repos[REPO]
    repo.commit("main", {p: f for p, f in repo.commits[repo.branches["main"]].items() if p != "ctranslate2/model.bin"})
    with pytest.raises(RegistryError, match=r"lacks ctranslate2/model\.bin"):
        import_model(f"hub:{REPO}@main", None, Registry(tmp_path / "elsewhere"))


def test_an_imported_version_can_be_pushed_on(hub, version, tmp_path):
    """A copy goes to another repository as the original would; of what it lacks, nothing can be asked for."""
    push_version(version, REPO)
    back = import_model(f"hub:{REPO}@main", None, Registry(tmp_path / "elsewhere"))
    push_version(back, "org/mirror")
    assert files(hub, version.id, "org/mirror") == files(hub, version.id)
    with pytest.raises(PushError, match="copy without hyps"):
        push_version(back, "org/mirror", with_hyps=True)


# Races.


def test_a_lost_race_on_main_is_run_again(hub, version):
    """Somebody commits while we upload: ours goes on top of theirs, which stays in the history."""
    theirs = []

    def rival(branch):
        if not theirs:
            theirs.append(hub.edit(REPO, branch, "NOTES.md", b"theirs"))

    hub.before_commit = rival
    pushed = push_version(version, REPO)
    assert hub.repos[REPO].parents[pushed.commit] == theirs[0]
    assert files(hub, "main") == local(version, [*GOES, "manifest.json"])
    assert hub.count("POST", "/commit/") == 2


def test_races_that_are_always_lost_end(hub, version):
    """After a few tries it is said that others are faster; nothing is visible, and it can be run again."""
    hub.before_commit = lambda branch: hub.edit(REPO, branch, "NOTES.md", b"theirs")
    with pytest.raises(PushError, match=f"others committed to {REPO} {ATTEMPTS} times"):
        push_version(version, REPO)
    assert hub.repos[REPO].tags == {}
    assert files(hub, "main").keys() == {"NOTES.md"}
    hub.before_commit = lambda _branch: None
    push_version(version, REPO)
    assert files(hub, version.id) == local(version, [*GOES, "manifest.json"])


def test_the_same_push_twice_at_once_is_one_version(hub, version):
    """Whoever comes second finds the commit on main and uses it: one commit, one tag."""
    rival = []

    def faster(_branch):
        if not rival:
            rival.append(None)
            hub.before_commit = lambda _branch: None
            rival[0] = push_version(version, REPO)

    hub.before_commit = faster
    pushed = push_version(version, REPO)
    assert pushed.commit == rival[0].commit
    assert len(hub.repos[REPO].commits) == 2


def test_an_alias_that_somebody_moved_is_left_alone(hub, version, other):
    """The branch stays where the other put it; the error says so, and that the version itself is pushed."""
    push_version(version, REPO, aliases=["production"])
    moved = []

    def rival(branch):
        if branch == "production":
            moved.append(hub.edit(REPO, branch, "README.md", b"a hotfix"))

    hub.before_commit = rival
    with pytest.raises(AliasConflictError, match="branch production of org/tiny has moved"):
        push_version(other, REPO, aliases=["production"])
    assert hub.repos[REPO].branches["production"] == moved[-1]
    assert other.id in hub.repos[REPO].tags


def test_an_alias_that_somebody_made_first_is_left_alone(hub, version, other):
    """Two pushes that both make a branch: one wins; to the loser of the same version that is fine, to another not."""
    mine = push_version(version, REPO)
    push_version(other, REPO)
    hub.before_branch = lambda branch: hub.repos[REPO].branches.setdefault(branch, mine.commit)
    assert push_version(version, REPO, aliases=["canary"]).moved == ()
    with pytest.raises(AliasConflictError):
        push_version(other, REPO, aliases=["shadow"])
    assert hub.repos[REPO].branches["shadow"] == mine.commit


def test_a_tag_that_was_moved_is_noticed(hub, version):
    """A tag of this id that names other content is an error, not a success."""
    push_version(version, REPO)
    hub.repos[REPO].tags[version.id] = hub.edit(REPO, "main", "config.json", b"{}")
    with pytest.raises(PushError, match=r"config\.json of tag"):
        push_version(version, REPO)


def test_more_than_was_pushed_cannot_be_added(version):
    """A tag does not change: hypotheses that were not pushed with it are refused, with what to do."""
    push_version(version, REPO)
    with pytest.raises(PushError, match=r"without hyps/test.jsonl.gz.* delete the tag"):
        push_version(version, REPO, with_hyps=True)


# Cuts.


def test_a_short_cut_is_not_noticed(hub, version):
    """An upload that is cut once is sent again by the client."""
    hub.cut_uploads = 1
    push_version(version, REPO)
    assert files(hub, version.id) == local(version, [*GOES, "manifest.json"])


def test_a_cut_in_the_middle_shows_nothing_and_goes_on(hub, version):
    """With the network gone, nothing is visible; run again, the same command sends only what is not there yet."""
    hub.cut_uploads = 1_000
    with pytest.raises(
        PushError, match=r"committing in org/tiny: .*nothing of tiny@.* run the same command again"
    ) as why:
        push_version(version, REPO)
    assert "\n" not in str(why.value)
    assert hub.repos[REPO].tags == {}
    assert files(hub, "main") == {}
    hub.cut_uploads = 0
    arrived = version.path / "model.safetensors"
    hub.objects[version.manifest.files[arrived.name].sha256] = arrived.read_bytes()
    hub.requests.clear()
    push_version(version, REPO)
    assert hub.count("PUT", "/storage/") == 3  # the export and two pictures
    assert files(hub, version.id) == local(version, [*GOES, "manifest.json"])


def test_a_commit_whose_answer_was_lost_is_found(hub, version):
    """The commit arrived, its answer did not: run again, it is found on main and tagged, not made twice."""
    hub.cut_commits = 1
    with pytest.raises(PushError, match="unless all of it arrived"):
        push_version(version, REPO)
    assert hub.repos[REPO].tags == {}
    pushed = push_version(version, REPO)
    assert len(hub.repos[REPO].commits) == 2
    assert hub.repos[REPO].tags == {version.id: pushed.commit}


def test_a_cut_before_the_tag_goes_on(hub, version):
    """Committed and not tagged is said so; run again, the tag is set on that commit."""
    hub.cut_tags = 1
    with pytest.raises(PushError, match="without its tag"):
        push_version(version, REPO)
    push_version(version, REPO)
    assert files(hub, version.id) == local(version, [*GOES, "manifest.json"])
    assert hub.count("POST", "/commit/") == 1


def test_a_download_that_is_cut_goes_on(hub, version, tmp_path):
    """A cut download is taken up where it stopped; one that is cut for good leaves nothing in the registry."""
    push_version(version, REPO)
    elsewhere = Registry(tmp_path / "elsewhere")
    hub.cut_downloads = 1_000
    with pytest.raises(RegistryError, match=f"could not fetch hub:{REPO}@main"):
        import_model(f"hub:{REPO}@main", None, elsewhere)
    assert elsewhere.models() == []
    hub.cut_downloads = 1
    assert import_model(f"hub:{REPO}@main", None, elsewhere).manifest == version.manifest


# Tokens.


def test_without_a_token_nothing_is_asked(hub, version, monkeypatch):
    """No token is one line that says how to get one, before anything is sent."""
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PushError, match="set HF_TOKEN, or run `hf auth login`"):
        push_version(version, REPO)
    assert hub.requests == []


@pytest.mark.parametrize(("token", "why"), [("hf_wrong", "does not know the token"), (READER, "may not write")])
def test_a_token_that_may_not_push(hub, version, monkeypatch, token, why):
    """An unknown token and one without write access each say so; neither is in the message."""
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PushError, match=why) as error:
        push_version(version, REPO)
    assert token not in str(error.value)
    assert hub.repos == {}


def test_the_login_is_used(hub, version, monkeypatch):
    """A token that `hf auth login` stored is as good as HF_TOKEN."""
    monkeypatch.delenv("HF_TOKEN")
    Path(constants.HF_TOKEN_PATH).parent.mkdir()
    Path(constants.HF_TOKEN_PATH).write_text(TOKEN)
    push_version(version, REPO)
    # Storage is asked without: its addresses are signed.
    assert set(hub.authorizations) == {f"Bearer {TOKEN}", None}


def test_the_token_is_never_logged(hub, version, caplog, capfd):
    """At the most talkative level of everybody's logs, no line holds the token."""
    hub_logging.set_verbosity_debug()
    try:
        with caplog.at_level(logging.DEBUG):
            hub.cut_uploads = 1
            push_version(version, REPO, aliases=["production"])
    finally:
        hub_logging.set_verbosity_warning()
    out, err = capfd.readouterr()
    assert f"Bearer {TOKEN}" in hub.authorizations
    assert TOKEN not in caplog.text + out + err


# Who sees it.


def test_public_must_be_said(hub, version):
    """Nothing goes into a repository that the world sees, unless that was asked for."""
    hub.new_repo(REPO, private=False)
    with pytest.raises(PushError, match="all the world sees org/tiny"):
        push_version(version, REPO)
    assert hub.count("PUT", "") == hub.count("POST", "/commit/") == 0
    assert not push_version(version, REPO, public=True).is_private


def test_a_new_public_repository(hub, version):
    """Asked for, a new repository is public; one that was private stays so, and the caller is told."""
    assert not push_version(version, REPO, public=True).is_private
    assert not hub.repos[REPO].private
    hub.new_repo("org/secret", private=True)
    assert push_version(version, "org/secret", public=True).is_private


def test_a_stranger_sees_nothing(version, monkeypatch, tmp_path):
    """A private repository is "no such repository" to whoever has no token, with what to do."""
    push_version(version, REPO)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RegistryError, match="HF_TOKEN"):
        import_model(f"hub:{REPO}@main", None, Registry(tmp_path / "elsewhere"))


# The command lines.


def command(app, *arguments):
    """Run a command line in this process; return what it printed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_lines(hub, registry, version, tmp_path):
    """`push` by an alias moves its branch and says what stays; `import` brings it back; `show` and `verify` know."""
    registry.move_alias("tiny", "production", version.id, expected=None, reason="test")
    said = command(training, "push", "tiny@production", "--repo", REPO, "--registry", registry.root)
    assert f"stays here: {', '.join(STAYS)}" in said
    assert f"hub:{REPO}@{version.id} is there: commit {hub.repos[REPO].branches['main']}, private" in said
    assert f"hub:{REPO}@production is now this version" in said
    assert TOKEN not in said
    elsewhere = tmp_path / "elsewhere"
    for expected in (version.ref, f"{version.ref} is already there"):
        back = command(models, "import", f"hub:{REPO}@production", "--registry", elsewhere)
        assert back.strip() == expected
    shown = command(models, "show", version.ref, "--registry", elsewhere)
    assert f"copy of     hub:{REPO}@" in shown
    assert f"not here    {', '.join(sorted(STAYS))}" in shown
    assert "is intact" in command(models, "verify", version.ref, "--registry", elsewhere)
