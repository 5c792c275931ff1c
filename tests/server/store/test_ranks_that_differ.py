"""TV953 over a real database: the records of two gloo processes, and the findings about them."""

import pytest

pytest.importorskip("torch")

from helpers import ranks_training as program
from helpers.stored_ranks import findings, history, stored_ranks
from trainvitals.api.schema import Severity
from trainvitals.diagnosis.rules.rank_divergence import RankDivergence

pytestmark = pytest.mark.timeout(300)

KINDS = (
    "ddp",
    "changed",
    "clipped",
    "unreduced",
    "alone",
    "fsdp1",
    "fsdp2",
    "fsdp2_clipped",
    "hsdp",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with stored_ranks(program.__file__, KINDS, folder) as store:
        yield store


@pytest.mark.parametrize("kind", ["changed", "clipped"])
def test_a_weight_that_one_rank_alone_changes_is_found_at_the_next_step(store, kind):
    [found] = findings(store, kind)
    assert found.where.endswith("3.weight")
    assert found.since_step in (program.CHANGED_AT, program.CHANGED_AT + 1)
    assert found.evidence[0].seen > 0.005


def test_gradients_that_one_rank_alone_changes_are_found(store):
    [found] = findings(store, "unreduced")
    assert found.since_step in (program.CHANGED_AT, program.CHANGED_AT + 1)


def test_clipped_norms_that_are_equal_on_independent_ranks_prove_no_reduction(store):
    assert findings(store, "alone") == []
    rule = RankDivergence(steps_apart=program.STEPS)
    [found] = rule.check(history(store, "alone"))
    assert found.severity is Severity.INFO
    assert "separate models" in found.summary


@pytest.mark.parametrize("kind", ["ddp", "fsdp1", "fsdp2", "fsdp2_clipped", "hsdp"])
def test_healthy_ranks_and_shards_are_silent(store, kind):
    seen = history(store, kind)
    assert list(seen.ranks) == [1]
    assert findings(store, kind) == []
