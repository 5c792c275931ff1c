"""In each rank of a distributed job the numbers are right, with real processes over gloo."""

import json
import os

import numpy as np
import pytest
import torch

from helpers import sharded_training as program
from helpers.warm_ranks import run_ranks

pytestmark = pytest.mark.timeout(300)

KINDS = {2: ("ddp", "fsdp", "clipped", "mixed", "alone", "fsdp1", "late"), 4: ("hsdp",)}


def launched(ranks, folder):
    """Run the program as torchrun does, and return kind → what each rank recorded."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRAINVITALS_REPORT": "off"}
    done = run_ranks(
        program.__file__, str(folder), *KINDS[ranks], ranks=ranks, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        kind: [json.loads((folder / f"{kind}-{rank}.json").read_text()) for rank in range(ranks)]
        for kind in (*KINDS[ranks], "run")
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return launched(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return launched(4, tmp_path_factory.mktemp("four"))


class Reference:
    """The same training in one process, in float64 where it is summed."""

    def __init__(self, *, clip=False):
        self.model = program.network()
        optimizer = program.adamw(self.model)
        self.weights, self.gradients, self.updates, self.norms = [], [], [], []

        def each():
            if clip:
                program.clip(self.model)
            self.weights.append([p.detach().double().clone() for p in self.model.parameters()])
            self.gradients.append([p.grad.double().clone() for p in self.model.parameters()])
            self.norms.append(float(torch.cat([g.flatten() for g in self.gradients[-1]]).norm()))

        program.train(self.model, optimizer, each=each)
        final = [p.detach().double() for p in self.model.parameters()]
        following = [*self.weights[1:], final]
        self.updates = [
            [b - a for a, b in zip(old, new, strict=True)]
            for old, new in zip(self.weights, following, strict=True)
        ]

    def shards(self, values, rank, ranks):
        """Return the part of each tensor that a rank has: rows, divided as torch.chunk does."""
        empty = torch.empty(0, dtype=torch.float64)
        parts = [[v.chunk(ranks) for v in step] for step in values]
        return [[p[rank] if rank < len(p) else empty for p in step] for step in parts]


def norms(values):
    return [[float(v.norm()) for v in step] for step in values]


def rms(values):
    return [[float(v.square().mean().sqrt()) for v in step] for step in values]


def close(found, expected):
    # Ranks add their gradients in another order than one process: float32 rounding.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS[2])
def test_training_is_bit_identical_with_a_monitor(two, kind):
    assert all(rank["equal"] for rank in two[kind])
    assert not any(rank.get("errors") for rank in two[kind])


def test_one_watched_rank_waits_for_no_other(two):
    """Alone, a collective of the monitor would have no partner: the job would not have ended."""
    assert "gradient_norm_of_shards" in two["alone"][0]["scalars"]


def test_all_ranks_of_a_job_have_one_run_id(two):
    assert two["run"][0] == two["run"][1]


def test_under_ddp_each_rank_has_the_gradients_of_the_whole_batch(two):
    reference = Reference()
    for rank in two["ddp"]:
        close(rank["scalars"]["gradient_norm"], reference.norms)
        close(rank["gradient"], norms(reference.gradients))
        close(rank["weight"], norms(reference.weights))
        assert not any("shard" in flags for flags in rank["flags"])
        assert "gradient_norm" not in rank["not_watched"]


def test_under_fsdp_each_rank_measures_its_shards(two):
    reference = Reference()
    for number, rank in enumerate(two["fsdp"]):
        assert rank["names"] == [n for n, _ in reference.model.named_parameters()]
        assert rank["shapes"][0] == [4 - number, 6]
        assert all("shard" in flags for flags in rank["flags"])
        weights = reference.shards(reference.weights, number, 2)
        close(rank["weight"], norms(weights))
        close(rank["mean"], [[float(v.mean()) for v in step] for step in weights])
        close(rank["gradient"], norms(reference.shards(reference.gradients, number, 2)))
        assert rank["outputs"] == ["0", "1", "2", "3"]


def test_under_fsdp_the_first_update_is_that_of_the_shard(two):
    # Later updates of AdamW depend on quotients of tiny gradients, which rounding changes.
    reference = Reference()
    for number, rank in enumerate(two["fsdp"]):
        first = rms(reference.shards(reference.updates, number, 2))[0]
        np.testing.assert_allclose(rank["update"][0], first, rtol=1e-4)


def test_a_part_of_the_norm_has_its_own_name_and_the_parts_make_the_total(two):
    parts = np.array([rank["scalars"]["gradient_norm_of_shards"] for rank in two["fsdp"]])
    close(np.sqrt(np.square(parts).sum(0)), Reference().norms)
    for rank in two["fsdp"]:
        assert "gradient_norm" not in rank["scalars"]
        assert "shard(0) over 2" in rank["not_watched"]["gradient_norm"]
        assert rank["facts"]["sharding"] == "shard(0) over 2"
        assert rank["facts"]["parameters"] == 87


def test_where_the_program_clips_each_rank_has_the_total_before_clipping(two):
    for rank in two["clipped"]:
        close(rank["scalars"]["gradient_norm_before_clipping"], rank["norms"])
        close(rank["norms"][0], Reference().norms[0])


def test_no_norm_is_reported_where_only_some_parameters_are_sharded(two):
    for rank in two["mixed"]:
        assert not any(name.startswith("gradient_norm") for name in rank["scalars"])
        assert "count these several times" in rank["not_watched"]["gradient_norm"]
        assert np.isfinite(rank["gradient"]).all()


def test_under_the_older_fsdp_the_parts_make_the_total_too(two):
    parts = np.array([rank["scalars"]["gradient_norm_of_shards"] for rank in two["fsdp1"]])
    close(np.sqrt(np.square(parts).sum(0)), Reference().norms)
    assert all("gradient_norm" not in rank["scalars"] for rank in two["fsdp1"])


def test_a_monitor_may_come_before_the_sharding(two):
    for late, ordinary in zip(two["late"], two["fsdp"], strict=True):
        for key in ("names", "shapes", "flags", "weight", "gradient", "update", "outputs"):
            assert late[key] == ordinary[key]
        assert "gradient_norm" not in late["scalars"]


@pytest.mark.slow
def test_under_hybrid_sharding_a_shard_on_two_ranks_counts_a_half(four):
    reference = Reference()
    parts = np.array([rank["scalars"]["gradient_norm_of_shards"] for rank in four["hsdp"]])
    close(np.sqrt(np.square(parts).sum(0)), reference.norms)
    for number, rank in enumerate(four["hsdp"]):
        assert rank["equal"]
        close(rank["gradient"], norms(reference.shards(reference.gradients, number % 2, 2)))
        assert rank["facts"]["sharding"] == "replicated over 2, shard(0) over 2"
