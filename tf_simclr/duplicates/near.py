"""Pairs of perceptual hashes that differ in few bits, without comparing all with all.

Multi-index hashing: M. Norouzi, A. Punjani, D. J. Fleet, "Fast Search in Hamming Space with
Multi-Index Hashing", CVPR 2012. Of two hashes that differ in at most r bits, one of their four
16-bit parts differs in at most r // 4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

MOST_BITS = 15  # Beyond, most of the parts' 65,536 values are near.
_PARTS, _VALUES = 4, 2**16
_CANDIDATES = 2**21  # Compared at a time: some 100 MB.
_MASKS = (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F)
_ONES = np.array([bin(value).count("1") for value in range(_VALUES)], np.uint8)


def hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many bits of uint64 arrays differ, uint8."""
    differing = np.bitwise_xor(a, b)
    if hasattr(np, "bitwise_count"):  # NumPy 2.
        return np.bitwise_count(differing)
    # Sums of neighbouring bits, then of pairs and of fours; the product adds the bytes.
    odd, pairs, fours = (np.uint64(mask) for mask in _MASKS)
    one, two, four, top = map(np.uint64, (1, 2, 4, 56))
    counts = differing - ((differing >> one) & odd)
    counts = (counts & pairs) + ((counts >> two) & pairs)
    counts = (counts + (counts >> four)) & fours
    return ((counts * np.uint64(0x0101010101010101)) >> top).astype(np.uint8)


class HashIndex:
    """Hashes that can be searched; 48 bytes each, and 2 MiB."""

    def __init__(self, hashes: np.ndarray):
        """Sorts the four parts of `hashes`, uint64 [N]."""
        self._hashes = hashes
        self._orders, self._starts = [], []
        for values in _parts(hashes).T:
            # A radix sort, as there are 16 bits.
            self._orders.append(np.argsort(values.astype(np.uint16), kind="stable"))
            counts = np.bincount(values, minlength=_VALUES)
            self._starts.append(np.concatenate([[0], np.cumsum(counts)]))

    def near(
        self, queries: np.ndarray, bits: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields all pairs that differ in at most `bits` bits; some come several times.

        Args:
          queries: uint64 [M].
          bits: at most `MOST_BITS`.

        Yields:
          (positions in `queries`, positions in the hashes, int64; differing bits, uint8).
        """
        masks = np.flatnonzero(_ONES <= bits // _PARTS)
        for part, values in enumerate(_parts(queries).T):
            order, starts = self._orders[part], self._starts[part]
            near = values[:, np.newaxis] ^ masks  # [M, masks]
            first, counts = starts[near].ravel(), (starts[near + 1] - starts[near]).ravel()
            ends = np.cumsum(counts)
            done = 0
            # As many cells at a time as hold _CANDIDATES, but at least one.
            while done < len(ends):
                before = ends[done - 1] if done else 0
                until = max(int(np.searchsorted(ends, before + _CANDIDATES, "right")), done + 1)
                some = counts[done:until]
                cell = np.repeat(np.arange(done, until), some)
                within = np.arange(len(cell)) - np.repeat(ends[done:until] - some - before, some)
                query, key = cell // len(masks), order[first[cell] + within]
                distance = hamming(queries[query], self._hashes[key])
                close = distance <= bits
                if close.any():
                    yield query[close], key[close], distance[close]
                done = until


def _parts(hashes):
    return np.ascontiguousarray(hashes)[:, np.newaxis].view(np.uint16).astype(np.int64)
