"""Validate the arguments of `watch`: an invalid one causes a warning and its default is used.

Comes in: arguments of any type. Goes out: values for capture and delivery. Only `checked_model`
raises.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import multiprocessing
import os
import re
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Final

from trainvitals.api.schema import Finding
from trainvitals.config import ClientSettings
from trainvitals.identity import new_run_id, readable_name
from trainvitals.ship import parse_url
from trainvitals.wire.sanitise import name as storable_name
from trainvitals.wire.sanitise import text

log = logging.getLogger("trainvitals")
OnFinding = Callable[[Finding], object]

STEPS_MAX: Final = 2**53
"""Larger numbers are not exact in JSON and float64."""
RUN_BYTES_MAX: Final = 200
_NOT_IN_AN_ID: Final = re.compile(r"[/\\\x00-\x1f\x7f\ufffd]+")
_job_runs = itertools.count()


def checked_model(model: object) -> None:
    """Raise TypeError if `model` is not a module or a mapping of names to modules."""
    from torch import nn

    modules = list(model.values()) if isinstance(model, Mapping) else [model]
    for module in modules:
        if not isinstance(module, nn.Module):
            raise TypeError(f"model is a {type(module).__name__}; watch needs a torch.nn.Module")


def usable_steps(name: str, value: object, least: int = 1) -> int | None:
    """Return a number of steps, at least `least`; None for an invalid one."""
    if value is None:
        return None
    try:
        steps = int(value)  # type: ignore[call-overload]
        if steps == value and least <= steps < STEPS_MAX and not isinstance(value, bool):
            return int(steps)
    except Exception:
        log.debug("%s cannot be read as a number.", name, exc_info=True)
    log.warning(
        "%s=%s is not used: it must be an integer of at least %d.", name, _shown(value), least
    )
    return None


def usable_start(value: object) -> int:
    """Return the number of the first step; 0 for an invalid one."""
    return usable_steps("start_step", value, least=0) or 0


def is_respawned() -> bool:
    """Whether this is a spawned worker, which imports the user's script again without training."""
    return bool(getattr(multiprocessing.process.current_process(), "_inheriting", False))


def usable_guard(value: object) -> str:
    """Return the mode of the guard; "off" for an invalid one."""
    from trainvitals.capture.veto import MODES

    if value in MODES:
        return str(value)
    log.warning("guard=%s is not used: it must be one of %s.", _shown(value), ", ".join(MODES))
    return "off"


def usable_activations(given: object) -> bool | str | list[str]:
    """Return the activations to watch: "auto", True, False, or names and globs."""
    if isinstance(given, (bool, str)):
        return given
    if isinstance(given, (Sequence, Set)):
        names = list(given)
        if all(isinstance(name, str) for name in names):
            return names
    log.warning(
        'activations=%s is not used: it must be "auto", True, False, or names of modules.',
        _shown(given),
    )
    return "auto"


def usable_tags(given: object) -> tuple[str, ...]:
    """Return the tags; a string is one tag."""
    if isinstance(given, str):
        return (given,)
    if isinstance(given, (Sequence, Set)):
        return tuple(text(tag) for tag in given)
    if given is not None:
        log.warning("tags=%s is not used: it must be a list of strings.", _shown(given))
    return ()


def usable_callback(given: OnFinding | None) -> OnFinding | None:
    """Return `on_finding`; None if it is not callable."""
    if given is None or callable(given):
        return given
    log.warning("on_finding=%s is not used: it is not callable.", _shown(given))
    return None


def usable_collector(given: object, settings: ClientSettings) -> str | None:
    """Return the collector's URL; None for local only."""
    wanted = settings.collector if given is None or given == "" else text(given)
    if not wanted or wanted == "off":
        return None
    try:
        parse_url(wanted)
    except ValueError as error:
        log.warning("%s The run is diagnosed locally, and nothing is sent.", error)
        return None
    return wanted


def usable_folder(given: object, home: Path, run: str) -> Path | None:
    """Return the folder of recordings: `given`, or for True one of the run; None for none."""
    if given is None or given is False:
        return None
    if given is True:
        return home / "recordings" / run
    with contextlib.suppress(TypeError, RuntimeError):
        if os.fspath(given):  # type: ignore[call-overload]
            return Path(given).expanduser()  # type: ignore[arg-type]
    log.warning("record=%s is not used: it must be True, False or a folder.", _shown(given))
    return None


def run_of(given: object) -> tuple[str, str]:
    """Return the run's id and its display name.

    The name is the given text. The id is the same text if it can be part of a URL, otherwise a
    cleaned text with a hash of the original. Without a text, the id is `new_or_shared_id()` and
    the name is `readable_name` of the id.
    """
    if given is None or given == "":
        run = new_or_shared_id()
        return run, readable_name(run)
    name = storable_name(given)
    clean = _NOT_IN_AN_ID.sub("-", name).strip().strip(".") or "run"
    if clean == given and len(clean.encode()) <= RUN_BYTES_MAX:
        return clean, name
    digest = hashlib.blake2b(_bytes(given), digest_size=4).hexdigest()
    short = clean.encode()[: RUN_BYTES_MAX - 10].decode(errors="ignore")
    run = f"{short}-{digest}"
    log.warning(
        "run=%s is not a valid id: an id has 1 to %d bytes, without slashes and control "
        "characters. The id is %s; the name is unchanged.",
        _shown(given),
        RUN_BYTES_MAX,
        run,
    )
    return run, name


def new_or_shared_id() -> str:
    """Return a run id: a new one, or in a torchrun job the id that all its ranks compute.

    Limits: all ranks must call `watch` equally often. Jobs on several nodes without `--rdzv-id`
    differ only in the first node's address and port, so a second job there gets the id of the
    first; pass `run=` or `--rdzv-id`.
    """
    shared = shared_id(os.environ, os.getppid(), next(_job_runs))
    return shared or new_run_id()


def shared_id(environment: Mapping[str, str], parent: int, nth: int) -> str | None:
    """Return an id from torchrun's environment variables; None outside torchrun or for one rank.

    `parent` is the process id of the parent, which is the same for all ranks on one node: it
    distinguishes jobs with the same address. `nth` counts the runs of this process, from 0.
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
    """Return the start time of a process, in clock ticks since boot; "" if unknown."""
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError, ValueError):
        return ""


def _shown(value: object) -> str:
    """Return a value as text for a message: at most 60 bytes."""
    try:
        return storable_name(repr(value), 60)
    except Exception:  # noqa: BLE001 - the caller's `__repr__` may raise anything
        return type(value).__name__


def _bytes(given: object) -> bytes:
    whole = given if isinstance(given, str) else text(given)
    return whole.encode("utf-8", "surrogatepass")
