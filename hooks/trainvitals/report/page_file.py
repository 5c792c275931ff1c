"""Write a report to a file."""

from __future__ import annotations

from pathlib import Path


def written(page: str, path: str, run: str, suffix: str = ".html") -> Path:
    """Write the page and return its file: `path`, or `<run><suffix>` in it if it is a folder.

    A path that ends in a slash is a folder; missing folders are created.

    Raises:
        OSError: the file cannot be written.
    """
    file = Path(path).expanduser()
    if path.endswith("/") or file.is_dir():
        file = file / f"{run or 'checkup'}{suffix}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
    return file
