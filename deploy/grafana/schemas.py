"""The elements of a Grafana board, and its JSON in the classic schema and in schema v2.

Sources: Grafana's dashboard JSON model,
https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/,
and its resource schema dashboard.grafana.app/v2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

SOURCE: Final = "${datasource}"
COLUMNS: Final = 24
HEIGHT: Final = 8


@dataclass(frozen=True)
class Panel:
    """One panel; `queries` are pairs of a PromQL expression and its legend."""

    title: str
    queries: tuple[tuple[str, str], ...]
    help: str
    unit: str = "short"
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    width: int = 8
    is_log: bool = False


@dataclass(frozen=True)
class Variable:
    """A variable whose values are those of a label."""

    name: str
    query: str
    multi: bool = False


@dataclass(frozen=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    variables: tuple[Variable, ...] = ()


def _field_config(panel: Panel) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        scale = {"type": "log", "log": 10} if panel.is_log else {"type": "linear"}
        custom = {"custom": {"scaleDistribution": scale, "showPoints": "never", "spanNulls": False}}
    return {"defaults": {"unit": panel.unit, **custom}, "overrides": []}


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi"},
        }
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name"}
    return {}


def _query(panel: Panel, expression: str, legend: str) -> dict[str, Any]:
    instant = {"instant": True, "range": False, "format": "table"} if panel.kind == "table" else {}
    return {"expr": expression, "legendFormat": legend, **instant}


def _places(board: Board) -> list[tuple[int, int]]:
    """Return (x, y) of each panel: rows filled from left to right."""
    places, x, y = [], 0, 0
    for panel in board.panels:
        if x + panel.width > COLUMNS:
            x, y = 0, y + HEIGHT
        places.append((x, y))
        x += panel.width
    return places


def _variable_v1(variable: Variable, source: dict[str, Any]) -> dict[str, Any]:
    every = {"allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return {
        "name": variable.name,
        "type": "query",
        "datasource": source,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "multi": variable.multi,
        "includeAll": variable.multi,
        **(every if variable.multi else {}),
    }


def classic(board: Board) -> dict[str, Any]:
    """Return the board in the classic schema."""
    source = {"type": "prometheus", "uid": SOURCE}
    panels = [
        {
            "id": number,
            "type": panel.kind,
            "title": panel.title,
            "description": panel.help,
            "datasource": source,
            "gridPos": {"x": x, "y": y, "w": panel.width, "h": HEIGHT},
            "targets": [
                {"refId": chr(65 + i), "datasource": source, **_query(panel, *query)}
                for i, query in enumerate(panel.queries)
            ],
            "fieldConfig": _field_config(panel),
            "options": _options(panel),
        }
        for number, (panel, (x, y)) in enumerate(zip(board.panels, _places(board), strict=True), 1)
    ]
    of_source = {
        "name": "datasource",
        "type": "datasource",
        "query": "prometheus",
        "label": "Data source",
    }
    variables = [of_source, *(_variable_v1(variable, source) for variable in board.variables)]
    return {
        "uid": board.uid,
        "title": board.title,
        "tags": ["trainvitals"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "graphTooltip": 1,
        "templating": {"list": variables},
        "panels": panels,
    }


def _data_query(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "DataQuery",
        "group": "prometheus",
        "version": "v0",
        "datasource": {"name": SOURCE},
        "spec": spec,
    }


def _element(number: int, panel: Panel) -> dict[str, Any]:
    queries = [
        {
            "kind": "PanelQuery",
            "spec": {
                "refId": chr(65 + i),
                "hidden": False,
                "query": _data_query(_query(panel, *query)),
            },
        }
        for i, query in enumerate(panel.queries)
    ]
    return {
        "kind": "Panel",
        "spec": {
            "id": number,
            "title": panel.title,
            "description": panel.help,
            "links": [],
            "data": {
                "kind": "QueryGroup",
                "spec": {"queries": queries, "transformations": [], "queryOptions": {}},
            },
            "vizConfig": {
                "kind": "VizConfig",
                "group": panel.kind,
                "version": "",
                "spec": {"options": _options(panel), "fieldConfig": _field_config(panel)},
            },
        },
    }


def _variable_v2(variable: Variable) -> dict[str, Any]:
    current = {"text": "All", "value": "$__all"} if variable.multi else {"text": "", "value": ""}
    return {
        "kind": "QueryVariable",
        "spec": {
            "name": variable.name,
            "current": current,
            "hide": "dontHide",
            "refresh": "onTimeRangeChanged",
            "skipUrlSync": False,
            "query": _data_query({"query": variable.query, "refId": variable.name}),
            "regex": "",
            "sort": "alphabeticalAsc",
            "options": [],
            "multi": variable.multi,
            "includeAll": variable.multi,
            **({"allValue": ".*"} if variable.multi else {}),
            "allowCustomValue": True,
        },
    }


def v2(board: Board) -> dict[str, Any]:
    """Return the board as a resource of schema v2."""
    source = {
        "kind": "DatasourceVariable",
        "spec": {
            "name": "datasource",
            "label": "Data source",
            "pluginId": "prometheus",
            "refresh": "onDashboardLoad",
            "regex": "",
            "current": {"text": "", "value": ""},
            "options": [],
            "multi": False,
            "includeAll": False,
            "hide": "dontHide",
            "skipUrlSync": False,
            "allowCustomValue": True,
        },
    }
    items = [
        {
            "kind": "GridLayoutItem",
            "spec": {
                "x": x, "y": y, "width": panel.width, "height": HEIGHT,
                "element": {"kind": "ElementReference", "name": f"panel-{number}"},
            },
        }
        for number, (panel, (x, y)) in enumerate(zip(board.panels, _places(board), strict=True), 1)
    ]  # fmt: skip
    return {
        "apiVersion": "dashboard.grafana.app/v2",
        "kind": "Dashboard",
        "metadata": {"name": board.uid},
        "spec": {
            "title": board.title,
            "tags": ["trainvitals"],
            "annotations": [],
            "cursorSync": "Crosshair",
            "editable": True,
            "preload": False,
            "links": [],
            "timeSettings": {
                "timezone": "browser",
                "from": "now-1h",
                "to": "now",
                "autoRefresh": "15s",
                "autoRefreshIntervals": ["5s", "15s", "1m", "5m"],
                "hideTimepicker": False,
                "fiscalYearStartMonth": 0,
            },
            "variables": [source, *map(_variable_v2, board.variables)],
            "elements": {
                f"panel-{n}": _element(n, panel) for n, panel in enumerate(board.panels, 1)
            },
            "layout": {"kind": "GridLayout", "spec": {"items": items}},
        },
    }
