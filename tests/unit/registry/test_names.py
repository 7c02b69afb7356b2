"""The grammar: what passes is one harmless path segment, and references round-trip."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry import ALIASES, HubReference, InvalidNameError, Reference, Registry, parse_reference
from registry.names import check_alias, check_name, check_version_id

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}(\.[a-z0-9_-]{1,20}){0,2}", fullmatch=True)
IDS = st.from_regex(r"[0-9a-zA-Z][0-9A-Za-z_-]{0,20}(\.[0-9A-Za-z_-]{1,20}){0,2}", fullmatch=True)
HUB_PARTS = st.from_regex(r"[0-9A-Za-z]([._-]?[0-9A-Za-z_]){0,20}", fullmatch=True)
REVISIONS = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z_-]{0,20}([./][0-9A-Za-z_-]{1,9}){0,3}", fullmatch=True)

HOSTILE = [
    "",
    ".",
    "..",
    "../up",
    "a/../b",
    "a..b",
    "..a",
    "%2e%2e",
    "%252e",
    "a%2fb",
    "/etc/passwd",
    "//host/share",
    "a/b",
    "a\\b",
    "c:\\windows",
    "a\x00b",
    "a\nb",
    "a\n",
    " a",
    "a ",
    "~root",
    "-rf",
    ".hidden",
    "trailing.",
    "a@b",
    "a:b",
    "a*",
    "$HOME",
    "`id`",
    "a\u2215b",  # division slash
    "a\u2044b",  # fraction slash
    "a\uff0fb",  # full-width slash
    "\u2024\u2024",  # one dot leaders
    "\uff0e\uff0e",
    "е",  # Cyrillic
    "é",
    "\u202ea",
    "٣",
    "a" * 65,
    "a" * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("check", [check_name, check_version_id, check_alias])
def test_hostile_names_are_refused(check, text):
    """No text that could leave its folder, or be misread, is a name, an id or an alias."""
    with pytest.raises(InvalidNameError):
        check(text)


@pytest.mark.parametrize("text", [text for text in HOSTILE if len(text) < 100])
def test_hostile_names_never_reach_the_disk(tmp_path, text):
    """The registry refuses a hostile name in every place that takes one, and creates nothing."""
    registry = Registry(tmp_path / "registry")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file.txt").write_text("x")
    calls = (
        lambda: registry.publish(text, source, context={}),
        lambda: registry.versions(text),
        lambda: registry.alias(text, "production"),
        lambda: registry.resolve(f"{text}@production"),
        lambda: registry.move_alias(text, "production", "id", expected=None, reason="r"),
        lambda: registry.record_verdict(text, "a", "b", {}),
        lambda: registry.verdicts(text),
        lambda: registry.log(text),
    )
    for call in calls:
        with pytest.raises(InvalidNameError):
            call()
    assert not registry.root.exists()


@given(text=st.text(max_size=80))
@example(text="a" * 64)
def test_what_passes_is_a_single_path_segment(text):
    """Whatever the grammar lets through stays inside the folder that it is joined to."""
    for check in (check_name, check_version_id):
        try:
            check(text)
        except InvalidNameError:
            continue
        root = Path("/registry")
        assert (root / text).resolve() == root / text
        assert (root / text).parent == root
        assert text.isascii()
        assert len(text) <= 64


def test_model_names_are_lower_case():
    """Two model names never differ by case alone, but a version id may hold capitals."""
    with pytest.raises(InvalidNameError):
        check_name("Tiny")
    assert check_version_id("20260131T235959Z-0a1b2c3d") == "20260131T235959Z-0a1b2c3d"


def test_only_the_five_aliases_exist():
    """An alias is one of five words, and the message lists them."""
    assert [check_alias(alias) for alias in ALIASES] == list(ALIASES)
    with pytest.raises(InvalidNameError, match="candidate, canary, shadow, production, previous"):
        check_alias("prod")


@given(name=NAMES, selector=st.one_of(IDS, st.sampled_from(ALIASES)))
def test_references_round_trip(name, selector):
    """A reference written out and read back is the same reference."""
    reference = Reference(name, selector)
    assert parse_reference(str(reference)) == reference
    assert reference.is_alias == (selector in ALIASES)


@given(org=HUB_PARTS, name=HUB_PARTS, revision=REVISIONS)
def test_hub_references_round_trip(org, name, revision):
    """A Hub reference written out and read back is the same reference."""
    reference = HubReference(f"{org}/{name}", revision)
    assert parse_reference(str(reference)) == reference


def test_a_hub_reference_without_a_revision_means_main():
    """The revision may be left out, and is then the branch main."""
    assert parse_reference("hub:openai/whisper-small") == HubReference("openai/whisper-small", "main")
    assert str(HubReference.parse("hub:openai/whisper-small")) == "hub:openai/whisper-small@main"


@pytest.mark.parametrize("text", ["tiny", "", "@", "tiny@", "@production", "a@b@c", "a/b@production", "tiny@../x"])
def test_malformed_references_are_refused(text):
    """A reference is a name, an at-sign and a selector, and nothing else."""
    with pytest.raises(InvalidNameError):
        parse_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "hub:",
        "hub:small",
        "hub:a/b/c",
        "hub:/b",
        "hub:a/",
        "hub:../b",
        "hub:a/..",
        "hub:a/b@",
        "hub:a/b@..",
        "hub:a/b@x/../y",
        "hub:a/b@x//y",
        "hub:a/b@/x",
        "hub:a/b@x/",
        "hub:a/b@x\x00",
        "hub:a--b/c",
        "hub:a/b-",
        "hub:a b/c",
        "hub:https://a/b",
    ],
)
def test_malformed_hub_references_are_refused(text):
    """A Hub reference is an organisation, a name and a plain revision, and nothing else."""
    with pytest.raises(InvalidNameError):
        parse_reference(text)


def test_a_hub_reference_needs_its_prefix():
    """HubReference.parse takes nothing but the hub: form."""
    with pytest.raises(InvalidNameError, match="hub:"):
        HubReference.parse("openai/whisper-small")


def test_messages_show_hostile_text_escaped_and_cut():
    """An error line never carries control characters or a novel to the terminal."""
    with pytest.raises(InvalidNameError) as caught:
        check_name("\x1b[31m" + "x" * 1000)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 250
