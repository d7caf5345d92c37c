"""What mkdocs does besides: a page of conf/ and sweeps/, pages that lie elsewhere in the repository, their links.

A link in a page is one that works in the repository. Here it leads to the page of the site that shows the same; to a
file of the code, which the site does not have, it becomes text.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
import reference  # noqa: E402 - it lies beside this file

# The files of the repository that are pages, and where they lie in the site.
ELSEWHERE = {"slurm/README.md": "slurm.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is no file of docs/."""
    for place, make in reference.OF_THE_SITE.items():
        files.append(File.generated(config, place, content=make()))
    for source, place in ELSEWHERE.items():
        files.append(File.generated(config, place, content=(reference.REPOSITORY / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Have the links lead to pages of the site."""
    place = page.file.src_uri
    source = next((source for source, there in ELSEWHERE.items() if there == place), f"docs/{place}")
    return _LINK.sub(lambda found: _link(found[1], found[2], source, place), markdown)


def _link(text: str, target: str, source: str, place: str) -> str:
    if re.match(r"[a-z]+:|#", target):
        return f"[{text}]({target})"
    path, _, anchor = target.partition("#")
    there = _page_of(os.path.normpath(PurePosixPath(source).parent / path))
    if there is None:
        return text
    page, _, own = there.partition("#")
    anchor = anchor or own
    return f"[{text}]({os.path.relpath(page, PurePosixPath(place).parent)}{f'#{anchor}' if anchor else ''})"


def _page_of(meant: str) -> str | None:
    """The page that shows a file, or a folder, of the repository; None where there is none."""
    first, *inner = PurePosixPath(meant).parts or ("",)
    if meant in ELSEWHERE or meant == "slurm":
        return ELSEWHERE.get(meant, "slurm.md")
    if meant == "README.md":
        return "index.md"
    if first == "docs":
        return "/".join(inner) or "index.md"
    if first in ("conf", "sweeps"):
        group = inner[0] if inner and not inner[0].endswith(".yaml") else ""
        return f"reference/files.md#{first}{group}"
    return None
