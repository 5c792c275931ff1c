"""trainvitals: the vital signs of PyTorch training runs, and the diagnosis.

    monitor = trainvitals.watch(model, optimizer)

Importing this loads nothing heavy: every name is fetched when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainvitals import remedies
    from trainvitals.api.schema import Diagnosis, Evidence, Finding, Severity, Verdict
    from trainvitals.checkups import checkup
    from trainvitals.experiments import experiment
    from trainvitals.monitor import Monitor, StopTraining
    from trainvitals.watching import watch

    __version__: str

__all__ = [
    "Diagnosis",
    "Evidence",
    "Finding",
    "Monitor",
    "Severity",
    "StopTraining",
    "Verdict",
    "__version__",
    "checkup",
    "experiment",
    "remedies",
    "watch",
]

_HOMES = {
    "Diagnosis": "trainvitals.api.schema",
    "Evidence": "trainvitals.api.schema",
    "Finding": "trainvitals.api.schema",
    "Verdict": "trainvitals.api.schema",
    "Severity": "trainvitals.api.schema",
    "Monitor": "trainvitals.monitor",
    "StopTraining": "trainvitals.monitor",
    "checkup": "trainvitals.checkups",
    "experiment": "trainvitals.experiments",
    "watch": "trainvitals.watching",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("trainvitals")
    if name == "remedies":
        return import_module("trainvitals.remedies")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'trainvitals' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
