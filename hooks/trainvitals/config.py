"""The settings of the training process: defaults, units, sources.

The sources, in order of precedence: an argument, the environment (`TRAINVITALS_<NAME>`),
`trainvitals.toml`, then `[tool.trainvitals]` in `pyproject.toml` (both in the working directory),
the default. An invalid value causes one warning, and the next source is used. Imports only the
standard library.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

log = logging.getLogger("trainvitals")

PORT: Final = 8321
"""The collector's default port."""
REPORTS: Final = ("auto", "card", "line", "live", "off")


@dataclass(frozen=True)
class ClientSettings:
    """The current settings. `origins` maps each one to its source."""

    collector: str = ""
    """URL of the collector; "": local only."""
    project: str = "default"
    """Project of runs without one."""
    overhead: float = 0.02
    """Budget as a share of the step time, at least 0; 0: no step is measured in full."""
    report: str = "auto"
    """End report on stderr: card | line | off; auto: a card on a terminal, else a line; live: as
    auto, and one status line that is rewritten during the training."""
    report_html: str = ""
    """File to which the diagnosis is written as an HTML page at the end, or a folder, which gets
    `<run>.html`; "": none."""
    home: Path = Path("~/.trainvitals")
    """Folder of the token, the embedded database and the spool; without a home directory,
    `.trainvitals` in the working directory."""
    token: str = field(default="", repr=False)
    """Bearer token. Prefer a file: other processes of the user can read the environment."""
    token_file: Path = Path()
    """File with the token; default `token` in the home."""
    spool_dir: Path = Path()
    """Folder of batches that are not delivered yet; default `spool` in the home."""
    rules: dict[str, dict[str, float]] = field(default_factory=dict)
    """Thresholds by the name or code of the rule: `[rules.dead_relu] dead_share_error = 0.95` in a
    file, `{"dead_relu": {"dead_share_error": 0.95}}` as JSON in the environment. The tables of all
    sources are merged."""
    metrics_port: int = 0
    """Port of `/metrics` of this run on 127.0.0.1, for Prometheus; each process of a machine adds
    its local rank. 0: none. Needs prometheus-client."""
    system_metrics: bool = True
    """0: the use of CPU, memory and GPUs is not recorded."""
    disabled: bool = False
    """1: `watch` does nothing."""
    origins: dict[str, str] = field(default_factory=dict, compare=False)

    def read_token(self) -> str:
        """Return the token, read from its file at each call; "" if there is none."""
        if self.token:
            return self.token
        try:
            return self.token_file.read_text().strip()
        except OSError:
            return ""


def load(**arguments: object) -> ClientSettings:
    """Return the settings; `arguments` that are None are ignored."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    files = list(_files())
    for name, parse in _PARSERS.items():
        found = _parsed(name, parse, _candidates(name, arguments, files))
        if name == "rules":
            sources = list(found)
            values[name] = _merged([table for _, table in sources])
            origins[name] = ", ".join(origin for origin, _ in sources) or "default"
            continue
        origins[name], value = next(found, ("default", None))
        if value is not None:
            values[name] = value
    if "home" not in values:
        values["home"] = _default_home()
    home = values["home"]
    values.setdefault("token_file", home / "token")
    values.setdefault("spool_dir", home / "spool")
    return ClientSettings(**values, origins=origins)


def _parsed(
    name: str, parse: Callable[[object], object], candidates: Iterable[tuple[str, object]]
) -> Iterator[tuple[str, Any]]:
    """Yield (source, value) of the valid candidates; log a warning for an invalid one."""
    for origin, raw in candidates:
        try:
            yield origin, parse(raw)
        except ValueError as error:
            log.warning("%s from %s is not used: %s", name, origin, error)
        except Exception as error:  # noqa: BLE001 - `__str__` of an argument may raise anything
            kind = type(error).__name__
            log.warning("%s from %s is not used: reading it raises %s", name, origin, kind)


def _merged(tables: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return one table of thresholds; `tables` have the one of the highest precedence first."""
    merged: dict[str, dict[str, float]] = {}
    for table in reversed(tables):
        for rule, thresholds in table.items():
            merged[rule] = {**merged.get(rule, {}), **thresholds}
    return merged


def _default_home() -> Path:
    try:
        return ClientSettings.home.expanduser()
    except RuntimeError:
        # No HOME and no entry in the password file, as in containers with an arbitrary user.
        # Not the temporary folder: other users could place a token or a spool there.
        home = Path(ClientSettings.home.name)
    try:
        return home.absolute()
    except OSError:  # the working directory was removed
        return home


def _candidates(
    name: str, arguments: dict[str, object], files: list[tuple[str, dict[str, Any]]]
) -> Iterator[tuple[str, object]]:
    if arguments.get(name) is not None:
        yield "argument", arguments[name]
    variable = f"TRAINVITALS_{name.upper()}"
    if os.environ.get(variable):
        yield variable, os.environ[variable]
    for origin, table in files:
        if name in table:
            yield origin, table[name]


def _files() -> Iterator[tuple[str, dict[str, Any]]]:
    for filename, keys in (("trainvitals.toml", ()), ("pyproject.toml", ("tool", "trainvitals"))):
        try:
            table: Any = tomllib.loads(Path(filename).read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            log.warning("%s is not read: %s", filename, error)
            continue
        for key in keys:
            table = table.get(key, {}) if isinstance(table, dict) else {}
        if isinstance(table, dict) and table:
            yield filename, table


def _text(value: object) -> str:
    text = str(value).strip()
    if len(text.encode()) > 2048:
        raise ValueError("it must not be longer than 2,048 bytes")
    if "\0" in text:
        raise ValueError("it contains a NUL")
    return text


def _project(value: object) -> str:
    text = _text(value)
    if not text or len(text.encode()) > 256:
        raise ValueError(f"it must be 1 to 256 bytes long; got {text[:40]!r}")
    return text


def _share(value: object) -> float:
    share = float(str(value))
    if not (math.isfinite(share) and share >= 0):
        raise ValueError(f"it must be a share of the step time, at least 0; got {value!r}")
    return share


def _report(value: object) -> str:
    if value not in REPORTS:
        raise ValueError(f"it must be one of {', '.join(REPORTS)}; got {value!r}")
    return str(value)


def _rules(value: object) -> dict[str, dict[str, object]]:
    try:
        table = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"it must be JSON; {error}") from error
    if not isinstance(table, dict) or not all(isinstance(v, dict) for v in table.values()):
        raise ValueError(
            'it must contain a table for each rule, such as {"dead_relu": {"dead_share_error": '
            f"0.95}}}}; got {str(value)[:60]}"
        )
    return table


def _port(value: object) -> int:
    port = int(str(value))
    if not 0 <= port <= 65535:
        raise ValueError(f"it must be a port from 0 to 65,535; got {value!r}")
    return port


def _path(value: object) -> Path:
    try:
        return Path(_text(value)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"the home directory is unknown; use a path without ~: {error}") from error


def _flag(value: object) -> bool:
    text = str(value).strip().lower()
    if text not in {"0", "1", "true", "false", "yes", "no"}:
        raise ValueError(f"it must be 1 or 0; got {value!r}")
    return text in {"1", "true", "yes"}


_PARSERS: Final[dict[str, Callable[[object], object]]] = {
    "collector": _text,
    "project": _project,
    "overhead": _share,
    "report": _report,
    "report_html": _text,
    "home": _path,
    "token": _text,
    "token_file": _path,
    "spool_dir": _path,
    "rules": _rules,
    "metrics_port": _port,
    "system_metrics": _flag,
    "disabled": _flag,
}
