"""The documentation's site: whole, true, and loading nothing from elsewhere."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAMS = Path(sys.executable).parent
LOADED = re.compile(
    r"<(?:script|img|iframe|source|audio|video)[^>]*\bsrc=\"?(https?:)?//|<link[^>]*\bhref=\"?(https?:)?//"
)

pytestmark = pytest.mark.skipif(shutil.which("mkdocs", path=PROGRAMS) is None, reason="the dev extra is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return the built site."""
    target = tmp_path_factory.mktemp("site")
    command = [str(PROGRAMS / "mkdocs"), "build", "--strict", "--site-dir", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    return target


def test_every_page_is_in_the_site(site):
    """A page of docs/ that the navigation forgot would be found by nobody: it is a warning, and warnings are errors."""
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs")
        built = name.parent / "index.html" if name.name == "README.md" else name.with_suffix(".html")
        assert (site / built).is_file(), built


def test_nothing_is_loaded_from_elsewhere(site):
    """No font, script, style or picture comes from another host: it can be read without a network, and tells nobody."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        elsewhere = [
            tag for tag in re.findall(r"<(?:script|img|iframe|source|link)\b[^>]*>", text) if LOADED.match(tag)
        ]
        assert [tag for tag in elsewhere if 'rel="canonical"' not in tag] == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:@import|url\()\s*[\"']?https?:", style.read_text()) == [], style


def test_what_makes_the_site_is_not_in_it(site):
    """Its pages are, its programs are not."""
    assert list(site.rglob("*.py")) == []


def test_the_reference_is_what_the_program_says():
    """Settings, command lines, HTTP and recipes are as the code has them now; `make reference` writes them anew."""
    pages = [str(page) for page in sorted((ROOT / "docs" / "reference").glob("*.md"))]
    command = [str(PROGRAMS / "cog"), "--check", "-I", ".", "-I", "docs/reference", *pages]
    checked = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_a_link_out_of_the_documents_must_name_a_file():
    """On the site, such links become names; one that leads nowhere ends the build."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "reference" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)

    class Page:
        class file:  # noqa: N801 - as mkdocs calls it
            src_path = "training/recipe.md"

    assert (
        hooks.on_page_markdown("[`training/config.py`](../../training/config.py)", page=Page) == "`training/config.py`"
    )
    assert (
        hooks.on_page_markdown("see [the house](../../README.md#the-house)", page=Page) == "see the house (`README.md`)"
    )
    assert (
        hooks.on_page_markdown("[gate](gate.md), [api](../api.md#errors)", page=Page)
        == "[gate](gate.md), [api](../api.md#errors)"
    )
    with pytest.raises(FileNotFoundError, match="not there"):
        hooks.on_page_markdown("[x](../../training/nowhere.py)", page=Page)
