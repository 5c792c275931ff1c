"""The limit on kept answers is a limit on the memory of the process."""

import gc
import random
import tracemalloc

import pytest

from trainvitals.api.schema import Curve, Heatmap, Series
from trainvitals_dashboard.kept import memory_of

CHANCE = random.Random(0)


def numbers(count):
    return [CHANCE.random() for _ in range(count)]


def steps(count):
    return [1000 + CHANCE.randrange(10**6) for _ in range(count)]


def curves(count, points):
    return Series(
        "weight",
        "l2",
        [
            Curve(
                f"blocks.{i}.weight",
                steps(points),
                steps(points),
                *(numbers(points) for _ in range(3)),
                [],
                [0] * points,
                [1] * points,
            )
            for i in range(count)
        ],
    )


def heat_map(rows, columns):
    return Heatmap(
        stream="weight",
        statistic="l2",
        steps=steps(columns),
        last_steps=steps(columns),
        places=[f"blocks.{i}.weight" for i in range(rows)],
        values=[numbers(columns) for _ in range(rows)],
        nonfinite=[[] for _ in range(rows)],
    )


@pytest.mark.parametrize(
    "make",
    [lambda: curves(1, 4), lambda: curves(5, 600), lambda: heat_map(60, 200)],
    ids=["an update", "five curves", "a heat-map"],
)
def test_the_memory_of_an_answer_is_estimated_within_a_third(make):
    make()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [make() for _ in range(20)]
        measured = (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    finally:
        tracemalloc.stop()
    assert measured / 1.33 < memory_of(kept[0]) < measured * 1.5
