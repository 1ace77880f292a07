"""Look for links of the built site that lead nowhere, and images without a text.

`python docs/check_site.py out/site`, which `make docs` runs, exits with 1 if there are
any. Links to other sites are not followed.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page refers to, what it can be referred to by, images without a text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.unnamed: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note them."""
        found = {name: value for name, value in attrs if value}
        self.links |= {found[name] for name in ("href", "src") if name in found}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "img" and "alt" not in found:
            self.unnamed.append(found.get("src", ""))


def faults(root: Path) -> list[str]:
    """Every dead link and unnamed image of the pages below a folder."""
    # Themes keep templates of theirs among the static files.
    paths = [p for p in root.rglob("*.html") if "_static" not in p.parts]
    pages = {path.resolve(): Page(path) for path in paths}
    found = []
    for path, page in pages.items():
        name = path.relative_to(root.resolve())
        found += [f"{name}: image without a text: {src}" for src in page.unnamed]
        for link in sorted(page.links):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            anchor = unquote(url.fragment)
            missing = anchor and target in pages and anchor not in pages[target].anchors
            if missing or not target.is_file():
                found.append(f"{name}: dead link: {link}")
    if not pages:
        found.append(f"no pages in {root}")
    return found


def main(root: str) -> int:
    """Print the faults; returns 1 if there are any."""
    found = faults(Path(root))
    sys.stdout.write("".join(f"{fault}\n" for fault in found))
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
