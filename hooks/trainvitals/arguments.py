"""What `watch` was given, made usable: one warning for what cannot be used, then the default.

Comes in: arguments of any type. Goes out: values that capture and delivery take. Raises nothing,
except `checked_model`.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final

from trainvitals.api.schema import Finding
from trainvitals.config import Settings
from trainvitals.identity import new_run_id
from trainvitals.ship import parse_url
from trainvitals.wire.sanitise import name as storable_name
from trainvitals.wire.sanitise import text

log = logging.getLogger("trainvitals")
OnFinding = Callable[[Finding], object]

STEPS_MAX: Final = 2**53
"""Larger numbers of steps are not exact in the collector."""
RUN_BYTES_MAX: Final = 200
_NOT_IN_AN_ID: Final = re.compile(r"[/\\\x00-\x1f\x7f\ufffd]+")
_job_runs = itertools.count()


def checked_model(model: object) -> None:
    """Raise TypeError when `model` is no module and no mapping of names to modules."""
    from torch import nn

    modules = list(model.values()) if isinstance(model, Mapping) else [model]
    for module in modules:
        if not isinstance(module, nn.Module):
            raise TypeError(f"model is a {type(module).__name__}; watch needs a torch.nn.Module")


def usable_steps(name: str, value: object) -> int | None:
    """Return a number of steps from 1, None for one that cannot be used."""
    if value is None:
        return None
    try:
        steps = int(value)  # type: ignore[call-overload]
        if steps == value and 1 <= steps < STEPS_MAX and not isinstance(value, bool):
            return int(steps)
    except Exception:
        log.debug("%s cannot be read as a number.", name, exc_info=True)
    log.warning("%s=%s is not used: it is a whole number of steps from 1.", name, _shown(value))
    return None


def usable_activations(given: object) -> bool | str | list[str]:
    """Return which activations to watch: "auto", True, False, or names and globs."""
    if isinstance(given, (bool, str)):
        return given
    if isinstance(given, (Sequence, Set)):
        names = list(given)
        if all(isinstance(name, str) for name in names):
            return names
    log.warning(
        'activations=%s is not used: it is "auto", True, False, or names of modules.', _shown(given)
    )
    return "auto"


def usable_tags(given: object) -> tuple[str, ...]:
    """Return the tags; one text is one tag."""
    if isinstance(given, str):
        return (given,)
    if isinstance(given, (Sequence, Set)):
        return tuple(text(tag) for tag in given)
    if given is not None:
        log.warning("tags=%s is not used: it is a list of texts.", _shown(given))
    return ()


def usable_callback(given: OnFinding | None) -> OnFinding | None:
    """Return `on_finding`, None for what cannot be called."""
    if given is None or callable(given):
        return given
    log.warning("on_finding=%s is not used: it cannot be called.", _shown(given))
    return None


def usable_collector(given: object, settings: Settings) -> str | None:
    """Return the collector's URL, None for local only."""
    wanted = settings.collector if given is None or given == "" else text(given)
    if not wanted or wanted == "off":
        return None
    try:
        parse_url(wanted)
    except ValueError as error:
        log.warning("%s The run is diagnosed here, and nothing is sent.", error)
        return None
    return wanted


def run_of(given: object) -> tuple[str, str]:
    """Return the run's id and the name that it is shown under.

    The name is the text given. The id is the same text where it can stand in an address, else a
    cleaned text with a hash of the original. Without a text: see `new_or_shared_id`; no name.
    """
    if given is None or given == "":
        return new_or_shared_id(), ""
    name = storable_name(given)
    clean = _NOT_IN_AN_ID.sub("-", name).strip().strip(".") or "run"
    if clean == given and len(clean.encode()) <= RUN_BYTES_MAX:
        return clean, name
    digest = hashlib.blake2b(_bytes(given), digest_size=4).hexdigest()
    short = clean.encode()[: RUN_BYTES_MAX - 10].decode(errors="ignore")
    run = f"{short}-{digest}"
    log.warning(
        "run=%s cannot be an id, which is 1 to %d bytes without slashes and control characters. "
        "The id is %s; the name stays.",
        _shown(given),
        RUN_BYTES_MAX,
        run,
    )
    return run, name


def new_or_shared_id() -> str:
    """Return a run id: a new one, or in a torchrun job the one that all its ranks compute.

    Limits: the ranks must call `watch` equally often. A job on several nodes that was started
    without `--rdzv-id` is told from another only by the first node's address and port, so a
    second job there gets the id of the first; pass `run=` or `--rdzv-id`.
    """
    shared = shared_id(os.environ, os.getppid(), next(_job_runs))
    return shared or new_run_id()


def shared_id(environment: Mapping[str, str], parent: int, nth: int) -> str | None:
    """Return an id from what torchrun tells every rank; None outside torchrun or for one rank.

    `parent` is the parent's process id, on one node the same for all ranks: it tells jobs apart
    that have the same address. `nth` counts the runs of this process, from 0.
    """
    job = environment.get("TORCHELASTIC_RUN_ID")
    if job is None or environment.get("WORLD_SIZE", "1") == "1":
        return None
    one_node = environment.get("LOCAL_WORLD_SIZE") == environment.get("WORLD_SIZE")
    facts = (
        job,
        environment.get("MASTER_ADDR", ""),
        environment.get("MASTER_PORT", ""),
        environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
        environment.get("SLURM_JOB_ID", ""),
        f"{parent} {_started(parent)}" if one_node else "",
        str(nth),
    )
    digest = hashlib.blake2b("\0".join(facts).encode(errors="replace"), digest_size=16)
    return digest.hexdigest().upper()[:26]


def _started(process: int) -> str:
    """Return when a process started, in ticks since the machine did; "" where not known."""
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError, ValueError):
        return ""


def _shown(value: object) -> str:
    """Return a value as a message shows it: 60 bytes at most."""
    try:
        return storable_name(repr(value), 60)
    except Exception:  # noqa: BLE001 - `__repr__` is the caller's
        return type(value).__name__


def _bytes(given: object) -> bytes:
    whole = given if isinstance(given, str) else text(given)
    return whole.encode("utf-8", "surrogatepass")
