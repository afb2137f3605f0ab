"""Hashes, pairs, groups and leaks, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tf_simclr import duplicates
from tf_simclr.data.sources import array_source
from tf_simclr.duplicates import hashing
from tf_simclr.duplicates.groups import KINDS
from tf_simclr.duplicates.near import HashIndex, hamming

SIDE = hashing.SIDE


def patterns(count, seed=0, side=SIDE):
    """Images as distinct as photographs: sums of low frequencies, uint8 [count, side, side, 3]."""
    draws = np.random.default_rng(seed)
    place = (np.arange(side) + 0.5) / side
    waves = np.cos(np.pi * np.arange(12)[:, np.newaxis] * place)
    weights = draws.normal(size=[count, 3, 12, 12]) / (1 + np.arange(12))
    images = np.einsum("ncfg,fy,gx->nyxc", weights, waves, waves)
    low, high = images.min(axis=(1, 2, 3), keepdims=True), images.max(axis=(1, 2, 3), keepdims=True)
    return np.round((images - low) / (high - low) * 200).astype(np.uint8)


def plain_hash(image):
    """pHash from its definition: 32 x 32 means, a DCT by its sum, bits above the median."""
    height, width = (32 * len(line) for line in (image, image[0]))
    fine = np.repeat(np.repeat(image.astype(np.float64), 32, axis=0), 32, axis=1)
    means = fine.reshape(32, height // 32, 32, width // 32).mean(axis=(1, 3))
    points = np.arange(32)
    values = []
    for f in range(1, 9):
        for g in range(1, 9):
            rows = np.cos(np.pi * f * (2 * points + 1) / 64)
            columns = np.cos(np.pi * g * (2 * points + 1) / 64)
            values.append((means * rows[:, np.newaxis] * columns).sum() / 16)
    values = np.round(values, 6)
    return np.packbits(values > np.median(values)).view(np.uint64)[0]


def test_hashes_are_those_of_the_definition():
    grey = patterns(4)[..., 0]
    whole, mirrored, *crops = hashing.perceptual_hashes(grey)
    assert whole.tolist() == [plain_hash(image) for image in grey]
    assert mirrored.tolist() == [plain_hash(image[:, ::-1]) for image in grey]
    cuts = np.s_[4:-4, 4:-4], np.s_[:, 8:], np.s_[:, :-8], np.s_[8:], np.s_[:-8]
    assert [crop.tolist() for crop in crops] == [
        [plain_hash(image[cut]) for image in grey] for cut in cuts
    ]


@pytest.mark.parametrize("bits", [0, 3, 4, 6, 9, 15])
def test_all_near_pairs_are_found(bits):
    draws = np.random.default_rng(0)
    hashes = draws.integers(0, 2**64, 400, np.uint64)
    for _ in range(8):  # Change up to eight bits of some.
        flips = np.uint64(1) << draws.integers(0, 64, 300).astype(np.uint64)
        hashes = np.concatenate([hashes, hashes[-300:] ^ flips])
    queries = hashes[::7]
    distances = np.array(
        [[bin(int(a) ^ int(b)).count("1") for b in hashes] for a in queries], np.uint8
    )
    np.testing.assert_array_equal(hamming(queries[:, np.newaxis], hashes), distances)
    found = {
        tuple(map(int, pair))
        for part in HashIndex(hashes).near(queries, bits)
        for pair in zip(*part)
    }
    expected = {(i, j, distances[i, j]) for i, j in np.argwhere(distances <= bits)}
    assert found == expected


def test_counts_bits_with_any_numpy(monkeypatch):
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    values = np.array([0, 1, 2**63, 2**64 - 1, 0x123456789ABCDEF], np.uint64)
    expected = [bin(int(value)).count("1") for value in values]
    assert hamming(values, np.zeros(5, np.uint64)).tolist() == expected


def planted():
    """(images, the pattern that each is of, the kind it should be found as; None: kept)."""
    images = list(patterns(12))
    of, kinds = list(range(12)), [None] * 12
    for row in range(10):
        image = images[row]
        brighter = np.clip(image * 1.2, 0, 255).astype(np.uint8)
        copies = {
            "pixels": image.copy(),
            "hash": brighter,
            "mirrored": image[:, ::-1],
            "cropped": np.repeat(np.repeat(image[4:-4, 4:-4], 10, 0), 10, 1)[4::9, 4::9],
        }
        for kind, copy in copies.items():
            images.append(copy)
            of.append(row)
            kinds.append(kind)
    return np.stack(images), np.array(of), kinds


def test_planted_copies_are_found_as_what_they_are():
    images, of, kinds = planted()
    finder = duplicates.Finder(duplicates.hashes_of(array_source(images)), bits=6)
    groups = duplicates.groups_of(finder)
    assert groups.kept.tolist() == of.tolist()
    assert [KINDS[k] if k >= 0 else None for k in groups.kind] == kinds
    assert groups.of.tolist() == of.tolist()
    assert (groups.distance <= 6).all()


def test_images_of_one_colour_are_compared_exactly_only():
    images = np.stack([np.full([16, 16, 1], value, np.uint8) for value in (3, 4, 5, 3)])
    groups = duplicates.groups_of(
        duplicates.Finder(duplicates.hashes_of(array_source(images)), bits=15)
    )
    assert groups.kept.tolist() == [0, 1, 2, 0]


def test_a_chain_of_small_changes_is_no_group():
    """Each hash is one bit from the next: those further than the limit from the first are kept."""
    hashes = np.cumsum([0, *(2**i for i in range(20))], dtype=np.uint64)
    digests = np.stack([np.arange(21), np.arange(21)], axis=1).astype(np.uint64)
    others = np.random.default_rng(0).integers(0, 2**64, [6, 21], np.uint64)
    facts = duplicates.hashing.Hashes(
        files=np.zeros_like(digests),
        pixels=digests,
        hashes=hashes,
        mirrored=others[0],
        cropped=others[1:],
        flat=np.zeros(21, bool),
        bad=np.zeros(0, np.int64),
    )
    groups = duplicates.groups_of(duplicates.Finder(facts, bits=6))
    assert groups.kept.tolist() == [row // 7 * 7 for row in range(21)]


def test_a_thousand_equal_images_are_one_group_and_a_short_page():
    images = np.repeat(patterns(1, side=16), 1000, axis=0)
    source = array_source(images)
    hashes = duplicates.hashes_of(source)
    groups = duplicates.groups_of(duplicates.Finder(hashes, bits=6))
    assert not groups.kept.any()
    findings = duplicates.Findings(source, groups, hashes.bad)
    assert len(findings.as_csv().splitlines()) == 1 + 1000
    assert len(findings.exclude_list().splitlines()) == 999
    page = duplicates.contact_sheet(findings, ["<b>"])
    assert page.count("<img") == 8 and "and 992 more" in page and "&lt;b&gt;" in page


def test_leaks_are_named_once_and_take_their_copies_along():
    images, of, _ = planted()
    train = duplicates.Finder(duplicates.hashes_of(array_source(images)), bits=6)
    groups = duplicates.groups_of(train)
    # A training image mirrored, one that is new, and an exact copy of a copy.
    test = np.stack([images[2][:, ::-1], *patterns(1, seed=5), images[13]])
    leaks, leaked = duplicates.leaks_of(train, groups, duplicates.hashes_of(array_source(test)))
    assert [(leak.row, of[leak.of]) for leak in leaks] == [(0, 2), (2, of[13])]
    assert leaks[1].kind == "pixels"
    assert leaked.tolist() == [row for row in range(len(of)) if of[row] in (2, of[13])]


def test_an_encoder_adds_near_copies_and_outliers():
    draws = np.random.default_rng(0)
    h = draws.normal(size=[40, 16]).astype(np.float32)
    h[:30] = h[0] + 0.3 * h[:30]  # A crowd; the ten others are far from it.
    h[7] = h[3] * 2 + 1e-3
    groups = duplicates.Groups.of_none(40)
    near = duplicates.Neighborhood(h, groups, np.array([39]))
    unit = (h / np.linalg.norm(h, axis=1, keepdims=True))[:39].astype(np.float64)
    distances = 1 - unit @ unit.T
    np.fill_diagonal(distances, np.inf)
    ordered = np.sort(distances, axis=1)
    assert near.typical == pytest.approx(np.median(ordered[:, 0]), abs=1e-6)
    outliers = near.outliers(5)
    assert [row for row, _ in outliers] == np.argsort(-ordered[:, 4]).tolist()[:5]
    near.join(groups, 0.2)
    assert np.flatnonzero(groups.kept != np.arange(40)).tolist() == [7]
    assert groups.kept[7] == 3 and KINDS[groups.kind[7]] == "cosine"
    rows, of, _ = near.copies_in(h[[20, 35, 7]] * 3, 0.2)
    assert rows.tolist() == [0, 1, 2] and of[:2].tolist() == [20, 35] and of[2] in (3, 7)
