"""Every setting of the collector: default, unit, environment variable.

Precedence, highest first: argument, TRAINVITALS_<NAME>, TRAINVITALS_<NAME>_FILE (for secrets),
trainvitals.toml, [tool.trainvitals] in pyproject.toml. Settings that the client also has use the
same names, so that one environment configures both.
"""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    PyprojectTomlConfigSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from trainvitals_server.notification_settings import NotificationSettings

PREFIX = "TRAINVITALS_"


class _FileSource(PydanticBaseSettingsSource):
    """TRAINVITALS_<NAME>_FILE: the value is the file's text, as Docker and systemd give it."""

    def get_field_value(
        self,
        field: FieldInfo,  # noqa: ARG002 - the base class's signature
        field_name: str,
    ) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{PREFIX}{field_name.upper()}_FILE")
        return (Path(path).read_text().strip() if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        # token_file is a separate setting, not the file of a setting called "token".
        found = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in found.items() if value is not None}


class Settings(BaseSettings):
    """The settings of a collector."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        toml_file="trainvitals.toml",
        pyproject_toml_table_header=("tool", "trainvitals"),
    )

    home: Path = Field(
        default=Path("~/.trainvitals"), description="Directory of database and token."
    )
    database_url: str = Field(
        default="", description="sqlite:///PATH or postgresql://…; empty: a file in the home."
    )
    network_file_system: bool = Field(
        default=False, description="Use a SQLite file although it is on a network file system."
    )
    durability: Literal["full", "fast"] = Field(
        default="full",
        description="full: an acknowledged batch is synced to disk. fast (SQLite only): it is "
        "committed and synced later; a power cut can lose it.",
    )
    token_file: Path | None = Field(
        default=None, description="File of the first admin token; default: in the home."
    )
    rescue: bool = Field(
        default=False,
        description="Serve a damaged SQLite database, which is only read; store nothing.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen at.")
    port: int = Field(default=8321, ge=0, le=65535, description="Port to listen at; 0: any free.")
    behind_proxy: bool = Field(
        default=False, description="A reverse proxy terminates TLS and sets X-Forwarded-For."
    )
    tls_certificate: Path | None = Field(default=None, description="PEM file of the certificate.")
    tls_key: Path | None = Field(default=None, description="PEM file of its key.")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Accepted Host headers, in addition to loopback names.",
    )

    body_bytes_max: int = Field(default=2 * 2**20, gt=0, description="Bytes of a request, as sent.")
    inflated_bytes_max: int = Field(
        default=8 * 2**20, gt=0, description="Bytes after decompression."
    )
    inflate_ratio_max: int = Field(
        default=50, gt=0, description="Bytes after decompression for each byte sent."
    )
    batch_values_max: int = Field(default=50_000, gt=0, description="Values in one batch.")
    run_series_max: int = Field(
        default=200_000, gt=0, description="Series of one run: places × statistics, all streams."
    )
    series_max: int = Field(default=2_000_000, gt=0, description="Series of all running runs.")
    places_max: int = Field(default=20_000, gt=0, description="Maximum places in one layout.")
    queue_bytes_max: int = Field(
        default=64 * 2**20,
        gt=0,
        description="Bytes of batches that wait to be written; the same for those being received.",
    )
    request_deadline_s: float = Field(
        default=10.0, gt=0, description="Seconds within which a request must arrive completely."
    )
    header_bytes_max: int = Field(
        default=8192, ge=256, description="Bytes of a request's first line and headers."
    )
    connections_max: int = Field(
        default=200,
        gt=0,
        description="Requests answered at once; open connections are limited to 5 times as many.",
    )

    metrics_detail: Literal["run", "group", "layer"] = Field(
        default="run",
        description="Series on /metrics: of runs; group: also of each run's 20 worst blocks; "
        "layer: of its 20 worst layers.",
    )
    metrics_scalars: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Names or patterns of logged scalars to export on /metrics, separated by "
        "commas: accuracy,eval_*.",
    )
    prometheus_targets: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="HOST:PORT of every collector that Prometheus should scrape, separated by "
        "commas, for its HTTP service discovery; empty: the collector that was asked.",
    )
    rules: dict[str, dict[str, Any]] = Field(
        default={},
        description="Thresholds by rule, for runs that do not set their own: "
        '{"dead_relu": {"dead_share_error": 0.95}}, or [rules.dead_relu] in a file.',
    )
    round_interval_s: float = Field(default=1.0, gt=0, description="Seconds between rounds.")
    lost_after_s: float = Field(default=60.0, gt=0, description="Seconds of silence until lost.")
    seal_interval_s: float = Field(
        default=2.0, gt=0, description="Seconds between runs of the compactor."
    )

    retain_stream_bytes: int = Field(
        default=256 * 2**20,
        ge=0,
        description="Compressed bytes of the single steps of one stream of a process; older steps "
        "are thinned to minimum, mean and maximum of 16. 0: no limit.",
    )
    retain_run_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes of the values of one run; the oldest steps of its largest streams are "
        "thinned. 0: no limit.",
    )
    retain_total_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes of the values of all runs; the runs that ended first are thinned, then "
        "removed. 0: no limit.",
    )
    retain_ended_days: float = Field(
        default=0,
        ge=0,
        description="Days after which an ended run is removed, unless it has the tag `keep`. "
        "0: never.",
    )
    retain_deleted_days: float = Field(
        default=7,
        ge=0,
        description="Days that a deleted run stays in the bin, from which it can be brought back; "
        "0: it is removed within a minute.",
    )

    notifications: NotificationSettings = Field(
        default=NotificationSettings(),
        description="Channels, routes and silences of messages: docs/notifications.md.",
    )

    @model_validator(mode="after")
    def _durability_of_sqlite(self) -> Self:
        if self.durability == "fast" and not self.database.startswith("sqlite"):
            raise ValueError(
                "durability = fast is only for SQLite. Leave it out: on Postgres, every "
                "acknowledged batch is synced."
            )
        return self

    @field_validator("notifications", mode="before")
    @classmethod
    def _parsed(cls, value: object) -> object:
        # The file of TRAINVITALS_NOTIFICATIONS_FILE is JSON text.
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("allowed_hosts", "prometheus_targets", "metrics_scalars", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(word.strip() for word in value.split(",") if word.strip())
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - _FileSource instead
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, highest precedence first."""
        return (
            init_settings,
            env_settings,
            _FileSource(settings_cls),
            TomlConfigSettingsSource(settings_cls),
            PyprojectTomlConfigSettingsSource(settings_cls),
        )

    @property
    def home_path(self) -> Path:
        """The home as an absolute path."""
        return self.home.expanduser().absolute()

    @property
    def token_path(self) -> Path:
        """The shared token file."""
        return self.token_file.expanduser() if self.token_file else self.home_path / "token"

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.home_path / 'trainvitals.db'}"

    @property
    def is_loopback(self) -> bool:
        """Whether the collector is reachable from this machine only."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """The address of the collector."""
        scheme = "https" if self.tls_certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    @property
    def local_url(self) -> str:
        """The address of the collector for programs on its machine."""
        loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
        return self.model_copy(update={"host": loopback.get(self.host, self.host)}).url
