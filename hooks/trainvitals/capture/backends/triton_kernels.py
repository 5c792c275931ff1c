# mypy: ignore-errors
# ruff: noqa: N803, SIM300 - constants of the compiler are in capitals, and compared as Triton reads
"""Triton kernels: the statistics of many parameter tensors in one launch per type of entry.

Comes in: tables of addresses and counts on the device; cuda.py builds them and is the only caller.
Goes out: rows of float32 statistics, and sums in float64, on the device.
Promise:  no atomics and a fixed order of additions: equal entries give equal bits.

The first stage (`moments`, `squares`, `changes`) reads each entry once: a program keeps one chunk
in registers and writes its partial sums, float64, shape (columns, chunks). The second stage
(`*_rows`) has one program per tensor, which merges the partial sums of its chunks in their order.
Within a chunk, entries are scaled by a power of two, which is exact, so that float32 squares
neither overflow nor vanish; deviations are taken from the chunk's own mean. Never
E[x²] − E[x]²: far from zero that subtracts two nearly equal numbers.

The arithmetic is tested in Triton's interpreter, and the kernels are compiled for two GPUs in the
tests. They were never run on hardware.
"""

import triton
import triton.language as tl


@triton.jit
def _place(owners, chunk_starts, counts, first_chunk, CHUNK: tl.constexpr):
    """Return this program's chunk, its tensor, its first entry, and its number of entries."""
    chunk = first_chunk + tl.program_id(0)
    tensor = tl.load(owners + chunk)
    start = (chunk - tl.load(chunk_starts + tensor)).to(tl.int64) * CHUNK
    return chunk, tensor, start, tl.minimum(tl.load(counts + tensor) - start, CHUNK).to(tl.int32)


@triton.jit
def _pointer(address, start, TYPE: tl.constexpr, ALIGNMENT: tl.constexpr):
    # Without the hint, the compiler reads one entry at a time.
    return tl.multiple_of(address.to(tl.pointer_type(TYPE)), ALIGNMENT) + start


@triton.jit
def _read(pointer, size, CHUNK: tl.constexpr):
    """Return a chunk; 0 beyond its `size`."""
    index = tl.arange(0, CHUNK)
    if size == CHUNK:  # a mask of unknown length would forbid wide reads
        x = tl.load(pointer + index)
    else:
        x = tl.load(pointer + index, mask=index < size, other=0)
    return x


@triton.jit
def _write(pointer, x, size, CHUNK: tl.constexpr):
    index = tl.arange(0, CHUNK)
    if size == CHUNK:
        tl.store(pointer + index, x)
    else:
        tl.store(pointer + index, x, mask=index < size)


@triton.jit
def _scale(most, WIDE: tl.constexpr):
    """Return a power of two that brings magnitudes up to `most` below 4; 1 for float64."""
    if WIDE == tl.float64:
        scale = most * 0 + 1
    else:
        exponent = most.to(tl.int32, bitcast=True) >> 23
        scale = (tl.maximum(254 - exponent, 1) << 23).to(tl.float32, bitcast=True)
    return scale


@triton.jit
def _change(old, new, size, WIDE: tl.constexpr, CHUNK: tl.constexpr):
    """Return the sum of squares and the sum of new − old, and the number of equal entries."""
    difference = new.to(WIDE) - old.to(WIDE)
    magnitude = tl.abs(difference)
    # NaN is left out here only; the sums below contain it.
    scale = _scale(tl.max(tl.where(magnitude < float("inf"), magnitude, 0)), WIDE)
    y = difference * scale
    inverse = 1 / scale.to(tl.float64)
    same = tl.sum(((new == old) & (tl.arange(0, CHUNK) < size)).to(tl.int32))
    return (
        tl.sum(y * y).to(tl.float64) * inverse * inverse,
        tl.sum(y).to(tl.float64) * inverse,
        same.to(tl.float64),
    )


