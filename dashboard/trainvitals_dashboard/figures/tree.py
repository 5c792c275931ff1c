"""The tree of modules that the rows of a heat-map are: groups of places, from their names alone.

Comes in: names of tensors or modules in order of depth, such as "encoder.layers.0.attn.q.weight".
Goes out: groups and places in the order of the rows, and what the browser draws
          (dashboard/board/src/heatrows.js).
Promise:  every place is in one row; a group has at least GROUP_MIN places.
Start at `tree_of`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainvitals.api.blocks import block_of, blocks_of
from trainvitals_dashboard.wording import SEVERITIES, clean

GROUP_MIN = 3
"""A module with fewer places, such as a linear layer, has no row of its own."""
FIRST_PLACES_MAX = 512
"""A group with more places is left out of the first rows: its value takes as long as the rest."""
OPEN_MAX = 60
"""Up to this many places all groups are open at first."""
ALL, NONE = "all", "none"
"""Texts of the URL: all groups are open, none is."""


@dataclass(frozen=True)
class Group:
    """A module: its path, the groups and places inside it in order, and all of its places."""

    path: str
    rows: list[Group | str]
    places: list[str]


@dataclass(frozen=True)
class Tree:
    """The rows in depth-first order; a group or a place is known by its index."""

    rows: list[Group | str]
    groups: list[Group]
    places: list[str]

    def opened(self, text: str | None, here: str) -> list[int]:
        """Return the open groups for a text of the URL, None without one; ascending.

        A text has the paths of the innermost open groups, separated by commas. At first all groups
        are open if there are few places; otherwise those that contain blocks of the network, and
        those of the place `here`, which are open with any text.
        """
        if text == ALL or (text is None and len(self.places) <= OPEN_MAX):
            return list(range(len(self.groups)))
        if text is None:
            above = {path for name in self.places for path in _around(block_of(name))[:-1]}
            inner = [g for g in self.groups if g.path in above]
        else:
            paths = set(text.split(","))
            inner = [g for g in self.groups if clean(g.path) in paths]
        wide = {path for group in inner for path in _around(group.path)}
        return [i for i, g in enumerate(self.groups) if g.path in wide or here in g.places]

    def first_rows(self, opened: Collection[int], here: str, count: int) -> list[str]:
        """Return the ids of `count` rows that are shown: the first, or those around `here`.

        "g3" is the group 3, "p12" the place 12. Groups above FIRST_PLACES_MAX are left out.
        """
        shown = list(self._shown(opened))
        selected = f"p{self.places.index(here)}" if here in self.places else ""
        at = shown.index(selected) if selected in shown else 0
        first = max(0, min(at - count // 2, len(shown) - count))
        large = {f"g{i}" for i, g in enumerate(self.groups) if len(g.places) > FIRST_PLACES_MAX}
        return [row for row in shown[first : first + count] if row not in large]

    def _shown(self, opened: Collection[int]) -> Iterator[str]:
        group_at = {group.path: i for i, group in enumerate(self.groups)}
        place_at = {name: i for i, name in enumerate(self.places)}

        def walk(rows: Sequence[Group | str]) -> Iterator[str]:
            for row in rows:
                if isinstance(row, str):
                    yield f"p{place_at[row]}"
                    continue
                number = group_at[row.path]
                yield f"g{number}"
                if number in opened:
                    yield from walk(row.rows)

        return walk(self.rows)

    def blocks(self) -> dict[str, str]:
        """Return the id of each group that is a block of the network → the name of the block."""
        counts = {block: len(members) for block, members in blocks_of(self.places).items()}
        return {
            f"g{i}": group.path
            for i, group in enumerate(self.groups)
            if counts.get(group.path) == len(group.places)
        }

    def name_of(self, row: str) -> str | None:
        """Return the name of the API of a row's id, "g3" or "p12"; None if there is no such row."""
        kind, number = row[:1], row[1:]
        if not (number.isascii() and number.isdigit()):
            return None
        i = int(number)
        if kind == "g" and i < len(self.groups):
            return f"{self.groups[i].path}."
        return self.places[i] if kind == "p" and i < len(self.places) else None

    def described(self, signs: Mapping[str, str]) -> list[Any]:
        """Return the rows as the browser reads them; `signs`: place → severity.

        A place is [name, sign], a group [name, sign, rows]; names are without the path of the
        group around them.
        """
        return [_described(row, "", signs) for row in self.rows]


def tree_of(names: Sequence[str]) -> Tree:
    """Return the tree of some names, each once.

    A module whose only content is another module is one row with it.
    """
    root = _Module("")
    modules = {""}
    for name in names:
        parts = name.split(".")
        modules.update(".".join(parts[:end]) for end in range(1, len(parts)))
    for name in names:
        root.add(name, modules)
    rows = root.rows()
    groups, places = list[Group](), list[str]()
    _collect(rows, groups, places)
    return Tree(rows, groups, places)


@dataclass
class _Module:
    path: str
    modules: dict[str, _Module] = field(default_factory=dict)
    content: list[_Module | str] = field(default_factory=list)
    """Modules and places in the order of their first place."""

    def add(self, name: str, modules: Collection[str]) -> None:
        """Put a place into the modules of its path; a module that has places is inside itself."""
        parts = name.split(".")
        depth = len(parts) if name in modules else len(parts) - 1
        at = self
        for end in range(1, depth + 1):
            at = at._inner(".".join(parts[:end]))
        at.content.append(name)

    def _inner(self, path: str) -> _Module:
        if path not in self.modules:
            self.modules[path] = _Module(path)
            self.content.append(self.modules[path])
        return self.modules[path]

    def rows(self) -> list[Group | str]:
        found: list[Group | str] = []
        for module in self.content:
            if isinstance(module, str):
                found.append(module)
                continue
            rows = module.rows()
            places = [p for row in rows for p in ([row] if isinstance(row, str) else row.places)]
            if len(places) < GROUP_MIN or (len(rows) == 1 and isinstance(rows[0], Group)):
                found.extend(rows)
            else:
                found.append(Group(module.path, rows, places))
        return found


def _collect(rows: Sequence[Group | str], groups: list[Group], places: list[str]) -> None:
    for row in rows:
        if isinstance(row, str):
            places.append(row)
        else:
            groups.append(row)
            _collect(row.rows, groups, places)


def _around(path: str) -> list[str]:
    """Return a path and all paths around it, the outermost first."""
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _described(row: Group | str, around: str, signs: Mapping[str, str]) -> list[Any]:
    if isinstance(row, str):
        return [clean(_within(around, row)), signs.get(row, "")]
    found = {signs.get(place, "") for place in row.places}
    sign = next((s for s in SEVERITIES if s in found), "")
    inner = [_described(one, row.path, signs) for one in row.rows]
    return [clean(_within(around, row.path)), sign, inner]


def _within(around: str, name: str) -> str:
    """Return a name within a group; "" for a module that is the group itself."""
    return "" if name == around else name.removeprefix(f"{around}.") if around else name
