"""What training starts from: a version of the registry, or one that the Hub has."""

import pytest

from registry import Registry, push_version
from training.run import resolve_base

pytestmark = [pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"), pytest.mark.usefixtures("hub")]


def test_a_pushed_version_is_a_base(tiny, tmp_path):
    """A base on the Hub is imported as it was pushed, said so, and moves no alias; the next run finds it here."""
    pushed = Registry(tmp_path / "home").publish("calls", tiny.checkpoint, context={"elastic": True, "margin": 32})
    push_version(pushed, "org/calls")
    registry, said = Registry(tmp_path / "here"), []
    base = resolve_base(f"hub:org/calls@{pushed.id}", registry, said.append)
    assert base.manifest == pushed.manifest
    assert "hub:org/calls" in said[0]
    assert registry.aliases("calls") == {}
    assert resolve_base(base.ref, registry, said.append) == base
