"""MinHash: documents that share most of their word 5-grams, found without comparing every pair.

A signature holds, for each of 128 hash functions, the smallest value over the document's 5-grams; two signatures agree in a place
with probability J, the Jaccard similarity of the two sets. Signatures are cut into 32 bands of 4; documents that agree in a whole band
are compared (similarity 0.8 is found with probability 1 - (1 - 0.8**4)**32 > 0.9999999).

Legend: D documents, H hash functions, M 5-grams of a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from stages.ingest.words import Hashes, gram_hashes

Signature = npt.NDArray[np.uint32]

SHINGLE_WORDS = 5
HASHES = 128
BANDS = 32
MIN_WORDS = 20  # shorter texts (a greeting, a heading) are alike by chance: only exact copies count there
_BLOCK = 2048
_MAX_COMPARED = 64  # of a band's bucket: with how many better-ranked documents each is compared


def signature_of(words_N: Hashes) -> Signature:
    """uint32[H]; all ones for a text of fewer than MIN_WORDS words."""
    smallest_H = np.full(HASHES, np.iinfo(np.uint32).max, dtype=np.uint32)
    if len(words_N) < MIN_WORDS:
        return smallest_H
    grams_M = np.unique(gram_hashes(words_N, SHINGLE_WORDS))
    multiplier_H, offset_H = _functions()
    for start in range(0, len(grams_M), _BLOCK):
        values_HM = multiplier_H[:, None] * grams_M[None, start : start + _BLOCK]
        values_HM += offset_H[:, None]
        np.minimum(smallest_H, (values_HM.min(axis=1) >> np.uint64(32)).astype(np.uint32), out=smallest_H)
    return smallest_H


def _functions() -> tuple[Hashes, Hashes]:
    """H -> (a * h + b) mod 2**64, upper half, a odd: fixed for all time, since signatures are cached."""
    generator = np.random.Generator(np.random.PCG64(20251213))
    numbers = generator.integers(0, 2**64, size=(2, HASHES), dtype=np.uint64)
    return numbers[0] | np.uint64(1), numbers[1]


def similarity(first_H: Signature, second_H: Signature) -> float:
    """Estimated Jaccard similarity; its standard error is at most 0.045."""
    return float(np.mean(first_H == second_H))


def near_duplicates(
    signatures: Sequence[Signature], rank: Sequence[int], threshold: float
) -> dict[int, tuple[int, float]]:
    """Document -> (the kept document it resembles, similarity), for each that is to go.

    rank: a total order of the documents, 0 is kept first; the outcome depends on it alone, not on the order of the list. A document
    goes if it resembles a kept one of better rank, so everything that goes has a kept twin.
    """
    if len(signatures) < 2:
        return {}
    by_rank = sorted(range(len(signatures)), key=lambda index: rank[index])
    stacked_DH = np.stack([signatures[index] for index in by_rank])
    better: dict[int, set[int]] = {}
    for second, first in _candidates(stacked_DH):
        better.setdefault(second, set()).add(first)
    gone: dict[int, tuple[int, float]] = {}
    for second in sorted(better):
        for first in sorted(better[second]):
            if by_rank[first] in gone:
                continue
            alike = similarity(stacked_DH[first], stacked_DH[second])
            if alike >= threshold:
                gone[by_rank[second]] = (by_rank[first], alike)
                break
    return gone


def _candidates(signatures_DH: npt.NDArray[np.uint32]) -> Iterator[tuple[int, int]]:
    """Pairs (worse, better) of positions that agree in a whole band; texts too short to compare are left out."""
    comparable_D = np.flatnonzero((signatures_DH != np.iinfo(np.uint32).max).any(axis=1))
    width = HASHES // BANDS
    for band in range(BANDS):
        rows = np.ascontiguousarray(signatures_DH[comparable_D, band * width : (band + 1) * width])
        keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * width))).ravel()
        _, bucket_D = np.unique(keys, return_inverse=True)
        order = np.argsort(bucket_D, kind="stable")
        ends = np.flatnonzero(np.diff(bucket_D[order])) + 1
        for bucket in np.split(order, ends):
            members = comparable_D[bucket].tolist()  # in order of rank: argsort is stable
            for place, second in enumerate(members):
                for first in members[: min(place, _MAX_COMPARED)]:
                    yield second, first
