"""The spool gives back exactly what was written, or less; never something else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainvitals.ship.segments import Spooled, frames_of
from trainvitals.ship.spool import Owner, Spool, SpoolFull

SOURCE = b"s" * 16
OWNER = Owner("http://127.0.0.1:9", "r", "p")


def spool_in(folder, bytes_max=10**6) -> Spool:
    return Spool.create(folder, SOURCE, bytes_max, OWNER)


def batches(n: int) -> list[Spooled]:
    return [Spooled(seq, seq + 1, bytes([seq]) * (seq * 7 % 40)) for seq in range(n)]


def filled(folder, n: int) -> bytes:
    spool = spool_in(folder)
    for batch in batches(n):
        spool.append(batch)
    [segment] = folder.glob("*/*.segment")
    return segment.read_bytes()


def test_batches_come_back_in_order_and_leave_nothing(tmp_path):
    spool = spool_in(tmp_path)
    for batch in batches(5):
        spool.append(batch)
    got = []
    while (batch := spool.first()) is not None:
        got.append(batch)
        spool.done()
    spool.close()
    assert got == batches(5)
    assert not list(tmp_path.iterdir())


def test_batches_written_while_others_are_read_come_after_them(tmp_path):
    spool = spool_in(tmp_path)
    spool.append(Spooled(0, 1, b"a"))
    assert spool.first() == Spooled(0, 1, b"a")
    spool.append(Spooled(1, 1, b"b"))
    spool.done()
    assert spool.first() == Spooled(1, 1, b"b")


def test_cut_anywhere_it_gives_an_exact_prefix(tmp_path):
    whole = filled(tmp_path, 6)
    for cut in range(len(whole)):
        got = list(frames_of(whole[:cut]))
        assert got == batches(6)[: len(got)]


def test_with_any_bit_flipped_it_loses_one_batch_at_most_and_invents_none(tmp_path):
    whole = filled(tmp_path, 4)
    for at in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            got = list(frames_of(bytes(damaged)))
            assert set(got) <= set(batches(4))
            assert len(got) >= 3


@given(st.binary(max_size=2000))
def test_junk_holds_no_batch(junk):
    assert list(frames_of(junk)) == []


def test_a_folder_has_one_owner(tmp_path):
    spool = spool_in(tmp_path)
    with pytest.raises(BlockingIOError):
        Spool.adopt(spool.folder, 10**6)
    spool.append(Spooled(0, 1, b"x"))
    spool.close()
    assert Spool.adopt(spool.folder, 10**6).first() == Spooled(0, 1, b"x")


def test_over_its_limit_it_says_so_and_keeps_what_it_has(tmp_path):
    spool = spool_in(tmp_path, 250)
    spool.append(Spooled(0, 1, b"x" * 100))
    with pytest.raises(SpoolFull):
        spool.append(Spooled(1, 1, b"y" * 100))
    assert spool.first() == Spooled(0, 1, b"x" * 100)