@triton.jit(do_not_specialize=["first_chunk", "chunks"])
def moments(
    addresses,
    firsts,
    copies,
    owners,
    chunk_starts,
    counts,
    partials,
    first_chunk,
    chunks,
    TYPE: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    EXTRAS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Write eight partial sums of each chunk.

    With `EXTRAS`, also copy the chunk to its place in `copies` and write the sums of its change
    since `firsts`. An address of 0 means that it is not wanted.
    """
    chunk, tensor, start, size = _place(owners, chunk_starts, counts, first_chunk, CHUNK)
    address = tl.load(addresses + tensor)
    if address != 0:
        raw = _read(_pointer(address, start, TYPE, ALIGNMENT), size, CHUNK)
        x = raw.to(WIDE)
        inside = tl.arange(0, CHUNK) < size
        finite = inside & (tl.abs(x) < float("inf"))
        kept = tl.where(finite, x, 0)
        found = tl.sum(finite.to(tl.int32))
        n = found.to(tl.float64)
        scale = _scale(tl.max(tl.abs(kept)), WIDE)
        inverse = 1 / scale.to(tl.float64)
        y = kept * scale
        near = (tl.sum(y) / tl.maximum(found, 1).to(WIDE)).to(WIDE)
        # A float32 sum of large numbers is off; the small deviations from it are not.
        deviation = tl.where(finite, y - near, 0)
        off = tl.sum(deviation).to(tl.float64) / tl.maximum(n, 1)
        m2 = tl.sum(deviation * deviation).to(tl.float64) - n * off * off
        out = partials + chunk
        tl.store(out, n)
        tl.store(out + chunks, (near.to(tl.float64) + off) * inverse)
        tl.store(out + 2 * chunks, tl.maximum(m2, 0) * inverse * inverse)
        tl.store(out + 3 * chunks, tl.sum(tl.abs(y)).to(tl.float64) * inverse)
        tl.store(out + 4 * chunks, tl.min(tl.where(finite, x, float("inf"))).to(tl.float64))
        tl.store(out + 5 * chunks, tl.max(tl.where(finite, x, float("-inf"))).to(tl.float64))
        tl.store(out + 6 * chunks, tl.sum((inside & (x == 0)).to(tl.int32)).to(tl.float64))
        tl.store(out + 7 * chunks, (size - found).to(tl.float64))
        if EXTRAS:
            copy = tl.load(copies + tensor)
            if copy != 0:
                _write(_pointer(copy, start, TYPE, ALIGNMENT), raw, size, CHUNK)
            first = tl.load(firsts + tensor)
            if first != 0:
                old = _read(_pointer(first, start, TYPE, ALIGNMENT), size, CHUNK)
                square, total, _ = _change(old, raw, size, WIDE, CHUNK)
                tl.store(out + 8 * chunks, square)
                tl.store(out + 9 * chunks, total)


@triton.jit(do_not_specialize=["first_chunk", "chunks"])
def squares(
    addresses,
    owners,
    chunk_starts,
    counts,
    partials,
    first_chunk,
    chunks,
    TYPE: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Write the sum of squares of each chunk's finite entries, and the number of the others."""
    chunk, tensor, start, size = _place(owners, chunk_starts, counts, first_chunk, CHUNK)
    address = tl.load(addresses + tensor)
    if address != 0:
        x = _read(_pointer(address, start, TYPE, ALIGNMENT), size, CHUNK).to(WIDE)
        finite = tl.abs(x) < float("inf")
        kept = tl.where(finite, x, 0)
        scale = _scale(tl.max(tl.abs(kept)), WIDE)
        inverse = 1 / scale.to(tl.float64)
        y = kept * scale
        tl.store(partials + chunk, tl.sum(y * y).to(tl.float64) * inverse * inverse)
        tl.store(partials + chunks + chunk, (CHUNK - tl.sum(finite.to(tl.int32))).to(tl.float64))


@triton.jit(do_not_specialize=["first_chunk", "chunks"])
def changes(
    addresses,
    copies,
    owners,
    chunk_starts,
    counts,
    partials,
    first_chunk,
    chunks,
    TYPE: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Write the three sums of `_change` of each chunk since it was copied."""
    chunk, tensor, start, size = _place(owners, chunk_starts, counts, first_chunk, CHUNK)
    copy = tl.load(copies + tensor)
    if copy != 0:
        old = _read(_pointer(copy, start, TYPE, ALIGNMENT), size, CHUNK)
        address = tl.load(addresses + tensor)
        new = _read(_pointer(address, start, TYPE, ALIGNMENT), size, CHUNK)
        square, total, same = _change(old, new, size, WIDE, CHUNK)
        tl.store(partials + chunk, square)
        tl.store(partials + chunks + chunk, total)
        tl.store(partials + 2 * chunks + chunk, same)


@triton.jit
def _lanes(partials, at, end, column, chunks, other, WIDTH: tl.constexpr):
    index = at + tl.arange(0, WIDTH)
    return tl.load(partials + column * chunks + index, mask=index < end, other=other)


@triton.jit(do_not_specialize=["chunks"])
def moment_rows(
    addresses,
    firsts,
    chunk_starts,
    counts,
    partials,
    factor,
    rows,
    squares,
    chunks,
    EXTRAS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write a tensor's row: mean, std, min, max, abs_mean, l2, zero_share, nonfinite.

    With `EXTRAS` also distinct_rows, which is not measured here, and RMS and mean of the drift.
    `squares` receives Σx² of the finite entries and whether there are others, shape (2, tensors).
    """
    tensor = tl.program_id(0)
    begin, end = tl.load(chunk_starts + tensor), tl.load(chunk_starts + tensor + 1)
    inf = float("inf")
    n = tl.zeros([WIDTH], tl.float64)
    weighted, absolute, zeros = n, n, n
    nonfinite, drift_square, drift_sum = n, n, n
    low, high = n + inf, n - inf
    has_first = False
    if EXTRAS:
        has_first = tl.load(firsts + tensor) != 0
    for at in range(begin, end, WIDTH):
        k = _lanes(partials, at, end, 0, chunks, 0, WIDTH)
        n += k
        weighted += k * _lanes(partials, at, end, 1, chunks, 0, WIDTH)
        absolute += _lanes(partials, at, end, 3, chunks, 0, WIDTH)
        low = tl.minimum(low, _lanes(partials, at, end, 4, chunks, inf, WIDTH))
        high = tl.maximum(high, _lanes(partials, at, end, 5, chunks, -inf, WIDTH))
        zeros += _lanes(partials, at, end, 6, chunks, 0, WIDTH)
        nonfinite += _lanes(partials, at, end, 7, chunks, 0, WIDTH)
        if EXTRAS:
            drift_square += _lanes(partials, at, end, 8, chunks, 0, WIDTH)
            drift_sum += _lanes(partials, at, end, 9, chunks, 0, WIDTH)
    total = tl.sum(n)
    mean = tl.sum(weighted) / tl.maximum(total, 1)
    # Chan, Golub & LeVeque 1979, for all chunks at once: the mean is known by now.
    spread = tl.zeros([WIDTH], tl.float64)
    for at in range(begin, end, WIDTH):
        delta = _lanes(partials, at, end, 1, chunks, 0, WIDTH) - mean
        k = _lanes(partials, at, end, 0, chunks, 0, WIDTH)
        spread += _lanes(partials, at, end, 2, chunks, 0, WIDTH) + k * delta * delta
    m2 = tl.sum(spread)
    count = tl.load(counts + tensor).to(tl.float64)
    bad = tl.sum(nonfinite)
    known = tl.load(addresses + tensor) != 0
    square = m2 + total * mean * mean
    tl.store(squares + tensor, tl.where(known, square, 0))
    tl.store(squares + tl.num_programs(0) + tensor, tl.where(known & (bad > 0), 1.0, 0.0))
    nan = float("nan")
    by = tl.load(factor)
    unit = by * 0 + 1  # NaN if the step is skipped
    scaled = tl.where(known & (total > 0), by, nan)
    divisor = tl.maximum(total, 1)
    row = rows + tensor * COLUMNS
    tl.store(row, (mean * scaled).to(tl.float32))
    tl.store(row + 1, (tl.sqrt(m2 / divisor) * scaled).to(tl.float32))
    tl.store(row + 2, (tl.min(low) * scaled).to(tl.float32))
    tl.store(row + 3, (tl.max(high) * scaled).to(tl.float32))
    tl.store(row + 4, (tl.sum(absolute) / divisor * scaled).to(tl.float32))
    norm = tl.sqrt(square) * scaled
    # Rounding of the moments must not turn the norm of the largest float32 into infinity.
    largest = 3.4028234663852886e38
    norm = tl.where(norm * (1 - 1e-6) <= largest, tl.minimum(norm, largest), norm)
    tl.store(row + 5, norm.to(tl.float32))
    share = tl.sum(zeros) / tl.maximum(count, 1) * unit
    tl.store(row + 6, tl.where(known & (count > 0), share, nan).to(tl.float32))
    tl.store(row + 7, tl.where(known, bad * unit, nan).to(tl.float32))
    if EXTRAS:
        wanted = known & has_first & (count > 0)
        rms = tl.sqrt(tl.sum(drift_square) / tl.maximum(count, 1))
        tl.store(row + 8, nan)
        tl.store(row + 9, tl.where(wanted, rms, nan).to(tl.float32))
        drift = tl.sum(drift_sum) / tl.maximum(count, 1)
        tl.store(row + 10, tl.where(wanted, drift, nan).to(tl.float32))


@triton.jit(do_not_specialize=["chunks"])
def square_rows(addresses, chunk_starts, partials, squares, chunks, WIDTH: tl.constexpr):
    """Write the `squares` of `moment_rows`."""
    tensor = tl.program_id(0)
    begin, end = tl.load(chunk_starts + tensor), tl.load(chunk_starts + tensor + 1)
    square = tl.zeros([WIDTH], tl.float64)
    nonfinite = square
    for at in range(begin, end, WIDTH):
        square += _lanes(partials, at, end, 0, chunks, 0, WIDTH)
        nonfinite += _lanes(partials, at, end, 1, chunks, 0, WIDTH)
    known = tl.load(addresses + tensor) != 0
    bad = known & (tl.sum(nonfinite) > 0)
    tl.store(squares + tensor, tl.where(known, tl.sum(square), 0))
    tl.store(squares + tl.num_programs(0) + tensor, tl.where(bad, 1.0, 0.0))


@triton.jit(do_not_specialize=["chunks"])
def change_rows(copies, chunk_starts, counts, partials, squares, rows, chunks, WIDTH: tl.constexpr):
    """Write a tensor's row: RMS, RMS over the RMS before, mean, and the share that is unchanged.

    `squares` is that of `moment_rows` of the weights before.
    """
    tensor = tl.program_id(0)
    begin, end = tl.load(chunk_starts + tensor), tl.load(chunk_starts + tensor + 1)
    square = tl.zeros([WIDTH], tl.float64)
    total, same = square, square
    for at in range(begin, end, WIDTH):
        square += _lanes(partials, at, end, 0, chunks, 0, WIDTH)
        total += _lanes(partials, at, end, 1, chunks, 0, WIDTH)
        same += _lanes(partials, at, end, 2, chunks, 0, WIDTH)
    count = tl.load(counts + tensor).to(tl.float64)
    had = tl.load(squares + tensor)
    nan = float("nan")
    unit = tl.where((tl.load(copies + tensor) != 0) & (count > 0), 1.0, nan)
    divisor = tl.maximum(count, 1)
    changed = tl.sum(square)
    ratio = tl.where(had > 0, tl.sqrt(changed / tl.where(had > 0, had, 1)), nan)
    row = rows + tensor * 4
    tl.store(row, (tl.sqrt(changed / divisor) * unit).to(tl.float32))
    tl.store(row + 1, (ratio * unit).to(tl.float32))
    tl.store(row + 2, (tl.sum(total) / divisor * unit).to(tl.float32))
    tl.store(row + 3, (tl.sum(same) / divisor * unit).to(tl.float32))


@triton.jit(do_not_specialize=["tensors"])
def total(squares, factor, out, tensors, WIDTH: tl.constexpr):
    """Write Σx² of all tensors, NaN if one has a non-finite entry, and the number of these."""
    square = tl.zeros([WIDTH], tl.float64)
    nonfinite = square
    for at in range(0, tensors, WIDTH):
        square += _lanes(squares, at, tensors, 0, tensors, 0, WIDTH)
        nonfinite += _lanes(squares, at, tensors, 1, tensors, 0, WIDTH)
    by = tl.load(factor)
    bad = tl.sum(nonfinite)
    tl.store(out, tl.where(bad > 0, float("nan"), tl.sum(square)) * by * by)
    tl.store(out + 1, bad * (by * 0 + 1))
