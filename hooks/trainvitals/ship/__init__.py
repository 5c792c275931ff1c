"""Records to the collector: a bounded queue, a spool on disk, background threads.

Comes in: records, through `Shipper.put`, which only appends.
Goes out: batches over HTTP, in order, each known by (source, seq); to disk while nobody answers.
Promise:  training neither waits nor fails for any of it; what is dropped is counted and told.
          produced = acknowledged + waiting + dropped, in records.
Start at `shipper.Shipper`; `sender.Sender` is what its threads do for this run, `adopt.Adoption`
what one does for runs that have ended.
"""

from trainvitals.ship.http import parse_url
from trainvitals.ship.shipper import Shipper
from trainvitals.ship.status import ShipStatus

__all__ = ["ShipStatus", "Shipper", "parse_url"]
