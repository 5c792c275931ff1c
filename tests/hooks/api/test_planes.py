"""Columns of float32 are restored from planes bit for bit, for any values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainvitals.api.planes import coded, restored

NAMES = ("min", "mean", "max", "last")
words = st.one_of(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 0x80000000, 0x7FC00000, 0x7FC00001, 0x7F800000, 0xFF800000, 0xFFFFFFFF]),
)


@given(st.data(), st.integers(0, 20), st.sets(st.sampled_from(NAMES), min_size=1))
def test_any_bits_of_any_columns_come_back(data, rows, names):
    exact = st.lists(words, min_size=rows, max_size=rows)
    values = {n: np.array(data.draw(exact), np.uint32).view(np.float32) for n in sorted(names)}
    planes = coded(values)
    assert {column.dtype for column in planes.values()} == {np.dtype(np.uint8)}
    back = restored(planes, NAMES)
    assert back.keys() == values.keys()
    for name, column in values.items():
        assert back[name].tobytes() == column.tobytes()


def test_columns_without_planes_are_left_alone():
    assert restored({"step": np.zeros(3, np.uint8)}, NAMES) == {}


def test_a_missing_plane_is_an_error():
    planes = coded({"mean": np.ones(3, np.float32)})
    del planes["mean.2"]
    with pytest.raises(KeyError):
        restored(planes, NAMES)
