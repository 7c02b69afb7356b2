"""What mkdocs is told beside mkdocs.yml: links to what is no page become names, and must name what is there."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Take links that leave docs/ out of a page: the site is built of docs/ alone, the repository has the rest.

    Raises:
        FileNotFoundError: A link names a file that is not in the repository.
    """
    folder = (ROOT / "docs" / page.file.src_path).parent

    def name(found: re.Match[str]) -> str:
        text, target, _anchor = found.groups()
        path = (folder / target).resolve()
        if path.is_relative_to(ROOT / "docs"):
            return found[0]
        if not path.exists():
            raise FileNotFoundError(f"{page.file.src_path} links to {target}, which is not there")
        named = path.relative_to(ROOT).as_posix()
        return f"`{named}`" if text.strip("`") == named else f"{text} (`{named}`)"

    return LINK.sub(name, markdown)
