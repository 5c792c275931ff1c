"""Hooks of MkDocs: the pages and links that differ between the repository and the site.

Comes in: the configuration (mkdocs.yml), the files of docs/, and each page's Markdown.
Goes out: pages made from files outside docs/ (`PAGES`); a copy, as text, of each other file outside
docs/ that a page links to; the list of those copies; the full navigation.
Promise:  a link that works in the repository works in the site, or the build fails.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "skills/trainvitals/SKILL.md": "skill.md",
}
"""Path in the repository → page of the site."""
NOTEBOOKS = {
    path.relative_to(ROOT).as_posix(): f"notebooks/{path.stem}.md"
    for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
}
"""As PAGES, for notebooks."""
PAGES |= NOTEBOOKS
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")
COPIES = "files"
"""Folder of the site with the copies of linked files."""


def folder_pages(folder: str) -> list[str]:
    """Return the pages of a folder of docs/, its index first, as paths relative to docs/."""
    names = sorted(path.name for path in (DOCS / folder).glob("*.md"))
    ordered = sorted(names, key=lambda name: name != "README.md")
    index = [] if "README.md" in names else [f"{folder}index.md"]
    return index + [folder + name for name in ordered]


def expand(nav: list[Any]) -> list[Any]:
    """Return the navigation with a section of pages for each name that ends with /."""
    entries: list[Any] = []
    for entry in nav:
        if isinstance(entry, str) and entry.endswith("/"):
            entries.append({Path(entry).name.capitalize(): folder_pages(entry)})
        elif isinstance(entry, dict):
            entries.append({k: expand(v) if isinstance(v, list) else v for k, v in entry.items()})
        else:
            entries.append(entry)
    return entries


def target(page: str, link: str) -> str:
    """Return what the site has for a link of a page; both are paths in the repository's form.

    `page` is relative to the repository, `link` to the page; the result is relative to the site's
    root. A link that leads to nothing is returned as a path that does not exist either.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        inside = path.removeprefix("docs/")
        return f"{inside}/index.md" if (ROOT / path).is_dir() else inside
    if (ROOT / path).is_dir():
        return f"{COPIES}.md#{anchor(path)}"
    return f"{COPIES}/{path}.txt"


def anchor(folder: str) -> str:
    """Return the anchor of a folder in the list of files."""
    return re.sub(r"\W+", "-", folder).strip("-")


def rewrite(text: str, page: str, place: str) -> str:
    """Return the Markdown of a page with its links as they are in the site.

    `page` is its path in the repository, `place` its path in the site.
    """

    def replaced(match: re.Match[str]) -> str:
        there, _, part = target(page, match[2]).partition("#")
        link = posixpath.relpath(there, posixpath.dirname(place) or ".")
        return f"{match[1]}{link}{'#' + part if part else match[3] or ''})"

    return LINK.sub(replaced, text)


def links_out() -> set[str]:
    """Return the files and folders outside docs/ that a page links to, from the root."""
    found = set()
    for path in [*(ROOT / name for name in PAGES), *DOCS.rglob("*.md")]:
        page = path.relative_to(ROOT).as_posix()
        for match in LINK.finditer(markdown_of(path)):
            linked = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[2]))
            if not linked.startswith("docs") and linked not in PAGES and (ROOT / linked).exists():
                found.add(linked)
    return found


def entry(path: str) -> str:
    """Return the line of a file in the list."""
    return f"- [`{path}`]({COPIES}/{path}.txt)"


def list_of_files(linked: set[str]) -> tuple[str, set[str]]:
    """Return the Markdown of the list of copies, and the files to copy."""
    lines = ["# Files of the repository", "", "Copies of the files that the pages link to.", ""]
    files = {path for path in linked if (ROOT / path).is_file()}
    for folder in sorted(linked - files):
        inside = [
            p.relative_to(ROOT).as_posix()
            for p in sorted((ROOT / folder).rglob("*"))
            if p.is_file() and not p.name.startswith(".") and "__pycache__" not in p.parts
        ]
        files.update(inside)
        lines += [f"## {folder} {{: #{anchor(folder)} }}", ""]
        lines += [entry(path) for path in inside] + [""]
    lines += ["## Single files", ""]
    lines += [entry(path) for path in sorted(linked) if path in files]
    return "\n".join(lines) + "\n", files


def titles(folder: str) -> str:
    """Return the Markdown of the index of a folder that has no README.md."""
    rows = [
        f"- [{(DOCS / page).read_text().splitlines()[0].removeprefix('# ')}]({Path(page).name})"
        for page in folder_pages(folder)[1:]
    ]
    return "\n".join([f"# {Path(folder).name.capitalize()}", "", *rows, ""])


def markdown_of(path: Path) -> str:
    """Return the Markdown of a page or of a notebook: its texts, its code, and what it printed."""
    if path.suffix != ".ipynb":
        return path.read_text()
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            text = output.get("text") or output["data"]["text/plain"]
            parts.append(f"```text\n{''.join(text).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def on_config(config: Any) -> Any:
    """Complete the navigation."""
    config.nav = expand(config.nav)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and copies that are not in docs/."""
    listing, copied = list_of_files(links_out())
    texts = {place: markdown_of(ROOT / name) for name, place in PAGES.items()}
    texts |= {f"{COPIES}.md": listing, "decisions/index.md": titles("decisions/")}
    for place, text in texts.items():
        files.append(File.generated(config, place, content=text))
    for path in sorted(copied):
        content = (ROOT / path).read_bytes()
        files.append(File.generated(config, f"{COPIES}/{path}.txt", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page; pages that are made here have the site's links."""
    place = page.file.src_uri
    if place in {f"{COPIES}.md", "decisions/index.md"}:
        return markdown
    # MkDocs takes the title from the heading only where the page starts with it.
    markdown = re.sub(r"\A<!--.*?-->\n", "", markdown)
    names = {there: name for name, there in PAGES.items()}
    return rewrite(markdown, names.get(place, f"docs/{place}"), place)
