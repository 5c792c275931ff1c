"""Deliver records to the collector: a bounded queue, a spool on disk, background threads.

Comes in: records, through `Shipper.put`, which only appends.
Goes out: batches over HTTP, in order, each identified by (source, seq); batches on disk while the
          collector does not answer.
Promise:  training neither waits nor fails because of delivery; dropped records are counted and
          reported. produced = acknowledged + waiting + dropped, in records.
Start at `shipper.Shipper`; `sender.Sender` delivers this run, `adopt.Adoption` ended runs.
"""

from trainvitals.ship.http import parse_url
from trainvitals.ship.shipper import Shipper
from trainvitals.ship.status import ShipStatus

__all__ = ["ShipStatus", "Shipper", "parse_url"]
