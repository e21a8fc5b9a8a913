"""InfoNCE against a plain PyTorch-free NumPy computation and against torch autograd on the released formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from wenlan_jax.config import sections
from wenlan_jax.core import bank as ring
from wenlan_jax.losses import contrastive
from wenlan_jax.parallel import mesh as meshes

N, DIM, CAPACITY, BATCH = 6, 8, 10, 4
SCALE = 1 / 0.07


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=(*shape, DIM)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def filled_bank(rng: np.random.Generator, pushes: int = 4) -> ring.Bank:
    """A bank whose capacity its batch does not divide, ids 0, 1, 2, ..."""
    bank = ring.create(CAPACITY, BATCH, DIM)
    for step in range(pushes):
        ids = np.arange(step * BATCH, (step + 1) * BATCH, dtype=np.int32)
        bank = ring.push(bank, unit(rng, BATCH), ids, step)
    return bank


def entries(bank: ring.Bank) -> tuple[np.ndarray, np.ndarray]:
    valid = np.asarray(ring.valid(bank))
    return np.asarray(bank.keys)[valid], np.asarray(bank.ids)[valid]


@pytest.mark.parametrize("mask", [True, False])
def test_bank_loss_is_minus_log_softmax_over_own_key_and_bank(mask: bool) -> None:
    rng = np.random.default_rng(0)
    queries, keys, bank = unit(rng, N), unit(rng, N), filled_bank(rng)
    ids = np.array([100, 15, 102, 14, 104, 7], np.int32)  # 15, 14 and 7 are in the bank
    found = contrastive.info_nce(queries, keys, ids, jnp.float32(SCALE), bank=bank, mask_false_negatives=mask)
    stored, stored_ids = entries(bank)
    expected, correct, masked = 0.0, 0, 0
    for query, key, identity in zip(queries.astype(np.float64), keys, ids, strict=True):
        negatives = SCALE * stored @ query
        same = stored_ids == identity
        if mask:
            masked += same.sum()
            negatives = negatives[~same]
        own = SCALE * key @ query
        expected += np.log(np.exp(own) + np.exp(negatives).sum()) - own
        correct += own > negatives.max()
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    assert (float(found.correct), float(found.masked)) == (correct, masked)
    assert masked == (3 if mask else 0)


def test_an_empty_bank_gives_no_loss_and_finite_gradients() -> None:
    rng = np.random.default_rng(1)
    queries, keys, bank = unit(rng, N), unit(rng, N), ring.create(CAPACITY, BATCH, DIM)

    def loss(q: jax.Array) -> jax.Array:
        ids = jnp.arange(N, dtype=jnp.int32)
        return contrastive.info_nce(q, keys, ids, jnp.float32(SCALE), bank=bank, mask_false_negatives=True).loss

    value, gradient = jax.value_and_grad(loss)(queries)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_in_batch_keys_join_the_denominator_once() -> None:
    rng = np.random.default_rng(2)
    queries, keys, bank = unit(rng, N), unit(rng, N), filled_bank(rng)
    ids = np.array([50, 51, 50, 52, 53, 54], np.int32)  # rows 0 and 2 show the same image
    found = contrastive.info_nce(
        queries, keys, ids, jnp.float32(SCALE), bank=bank, batch_keys=keys, batch_ids=ids,
        positive_rows=jnp.arange(N), mask_false_negatives=True,
    )  # fmt: skip
    stored, _ = entries(bank)
    logits = SCALE * np.concatenate([keys, stored]) @ queries.T.astype(np.float64)
    logits[2, 0] = logits[0, 2] = -np.inf
    expected = sum(np.log(np.exp(logits[:, i]).sum()) - logits[i, i] for i in range(N))
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    assert float(found.masked) == 2


def test_loss_and_gradients_match_torch_on_the_released_formula_with_multi_label() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    top_k = 4
    image_q, text_q, image_k, text_k = (unit(rng, N) for _ in range(4))
    image_bank, text_bank = filled_bank(rng), filled_bank(rng)
    ids = np.arange(500, 500 + N, dtype=np.int32)

    def ours(image: jax.Array, text: jax.Array) -> jax.Array:
        positives = contrastive.mutual_top_k(image_k, text_k, image_bank, text_bank, top_k)
        shared = {"positives": positives, "mask_false_negatives": True}
        i2t = contrastive.info_nce(image, text_k, ids, jnp.float32(SCALE), bank=text_bank, **shared)
        t2i = contrastive.info_nce(text, image_k, ids, jnp.float32(SCALE), bank=image_bank, **shared)
        return (i2t.loss + t2i.loss) / N

    value, gradients = jax.value_and_grad(ours, argnums=(0, 1))(image_q, text_q)

    images, texts = (torch.tensor(x, requires_grad=True) for x in (image_q, text_q))
    stored = {"image": torch.tensor(entries(image_bank)[0]), "text": torch.tensor(entries(text_bank)[0])}
    near = {
        name: torch.zeros(N, CAPACITY).scatter(1, (torch.tensor(keys) @ stored[name].T).topk(top_k, dim=1)[1], 1)
        for name, keys in (("image", image_k), ("text", text_k))
    }
    positives = torch.cat([torch.ones(N, 1), near["image"] * near["text"]], dim=1)
    assert positives[:, 1:].sum() > 0

    def one_way(q: torch.Tensor, own: np.ndarray, bank: torch.Tensor) -> torch.Tensor:
        logits = torch.cat([(q * torch.tensor(own)).sum(1, keepdim=True), q @ bank.T], dim=1) * SCALE
        return -(torch.log_softmax(logits, dim=1) * positives).sum() / N

    total = one_way(images, text_k, stored["text"]) + one_way(texts, image_k, stored["image"])
    total.backward()
    np.testing.assert_allclose(value, total.item(), rtol=1e-5)
    np.testing.assert_allclose(gradients[0], images.grad.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradients[1], texts.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_top_k_of_a_partly_filled_bank_names_no_empty_entry() -> None:
    rng = np.random.default_rng(4)
    bank = filled_bank(rng, pushes=1)
    positives = contrastive.mutual_top_k(unit(rng, N), unit(rng, N), bank, bank, CAPACITY)
    np.testing.assert_array_equal(positives, np.broadcast_to(ring.valid(bank), positives.shape))


@pytest.mark.parametrize("masks", [True, False])
def test_a_bank_on_eight_devices_gives_the_loss_and_gradient_of_one(masks: bool) -> None:
    """With false negatives, extra positives, entries that do not count, and an id that stands in two rows."""
    rng = np.random.default_rng(11)
    queries, positive_keys, batch = unit(rng, 8), unit(rng, 8), 16
    bank = ring.create(40, batch, DIM)
    for step in range(4):
        bank = ring.push(bank, unit(rng, batch), np.arange(step * batch, (step + 1) * batch, dtype=np.int32) % 60, step)
    ids = np.array([100, 15, 59, 14, 0, 7, 33, 34], np.int32)
    positives = (rng.random((8, *bank.ids.shape)) < 0.1) & np.asarray(ring.valid(bank))
    mesh = meshes.create(sections.MeshConfig(data=2, fsdp=2, replica=2))
    at = {"keys": P(None, meshes.BATCH_AXES), "ids": P(None, meshes.BATCH_AXES)}
    spread = bank.replace(
        **{name: jax.device_put(getattr(bank, name), NamedSharding(mesh, spec)) for name, spec in at.items()}
    )

    def loss(queries: jax.Array, bank: ring.Bank, mesh: Mesh | None) -> tuple[jax.Array, contrastive.InfoNCE]:
        found = contrastive.info_nce(
            queries,
            positive_keys,
            ids,
            jnp.float32(SCALE),
            bank=bank,
            positives=positives,
            mask_false_negatives=masks,
            mesh=mesh,
        )
        return found.loss, found

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)
    (_, one), one_gradient = gradient(queries, bank, None)
    (_, many), many_gradient = gradient(jax.device_put(queries, meshes.batch_sharding(mesh)), spread, mesh)
    np.testing.assert_allclose(many.loss, one.loss, rtol=1e-6)
    assert (many.correct, many.masked, many.extra_positives) == (one.correct, one.masked, one.extra_positives)
    assert float(one.extra_positives) == positives.sum() > 0
    assert (float(one.masked) > 0) == masks
    np.testing.assert_allclose(many_gradient, one_gradient, rtol=1e-4, atol=1e-6)
