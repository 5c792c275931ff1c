"""Whether a path is on a network file system, where SQLite's log is not safe.

Comes in: a path. Goes out: the type of its file system, if it is a network file system.
On Linux only; elsewhere the type is not known.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from trainvitals_server.store.migrate import StoreUnusable

MOUNTS: Final = Path("/proc/self/mountinfo")
NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4"}
    | {"orangefs", "rclone", "s3fs", "smb3", "sshfs"}
)
"""Types of network file systems; those of FUSE without their prefix `fuse.`."""
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def network_type(path: Path, mounts: Path | None = None) -> str:
    """Return the type of the network file system that `path` is on; "" if it is on a local one.

    Source: proc_pid_mountinfo(5); a later mount at one place hides the earlier ones.
    """
    try:
        lines = (mounts or MOUNTS).read_text(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return ""
    where = path.absolute().resolve()
    deepest, found = -1, ""
    for line in lines:
        place, _, rest = line.partition(" - ")
        point = Path(_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), place.split()[4]))
        if where.is_relative_to(point) and len(point.parts) >= deepest:
            deepest, found = len(point.parts), rest.split()[0].removeprefix("fuse.")
    return found if found in NETWORK else ""


def refuse_network_file_system(path: Path, mounts: Path | None = None) -> None:
    """Check that a database at `path` would be on a local disk.

    Raises:
        StoreUnusable: it is on a network file system.
    """
    if kind := network_type(path, mounts):
        raise StoreUnusable(
            f"{path} is on a network file system ({kind}). SQLite's locks and log are not reliable "
            "there: a database can be damaged and lose acknowledged batches. Give a file on a disk "
            "of this machine (--database sqlite:////var/tmp/trainvitals.db, or TRAINVITALS_HOME), "
            "or use Postgres. To use it nevertheless, set TRAINVITALS_NETWORK_FILE_SYSTEM=true."
        )
