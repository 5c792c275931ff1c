"""The training process and the collector name the same first step of a finding.

They examine the same records at different times: the step must not depend on when.
"""

import numpy as np
import pytest

from helpers.batches import batch, ingest, start
from trainvitals.background_diagnosis import BackgroundDiagnosis
from trainvitals.diagnosis.examine import Engine
from trainvitals.wire import STATISTICS, Frame, Layout, Place, Stat, Stream
from trainvitals_server.rounds import Rounds
from trainvitals_server.store import Store

NOW = 1_700_000_100.0
STEPS = 240
PLACES = {
    Stream.SCALAR: (Place("loss"),),
    Stream.WEIGHT: (
        Place("h.weight", kind="weight", shape=(4, 8), depth=1, module="h"),
        Place("h.bias", kind="bias", shape=(4,), depth=1, module="h"),
    ),
    Stream.ACTIVATION: (Place("h", kind="Linear", depth=1),),
}


def columns():
    """Return (stream, place, statistic) → values: a bias that drifts in a signal that grows."""
    drift = np.linspace(0, 20, STEPS)
    return {
        (Stream.SCALAR, "loss", Stat.VALUE): np.full(STEPS, 2.0),
        (Stream.WEIGHT, "h.bias", Stat.DRIFT_RMS): drift,
        (Stream.WEIGHT, "h.bias", Stat.DRIFT_MEAN): drift,
        (Stream.ACTIVATION, "h", Stat.SAMPLE_STD): np.linspace(1, 4, STEPS),
    }


def layouts():
    return [Layout(stream, 0, STATISTICS[stream], places) for stream, places in PLACES.items()]


def frames(first, last):
    """Return one frame of each stream with the steps from `first` to `last` − 1."""
    steps = np.arange(first, last, dtype=np.int64)
    made = []
    for stream, places in PLACES.items():
        values = np.full((len(steps), len(places), len(STATISTICS[stream])), np.nan, np.float32)
        for (of, name, statistic), column in columns().items():
            if of is stream:
                row = [place.name for place in places].index(name)
                values[:, row, STATISTICS[stream].index(statistic)] = column[first:last]
        made.append(Frame(stream, 0, steps, steps.astype(float), values))
    return made


def first_step(findings):
    [found] = [finding for finding in findings if finding.rule == "bias_drift"]
    return found.where, found.since_step


def in_the_training_process(cuts):
    diagnosis = BackgroundDiagnosis(lambda finding: None)
    try:
        for record in layouts():
            diagnosis.put(record)
        for first, last in zip([0, *cuts], cuts, strict=False):
            for frame in frames(first, last):
                diagnosis.put(frame)
            found = diagnosis.diagnosis(run="r", watched=(), not_watched={}, overhead=None)
    finally:
        diagnosis.stop()
    return first_step(found.findings)


def in_the_collector(cuts, path):
    store = Store.open(f"sqlite:///{path / 'trainvitals.db'}", clock=lambda: NOW)
    try:
        ingest(store, batch(start(), *layouts()))
        for seq, (first, last) in enumerate(zip([0, *cuts], cuts, strict=False), 1):
            ingest(store, batch(*frames(first, last), seq=seq))
            Rounds(store, Engine(), now=lambda: NOW).run_once()
        return first_step(store.findings(store.run("r").pk))
    finally:
        store.close()


@pytest.mark.parametrize("cuts", [[STEPS], [110, STEPS], list(range(20, STEPS + 1, 20))])
def test_a_bias_that_drifts_begins_at_the_same_step_on_both_sides(cuts, tmp_path):
    at_the_end = in_the_training_process([STEPS])
    assert in_the_training_process(cuts) == at_the_end
    assert in_the_collector(cuts, tmp_path) == at_the_end
