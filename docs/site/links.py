"""A hook of MkDocs: files outside docs/ to which pages link join the site, and the links lead to them.

Links are written for readers of the repository, so docs/studies.md links to `../reports/ngpt-vs-gpt/report.md`. In the
site, everything in docs/ is at the root, and the other files keep their path in the repository.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = "docs/"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add every file that a page links to, and every file that such a page links to in turn."""
    root = Path(config.config_file_path).parent
    pages = [file for file in files.documentation_pages() if file.src_uri.endswith(".md")]
    while pages:
        page = pages.pop()
        place = locate(page.src_uri, root)
        for target in find_targets(page.content_string, place):
            uri = to_uri(target)
            if files.get_file_from_path(uri) is None and (root / target).is_file():
                files.append(File.generated(config, uri, abs_src_path=str(root / target)))
                if uri.endswith(".md"):
                    pages.append(files.src_uris[uri])
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: object) -> str:
    """Rewrite the links of a page from paths in the repository to paths in the site."""
    root, uri = Path(config.config_file_path).parent, page.file.src_uri
    place = locate(uri, root)

    def rewrite(link: re.Match[str]) -> str:
        return os.path.relpath(to_uri(resolve(link[1], place)), PurePosixPath(uri).parent)

    kept = [found.span() for found in FENCE.finditer(markdown)]
    return LINK.sub(
        lambda link: link[0] if any(start <= link.start() < end for start, end in kept) else rewrite(link), markdown
    )


def find_targets(text: str, place: str) -> Iterator[str]:
    """The files, as paths in the repository, to which a page at `place` links."""
    for link in LINK.findall(FENCE.sub("", text)):
        yield resolve(link, place)


def resolve(link: str, place: str) -> str:
    """The path in the repository of a link on the page at `place`."""
    return os.path.normpath(PurePosixPath(place).parent / link)


def locate(uri: str, root: Path) -> str:
    """The path in the repository of a file of the site."""
    is_outside = (root / uri).exists() and not (root / DOCS / uri).exists()
    return uri if is_outside else DOCS + uri


def to_uri(place: str) -> str:
    """The path in the site of a file in the repository."""
    return place.removeprefix(DOCS)
