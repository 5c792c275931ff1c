"""Make records storable before they are encoded: names, texts, configurations, numbers.

Comes in: records with any values from the user's program.
Goes out: records that every collector stores; valid records are unchanged.
Promise:  pure; no input raises, also with a failing `__str__` or deep nesting.
Start at `sanitised`.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from trainvitals.wire.records import (
    Dropped,
    Event,
    Heartbeat,
    Layout,
    NotWatched,
    Place,
    Record,
    RunEnd,
    RunStart,
)

T = TypeVar("T")

NAME_BYTES_MAX: Final = 256
TEXT_BYTES_MAX: Final = 8 * 1024
ITEMS_MAX: Final = 1000
"""Entries of a list of tags, arguments, facts or attributes."""
CONFIG_BYTES_MAX: Final = 256 * 1024
CONFIG_DEPTH_MAX: Final = 16
STEP_MAX: Final = 2**53
LEFT_OUT: Final = "…"
"""Key of the note on the entries that were left out of a configuration."""


def sanitised(record: Record) -> Record:
    """Return `record` with every text, name and number storable. Frames are unchanged."""
    match record:
        case Layout():
            return _layout(record)
        case RunStart():
            return msgspec.structs.replace(
                record,
                started_at=_time(record.started_at),
                name=name(record.name),
                config=configuration(record.config),
                tags=_texts(record.tags, NAME_BYTES_MAX),
                host=name(record.host),
                pid=_count(record.pid),
                argv=_texts(record.argv, 1024),
                versions={name(k): text(v) for k, v in _first(record.versions.items())},
                git_commit=name(record.git_commit),
                total_steps=_steps(record.total_steps),
                facts=_facts(record.facts),
            )
        case Event():
            return msgspec.structs.replace(
                record,
                step=_step(record.step),
                time=_time(record.time),
                kind=name(record.kind),
                text=text(record.text),
                attributes=_facts(record.attributes),
            )
        case NotWatched():
            reasons = _first(record.reasons.items(), 20_000)
            return NotWatched({name(k): text(v, NAME_BYTES_MAX) for k, v in reasons})
        case Heartbeat():
            return Heartbeat(_time(record.time), _step(record.step))
        case Dropped():
            first, last = _step(record.first_step), _step(record.last_step)
            count = _count(record.records)
            return Dropped(first, last, name(record.stream), name(record.reason), count)
        case RunEnd():
            return msgspec.structs.replace(
                record,
                time=_time(record.time),
                step=_step(record.step),
                produced=_count(record.produced),
                dropped=_count(record.dropped),
                error=text(record.error),
            )
    return record


def text(value: object, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """Return `value` as valid Unicode of at most `bytes_max` bytes of UTF-8, without NUL."""
    clean = _unicode(_string(value))
    raw = clean.encode()
    if len(raw) <= bytes_max:
        return clean
    end = LEFT_OUT.encode()
    return (raw[: max(0, bytes_max - len(end))]).decode(errors="ignore") + LEFT_OUT


def name(value: object, bytes_max: int = NAME_BYTES_MAX) -> str:
    """Return `value` as a name that every collector stores.

    A valid name is unchanged. Any other name is cleaned, shortened and ends with `~` and eight
    hexadecimal digits of the original's hash, so that different names stay different.
    """
    given = _string(value)
    clean = _unicode(given)
    raw = clean.encode()
    if clean == given and len(raw) <= bytes_max:
        return clean
    original = given.encode("utf-8", "surrogatepass")
    mark = "~" + hashlib.blake2b(original, digest_size=4).hexdigest()
    return raw[: bytes_max - len(mark)].decode(errors="ignore") + mark


def configuration(value: object) -> dict[str, Any]:
    """Return a configuration as plain data: limited depth, integers of 64 bits, at most 256 KiB.

    Other objects are converted to text. The key "…" describes entries that were left out.
    """
    if value is None:
        return {}
    try:
        if not _is_tree(value):
            value = getattr(value, "__dict__", None) or {"config": value}
        plain = _Plain(CONFIG_BYTES_MAX).of(value, 0)
    except Exception as error:  # noqa: BLE001 - the object is the user's and may raise anything
        return {LEFT_OUT: f"The configuration cannot be read: {type(error).__name__}."}
    return plain if isinstance(plain, dict) else {"config": plain}


class _Plain:
    """Converts one configuration; `left` is the number of bytes that it may still use."""

    def __init__(self, bytes_max: int) -> None:
        self.left = bytes_max
        self._above: set[int] = set()

    def of(self, value: object, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            self.left -= 1
            return value
        if isinstance(value, enum.Enum):
            value = value.value
        if isinstance(value, int):
            self.left -= 9
            return _integer(value)
        if isinstance(value, float):
            self.left -= 9
            return float(value)
        if not _is_tree(value):
            return self._text(value)
        if id(value) in self._above:
            return self._text("(contains itself)")
        if depth >= CONFIG_DEPTH_MAX:
            return self._text(f"(nested more than {CONFIG_DEPTH_MAX} levels)")
        self._above.add(id(value))
        try:
            return self._tree(value, depth + 1)
        except Exception:  # noqa: BLE001 - a container of the user's may raise anything
            return self._text(value)
        finally:
            self._above.discard(id(value))

    def _tree(self, value: object, depth: int) -> Any:
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, msgspec.Struct):
            fields = {f: getattr(value, f) for f in value.__struct_fields__}
            return self._mapping(fields, depth)
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return self._mapping(fields, depth)
        assert isinstance(value, (list, tuple, set, frozenset))  # noqa: S101 - true by _is_tree; for mypy
        items: list[Any] = []
        for at, item in enumerate(value):
            if self.left <= 0:
                items.append(_left_out(len(value) - at))
                break
            items.append(self.of(item, depth))
        return items

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for at, (key, item) in enumerate(value.items()):
            if self.left <= 0:
                plain[LEFT_OUT] = _left_out(len(value) - at)
                break
            known = name(key)
            self.left -= len(known)
            plain[known] = self.of(item, depth)
        return plain

    def _text(self, value: object) -> str:
        given = text(value, max(64, min(TEXT_BYTES_MAX, self.left)))
        self.left -= len(given.encode()) + 1
        return given


def _is_tree(value: object) -> bool:
    if isinstance(value, (Mapping, list, tuple, set, frozenset, msgspec.Struct)):
        return True
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _left_out(entries: int) -> str:
    return f"{entries} entries are left out: the configuration is larger than 256 KiB"


def _string(value: object) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return str(_integer(value))
    try:
        return str.__str__(str(value))
    except Exception:  # noqa: BLE001 - `__str__` is the user's; RecursionError is one of these
        return f"<{type(value).__name__}>"


def _unicode(value: str) -> str:
    if value.isascii():
        return value.replace("\x00", "\ufffd")
    whole = value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return whole.replace("\x00", "\ufffd")


def _integer(value: int) -> int | str:
    if -(2**63) <= value < 2**63:
        return int(value)
    # Python raises for the text of an integer with thousands of digits.
    return f"{value:d}" if value.bit_length() <= 1024 else f"(integer of {value.bit_length()} bits)"


def _layout(layout: Layout) -> Layout:
    places: list[Place] = []
    taken: set[str] = set()
    for place in layout.places:
        clean = _place(place)
        number = 1
        unique = clean.name
        while unique in taken:
            number += 1
            unique = name(f"{clean.name[:200]}~{number}")
        taken.add(unique)
        if unique != clean.name:
            clean = msgspec.structs.replace(clean, name=unique)
        places.append(clean)
    return msgspec.structs.replace(layout, places=tuple(places))


def _place(place: Place) -> Place:
    names = (place.name, place.kind, place.module, place.module_kind, place.nonlinearity)
    clean = tuple(map(name, names))
    aliases = tuple(map(name, place.aliases))
    if clean == names and aliases == place.aliases:
        return place
    return msgspec.structs.replace(
        place,
        name=clean[0],
        kind=clean[1],
        module=clean[2],
        module_kind=clean[3],
        nonlinearity=clean[4],
        aliases=aliases,
    )


def _first(items: Iterable[T], items_max: int = ITEMS_MAX) -> list[T]:
    return [item for _, item in zip(range(items_max), items, strict=False)]


def _texts(values: Iterable[object], bytes_max: int) -> tuple[str, ...]:
    return tuple(text(value, bytes_max) for value in _first(values))


def _facts(facts: Mapping[str, str | float]) -> dict[str, str | float]:
    return {name(key): _fact(value) for key, value in _first(facts.items())}


def _fact(value: str | float) -> str | float:
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return _integer(value)
    return text(value)


def _time(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _step(value: int) -> int:
    return min(max(int(value), -1), STEP_MAX - 1)


def _count(value: int) -> int:
    return min(max(int(value), 0), STEP_MAX - 1)


def _steps(value: int | None) -> int | None:
    return value if value is not None and 0 < value < STEP_MAX else None
