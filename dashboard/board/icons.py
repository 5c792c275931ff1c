"""Reduce Streamlit's font of icons to those that can be shown: `python dashboard/board/icons.py`.

Comes in: the installed Streamlit, and the names of icons in the sources of the dashboard.
Goes out: trainvitals_dashboard/icons/KEY.woff2, where KEY is that of Streamlit's frontend
          (delivery.py), which sends this file in place of the font.

The font has 4,000 icons, of which Streamlit's scripts can name a few hundred: every string in them
that is also the name of an icon is kept. The file is in the repository because a build has no
Streamlit. Needs fonttools and brotli, which are not dependencies:
`uv run --with fonttools --with brotli python dashboard/board/icons.py`. The icons are those of
Google's Material Symbols, under the Apache License 2.0.
"""

from __future__ import annotations

import re
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

from trainvitals_dashboard.delivery import ICONS, STATIC, frontend_key, icon_font

PACKAGE = ICONS.parent
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_ "
"""A name without an icon is shown as text, as with the whole font."""


def main() -> None:
    """Write the reduced font."""
    font = TTFont(icon_font())
    icons = ligatures(font)
    own = {name for file in PACKAGE.rglob("*.py") for name in _named(file)}
    if unknown := own - set(icons):
        raise SystemExit(f"The font has no icon of the name {sorted(unknown)}.")
    options = subset.Options()
    options.layout_closure = False  # else the letters keep every icon
    subsetter = subset.Subsetter(options)
    kept = {*own, *(set(icons) & _in_scripts()), *(set(icons) & _in_streamlit())}
    subsetter.populate(glyphs=[icons[name] for name in kept], text=LETTERS)
    subsetter.subset(font)
    font.flavor = "woff2"
    ICONS.mkdir(exist_ok=True)
    target = ICONS / f"{frontend_key()}.woff2"
    font.save(target)
    print(f"{len(kept)} icons, {target.stat().st_size:,} bytes: {target}")  # noqa: T201


def ligatures(font: TTFont) -> dict[str, str]:
    """Return the name of each icon and its glyph."""
    letter = {glyph: chr(code) for code, glyph in font.getBestCmap().items()}
    found = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for first, rest in getattr(table, "ligatures", {}).items():
                for one in rest:
                    found["".join(letter[g] for g in (first, *one.Component))] = one.LigGlyph
    return found


def _in_scripts() -> set[str]:
    strings = re.compile(r"""["'`:/]([a-z0-9_]{2,40})["'`:]""")
    return {name for file in STATIC.rglob("*.js") for name in strings.findall(file.read_text())}


def _in_streamlit() -> set[str]:
    return {name for file in STATIC.parent.rglob("*.py") for name in _named(file)}


def _named(file: Path) -> list[str]:
    return re.findall(r":material/(\w+):", file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
