"""The search for duplicates: hashes, keys and decisions against brute force."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from wenlan_jax.prepare.clean import image_checks, options, rules, search, signatures
from wenlan_jax.prepare.clean.signatures import EVALUATION, PROTECTED, TRAINING

LAYOUT = signatures.SignatureLayout.of(options.CleanOptions())


def image_table(count: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Rows in clusters whose members differ in up to 16 bits, with roles in order."""
    table = np.zeros(count, LAYOUT.images)
    centres = rng.integers(0, 2, (count // 4, 256)).astype(bool)
    bits = centres[rng.integers(0, len(centres), count)]
    for row in bits:
        row[rng.choice(256, rng.integers(0, 9), replace=False)] ^= True
    table["hash"] = np.packbits(bits, axis=1).view("<u8")
    table["role"] = np.sort(rng.choice([EVALUATION, PROTECTED, TRAINING], count, p=[0.2, 0.2, 0.6]))
    return table


def brute_force(table: np.ndarray[Any, Any], near: np.ndarray, leakage: bool) -> dict[int, int]:
    """{position: first witness} by looking at all pairs."""
    role, found = table["role"], {}
    for later in range(len(table)):
        for earlier in range(later):
            fits = (
                role[earlier] < TRAINING and role[later] == TRAINING
                if leakage
                else EVALUATION not in (role[earlier], role[later])
            )
            if fits and near[earlier, later]:
                found[later] = earlier
                break
    return found


@pytest.mark.parametrize("leakage", [False, True])
@pytest.mark.parametrize("distance", [0, 4, 10])
@pytest.mark.parametrize("memory", [1 << 12, 1 << 24])
def test_near_images_are_exactly_those_of_brute_force(
    tmp_path: Path, leakage: bool, distance: int, memory: int
) -> None:
    table = image_table(300, np.random.default_rng(0))
    bits = np.unpackbits(table["hash"].view(np.uint8), axis=1)
    near = (bits[:, None] != bits[None]).sum(axis=2) <= distance
    alive = np.random.default_rng(1).random(300) < 0.9
    near &= alive[:, None] & alive[None]
    found = search.find(rules.DropNearImages("x", leakage, distance, 255), table, alive, tmp_path / "scratch", memory)
    expected = brute_force(table, near, leakage)
    assert expected, "the test needs pairs"
    assert dict(found.tolist()) == expected
    assert not (tmp_path / "scratch").exists()


def test_blocks_do_not_change_a_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    table = image_table(200, np.random.default_rng(2))
    rule = rules.DropNearImages("x", False, 12, 255)
    whole = rule.decide(table)
    monkeypatch.setattr(rules, "_BLOCK", 7)
    assert (whole >= 0).sum() > 20
    np.testing.assert_array_equal(rule.decide(table), whole)


def test_images_that_differ_in_colour_alone_are_not_near() -> None:
    table = np.zeros(4, LAYOUT.images)
    table["role"] = TRAINING
    table["colours"][1, 7], table["colours"][2, 7], table["colours"][3] = 33, 32, 200
    np.testing.assert_array_equal(rules.DropNearImages("x", False, 10, 32).decide(table), [-1, -1, 0, -1])


def test_equal_digests_leave_the_first_and_colliding_keys_do_no_harm(tmp_path: Path) -> None:
    table = np.zeros(5, LAYOUT.images)
    table["digest"] = [(1, 1), (1, 2), (1, 1), (2, 2), (1, 2)]  # the first number is the key
    found = search.find(rules.DropEqual("x", "images"), table, np.ones(5, bool), tmp_path / "s", 1 << 20)
    assert found.tolist() == [(2, 0), (4, 1)]
    np.testing.assert_array_equal(rules.DropEqual("x", "images").decide(table), [-1, -1, 0, -1, 1])


def test_repeats_count_different_images() -> None:
    table = np.zeros(9, LAYOUT.texts)
    table["digest"] = [(1, 1)] * 4 + [(1, 2)] * 5
    table["image_digest"][:4] = [(n, 0) for n in range(4)]
    table["image_digest"][4:] = [(n % 2, 7) for n in range(5)]  # five records of two images
    rule = rules.DropRepeated("x", "digest", 3, distinct=False)
    np.testing.assert_array_equal(rule.decide(table), [0] * 4 + [-1] * 5)
    table["template"] = table["digest"]
    assert (
        rules.DropRepeated("x", "template", 3, distinct=True).decide(table) == -1
    ).all()  # one caption is no template


def test_near_texts_are_found(tmp_path: Path) -> None:
    pytest.importorskip("datasketch", reason="needs the extra `clean`")
    rng = np.random.default_rng(0)
    base = ["".join(chr(0x4E00 + c) for c in rng.integers(0, 2000, 60)) for _ in range(120)]
    edited = [text[:k] + "改" + text[k + 1 :] for text, k in zip(base, itertools.cycle((0, 59)), strict=False)]
    table = np.zeros(240, LAYOUT.texts)
    table["minhash"] = signatures.TextSigner(options.CleanOptions()).minhashes(base + edited)
    table["role"] = TRAINING
    found = search.find(rules.DropNearTexts("x", False, 0.8), table, np.ones(240, bool), tmp_path / "s", 1 << 20)
    assert dict(found.tolist()) == {120 + n: n for n in range(120)}


def test_minhash_estimates_jaccard() -> None:
    pytest.importorskip("datasketch", reason="needs the extra `clean`")
    rng = np.random.default_rng(0)
    signer = signatures.TextSigner(options.CleanOptions())
    for shared in (0, 20, 40, 60):
        common, *own = ("".join(chr(0x4E00 + c) for c in rng.integers(0, 9000, n)) for n in (shared, 80, 80))
        one, other = common + own[0], common + own[1]
        sets = [{text[k : k + 3] for k in range(len(text) - 2)} for text in (one, other)]
        exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        hashes = signer.minhashes([one, other])
        assert abs(float(signatures.similarity(hashes[0], hashes[1])) - exact) < 4 * 0.5 / np.sqrt(128)


def test_templates_mask_names_and_numbers() -> None:
    signer = signatures.TextSigner(options.CleanOptions())
    same = [signer.template(text) for text in ("《红楼梦》第12章在线阅读", "《西游记》第3章在线阅读")]
    np.testing.assert_array_equal(*same)
    assert same[0].any()
    assert not signer.template("一只猫在睡觉").any()  # nothing masked
    assert not signer.template("《红楼梦》12章").any()  # too little left
    assert (signer.template("《红楼梦》第12章全集下载") != same[0]).any()


@pytest.mark.parametrize("side", [8, 16])
def test_perceptual_hash_follows_its_definition(plant: Any, side: int) -> None:
    pixels = plant.image(3)
    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (4 * side,) * 2, interpolation=cv2.INTER_AREA)
    k, n = np.arange(4 * side), np.arange(4 * side)
    basis = np.cos(np.pi * (2 * n[None] + 1) * k[:, None] / (8 * side))
    basis[0] /= np.sqrt(2)  # the orthonormal cosine transform, up to a factor
    low = (basis @ grey.astype(np.float64) @ basis.T)[:side, :side].ravel()
    words = image_checks.perceptual_hash(pixels, side)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8)).astype(bool)
    np.testing.assert_array_equal(bits, low > np.median(low[1:]))


def test_copies_are_nearer_than_other_images(plant: Any) -> None:
    def bits(pixels: np.ndarray) -> np.ndarray:
        return np.unpackbits(image_checks.perceptual_hash(pixels, 16).view(np.uint8))

    originals = [plant.image(seed) for seed in range(30)]
    hashes = np.array([bits(pixels) for pixels in originals])
    for pixels, own in zip(originals, hashes, strict=True):
        smaller = cv2.resize(pixels, (72, 72), interpolation=cv2.INTER_AREA)
        copy = cv2.imdecode(np.frombuffer(plant.jpeg(smaller, 70), np.uint8), cv2.IMREAD_COLOR)[..., ::-1].copy()
        assert (bits(copy) != own).sum() <= 10
    apart = (hashes[:, None] != hashes[None]).sum(axis=2)[np.triu_indices(30, 1)]
    assert apart.min() > 60
