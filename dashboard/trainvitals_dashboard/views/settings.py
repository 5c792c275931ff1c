"""The collector, the rights of the token, the settings, and where to change them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from trainvitals.api.schema import CollectorSettings, Setting
from trainvitals.api.wording import number
from trainvitals_dashboard.access import chosen
from trainvitals_dashboard.parts.channels import channels
from trainvitals_dashboard.parts.header import brand, links_to_all_runs
from trainvitals_dashboard.parts.session import (
    ALERTS,
    SETTINGS,
    age_banner,
    client,
    guarded,
    has_typed_token,
    is_dark,
)
from trainvitals_dashboard.wording import bytes_text, literal, plain, prose, table, words

GROUPS: Mapping[str, Callable[[str], bool]] = {
    "Limits": lambda name: name.endswith("_max") or name == "request_deadline_s",
    "Retention": lambda name: name.startswith("retain_"),
    "Metrics": lambda name: name.startswith(("metrics_", "prometheus_")),
    "Diagnosis": lambda name: name in ("rules", "round_interval_s", "lost_after_s"),
    "Storage and network": lambda name: name != "notifications",
}
"""Title → whether a setting belongs there; the first one that fits."""


def show() -> None:
    """Show the settings; nothing on this page can be changed."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        brand()
        links_to_all_runs(SETTINGS)
    answer = client().settings()
    settings = answer.value
    st.markdown("## Settings", anchors=False)
    age_banner(answer)
    _collector()
    _token(settings)
    _appearance()
    _settings(settings.settings)
    _thresholds(settings)
    st.markdown("#### Notifications", anchors=False)
    channels(client().notifications().value.channels)
    st.page_link(ALERTS, label="Open findings and messages", icon=":material/notifications:")


def _collector() -> None:
    version = client().version()
    mode = "read-only: the database is damaged" if version.rescue else "stores batches"
    rows = [
        ("address", literal(chosen().url)),
        ("version", plain(version.version)),
        ("database", plain(version.database)),
        ("mode", mode),
    ]
    _facts("Collector", rows)
    st.caption(
        "To show another collector: `TRAINVITALS_COLLECTOR` or `trainvitals dashboard --collector "
        "URL`. To use another database: `TRAINVITALS_DATABASE_URL` of the collector."
    )


def _token(settings: CollectorSettings) -> None:
    viewer, access = settings.viewer, chosen()
    allows = "everything" if viewer.scope == "admin" else "reading runs, alerts and metrics"
    if has_typed_token():
        source = "entered in this tab"
    elif access.token_given:
        source = "`TRAINVITALS_TOKEN` of the dashboard's process"
    else:
        source = f"{literal(str(access.token_file))} (`TRAINVITALS_TOKEN_FILE`)"
    project = "all projects" if viewer.project is None else plain(viewer.project)
    rows = [
        ("scope", f"{plain(viewer.scope)}: {allows}"),
        ("projects", project),
        ("id", plain(viewer.id)),
        ("from", source),
    ]
    _facts("Your token", rows)
    st.caption(
        "Create another one on the collector's machine: `trainvitals token create read`; "
        "revoke this one: `trainvitals token revoke ID`."
    )


def _facts(title: str, rows: Sequence[tuple[str, str]]) -> None:
    st.markdown(f"#### {title}", anchors=False)
    st.markdown(table(("what", "value"), rows))


def _appearance() -> None:
    st.markdown("#### Appearance", anchors=False)
    theme = "dark" if is_dark() else "light"
    st.markdown(
        f"This browser shows the **{theme}** theme. It follows the system, unless the menu ⋮ at "
        "the top right is set to another one; it offers *System*, *Light* and *Dark*."
    )


def _settings(settings: Sequence[Setting]) -> None:
    left = list(settings)
    for title, belongs in GROUPS.items():
        members = [s for s in left if belongs(s.name)]
        left = [s for s in left if s not in members]
        if members:
            st.markdown(f"#### {title}", anchors=False)
            # Two columns: the names of the variables are too long for a third one on a phone.
            rows = [
                (f"{prose(s.description)} {literal(s.environment)}", _value(s)) for s in members
            ]
            st.markdown(table(("setting", "value"), rows))
    st.caption(
        "Each setting is also a line of `trainvitals.toml`, under its name in lower case without "
        "the prefix. Values of paths, addresses and secrets are not sent to the browser. A change "
        "takes effect at the next start of the collector."
    )


def _value(setting: Setting) -> str:
    if setting.value is None:
        return "set" if setting.is_set else "default"
    value, default = (_text(setting.name, v or "") for v in (setting.value, setting.default))
    return value if value == default else f"**{value}** (default {default})"


def _text(name: str, value: str) -> str:
    if value in ("0", "0.0") and name.startswith("retain_") and name != "retain_deleted_days":
        return "0, no limit"
    if "bytes" in name and value.isdigit():
        return bytes_text(int(value)).replace(" ", "\N{NO-BREAK SPACE}")
    try:
        return value if name == "port" else number(float(value), 4)
    except ValueError:
        return plain(value) or "none"


def _thresholds(settings: CollectorSettings) -> None:
    st.markdown("#### Thresholds", anchors=False)
    rows = [
        (plain(words(rule)), literal(name), number(value))
        for rule, values in settings.thresholds.items()
        for name, value in values.items()
    ]
    if rows:
        st.markdown(table(("rule", "threshold", "value"), rows))
    else:
        st.caption("The collector changes no threshold.")
    st.caption(
        "`[rules.dead_relu]` in `trainvitals.toml`, or `TRAINVITALS_RULES` as JSON, changes them "
        "for all projects. A run's own thresholds take precedence; they are in its metadata."
    )


if __name__ == "__main__":
    guarded(show)
