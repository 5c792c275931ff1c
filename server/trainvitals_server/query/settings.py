"""The route of the collector's settings: what it may show of them, and where each is set."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Request, Response
from pydantic.fields import FieldInfo

from trainvitals.api import schema
from trainvitals.diagnosis.thresholds import chosen
from trainvitals.diagnosis.user_rules import installed_rules
from trainvitals_server.auth import ScopedRouter
from trainvitals_server.query.responses import Reader, described, json_response
from trainvitals_server.settings import PREFIX, Settings

SHOWN: Final = frozenset(
    {
        "rescue",
        "network_file_system",
        "durability",
        "port",
        "behind_proxy",
        "body_bytes_max",
        "inflated_bytes_max",
        "inflate_ratio_max",
        "batch_values_max",
        "run_series_max",
        "series_max",
        "places_max",
        "queue_bytes_max",
        "request_deadline_s",
        "header_bytes_max",
        "connections_max",
        "metrics_detail",
        "metrics_scalars",
        "round_interval_s",
        "lost_after_s",
        "seal_interval_s",
        "retain_stream_bytes",
        "retain_run_bytes",
        "retain_total_bytes",
        "retain_ended_days",
        "retain_deleted_days",
    }
)
"""Settings whose values are sent. A new setting is not, until it is named here."""

routes = ScopedRouter(prefix="/api/v1", tags=["service"])


@routes.get("/settings", **described(schema.CollectorSettings))
def collector_settings(request: Request, principal: Reader) -> Response:
    """Return the collector's settings, and the rights of the token.

    Secrets, paths and addresses are left out: only whether they are set is sent.
    """
    settings: Settings = request.app.state.settings
    return json_response(
        schema.CollectorSettings(
            viewer=schema.Viewer(principal.token_id, str(principal.scope), principal.project),
            settings=tuple(
                _setting(settings, name, field) for name, field in Settings.model_fields.items()
            ),
            thresholds=_thresholds(settings),
        )
    )


def _setting(settings: Settings, name: str, field: FieldInfo) -> schema.Setting:
    shown = name in SHOWN
    return schema.Setting(
        name=name,
        environment=f"{PREFIX}{name.upper()}",
        description=field.description or "",
        value=_text(getattr(settings, name)) if shown else None,
        default=_text(field.default) if shown else None,
        is_set=name in settings.model_fields_set,
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _thresholds(settings: Settings) -> dict[str, dict[str, float]]:
    """Return the thresholds that the collector applies instead of the defaults."""
    found: dict[str, dict[str, float]] = {}
    for fact, value in chosen(installed_rules(), settings.rules).facts.items():
        _, rule, name = fact.split("/")
        found.setdefault(rule, {})[name] = value
    return found
