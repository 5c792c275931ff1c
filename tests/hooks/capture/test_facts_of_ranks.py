"""The facts about the process group and about the modules whose gradients it reduces."""

import pytest

pytest.importorskip("torch")

from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from trainvitals.capture.facts import facts_of


@pytest.fixture
def group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def network():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


def test_without_a_process_group_there_is_no_number_of_ranks():
    assert not {"world_size", "data_parallel"} & facts_of({"": network()}, None).keys()


def test_a_process_group_that_reduces_no_module_is_known(group):
    facts = facts_of({"": network()}, None)
    assert facts["world_size"] == 1
    assert "data_parallel" not in facts


def test_a_wrapped_model_is_a_point(group):
    assert facts_of({"": DistributedDataParallel(network())}, None)["data_parallel"] == "."


def test_wrapped_parts_are_named_as_their_parameters_are(group):
    model = network()
    model[0] = DistributedDataParallel(model[0])
    models = {"generator": model, "critic": DistributedDataParallel(network())}
    facts = facts_of(models, None)
    assert facts["data_parallel"] == "generator.0,critic"
