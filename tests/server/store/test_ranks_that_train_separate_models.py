"""TV953 names a forgotten reduction: the records of two gloo processes in a real database."""

import pytest

pytest.importorskip("torch")

from helpers import separate_training as program
from helpers.stored_ranks import findings, history, stored_ranks
from trainvitals.api.schema import Severity
from trainvitals.diagnosis.rules.rank_divergence import (
    CALL_THE_WRAPPER,
    WRAP,
    WRAP_THE_WHOLE,
    RankDivergence,
)
from trainvitals.wire import Scalar, Stream

pytestmark = pytest.mark.timeout(300)

FORGOTTEN = ("forgotten", "bare", "no_sync")
NOTES = ("seeds", "part")
SILENT = {
    "wrapped": "DistributedDataParallel reduces the gradients",
    "accumulated": "the last micro-batch of each step is reduced, the others are in no_sync",
    "manual": "the program reduces the gradients itself",
    "local_sgd": "the weights are averaged every 32 steps",
    "experts": "each rank has its own expert, and the rest is reduced",
    "equal_experts": "the experts begin equal, because all ranks have one seed",
    "heads": "the wrapper leaves out the parameters that are local to a rank",
    "slices": "each rank has a slice of each layer, as in tensor parallelism",
    "equal_stages": "the layers of both stages of a pipeline have equal names and shapes",
    "stages": "each rank has other layers, as in a pipeline",
    "actor": "one rank alone trains",
    "one_reports": "one rank alone is watched",
    "rates": "each rank tries another learning rate",
    "architectures": "each rank tries another width",
    "no_group": "independent trainings that share a run, without a process group",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with stored_ranks(program.__file__, (*FORGOTTEN, *NOTES, *SILENT), folder) as store:
        yield store


@pytest.mark.parametrize("kind", FORGOTTEN)
def test_ranks_with_equal_initial_weights_that_are_never_reduced_are_an_error(store, kind):
    [found] = findings(store, kind)
    assert (found.severity, found.since_step, found.where) == (Severity.ERROR, 0, "")
    assert "separate models: gradients are not averaged" in found.summary
    assert "The weights were equal at the first step and differ from step 1 on" in found.summary
    seen = history(store, kind)
    for rank, of_rank in (("the lowest rank", seen), ("rank 1", seen.ranks[1])):
        shown = next(e for e in found.evidence if e.quantity == f"gradient norm on {rank}")
        assert shown.seen == of_rank.scalar(Scalar.GRADIENT_NORM).values[-1]


def test_a_model_without_a_wrapper_gets_the_code_that_wraps_it(store):
    assert findings(store, "forgotten")[0].fix == WRAP


@pytest.mark.parametrize("kind", ["bare", "no_sync"])
def test_a_wrapper_that_is_not_used_gets_no_second_one(store, kind):
    [found] = findings(store, kind)
    assert (found.fix, found.advice) == ("", CALL_THE_WRAPPER)


def test_ranks_that_begin_with_different_weights_are_a_note(store):
    [found] = findings(store, "seeds")
    assert found.severity is Severity.INFO
    assert "The weights differ from step 0 on" in found.summary


def test_parameters_outside_of_a_wrapped_part_are_a_note(store):
    [found] = findings(store, "part")
    assert found.severity is Severity.INFO
    assert "2 of 6 parameters, those outside of DistributedDataParallel" in found.summary
    assert (found.fix, found.advice) == ("", WRAP_THE_WHOLE)


@pytest.mark.parametrize("kind", SILENT)
def test_it_is_silent_where_the_ranks_differ_for_a_reason(store, kind):
    seen = history(store, kind)
    assert len(seen.steps(Stream.WEIGHT)) == program.STEPS
    assert list(seen.ranks) == ([] if kind == "one_reports" else [1])
    assert findings(store, kind) == []


def test_it_is_silent_while_another_rank_is_reduced_with_the_lowest_one(store):
    seen = history(store, "forgotten")
    seen.ranks[2] = history(store, "wrapped").ranks[1]
    seen.ranks[3] = history(store, "wrapped")
    assert list(RankDivergence().check(seen)) == []
