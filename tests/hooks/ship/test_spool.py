"""The spool gives back exactly what was written, or less; never something else."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainvitals.ship import segments
from trainvitals.ship.segments import Spooled, frame_of, frames_of
from trainvitals.ship.spool import Owner, Spool, SpoolFull

SECTOR_BYTES = 512
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
    for bit in range(8 * len(whole)):
        got = list(frames_of(flipped(whole, bit)))
        assert set(got) <= set(batches(4))
        assert len(got) >= 3


def flipped(whole: bytes, *bits: int) -> bytes:
    damaged = bytearray(whole)
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_with_any_two_bits_flipped_it_loses_two_batches_at_most_and_invents_none(tmp_path):
    whole = filled(tmp_path, 4)
    for bits in combinations(range(8 * len(whole)), 2):
        got = list(frames_of(flipped(whole, *bits)))
        assert set(got) <= set(batches(4))
        assert len(got) >= 2


def test_with_any_two_sectors_swapped_it_loses_what_was_in_them_and_invents_none():
    written = [Spooled(seq, 1, bytes([seq]) * (seq * 37 % 700)) for seq in range(24)]
    frames = [frame_of(batch, b"thisfile") for batch in written]
    ends = [0, *(sum(map(len, frames[: n + 1])) for n in range(len(frames)))]
    whole = b"".join(frames)
    sectors = [whole[at : at + SECTOR_BYTES] for at in range(0, len(whole), SECTOR_BYTES)]
    for first, second in combinations(range(len(sectors)), 2):
        moved = sectors.copy()
        moved[first], moved[second] = moved[second], moved[first]
        got = frames_of(b"".join(moved))
        assert set(got) <= set(written)
        for batch, (begin, end) in zip(written, pairwise(ends), strict=True):
            touched = range(begin // SECTOR_BYTES, (end - 1) // SECTOR_BYTES + 1)
            # A shorter last sector moves all that is behind the first one.
            is_whole = second < len(sectors) - 1 and not {first, second} & {*touched}
            assert batch in got or not is_whole


def test_a_build_that_checks_no_checksums_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "_crc", lambda *_: 0)
    with pytest.raises(AssertionError):
        test_with_any_bit_flipped_it_loses_one_batch_at_most_and_invents_none(tmp_path)
    with pytest.raises(AssertionError):
        test_with_any_two_sectors_swapped_it_loses_what_was_in_them_and_invents_none()


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


def test_a_build_without_a_limit_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(Spool, "limit", lambda _: 10**12)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_over_its_limit_it_says_so_and_keeps_what_it_has(tmp_path)
