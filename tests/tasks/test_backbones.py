"""Every image backbone in both kinds of model: built, trained on any mesh, counted, planned, and its fields checked."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from backbones import OTHER_BACKBONES, TINY

from wenlan_jax.core import step, trees
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.parallel import partition
from wenlan_jax.tasks import experiment, remat
from wenlan_jax.tasks.batch import zeros
from wenlan_jax.tasks.single_tower.batch import objective_spec
from wenlan_jax.tasks.single_tower.task import SingleTowerTask
from wenlan_jax.tasks.two_tower import backbones
from wenlan_jax.training import model_flops
from wenlan_jax.training import setup as runs

Make = Callable[..., experiment.Config]
Batch = Callable[..., dict[str, np.ndarray]]
PACKAGE = Path(experiment.__file__).parents[1]
SPLIT = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}


def taken(config: experiment.Config, devices: int, batches: list[dict[str, np.ndarray]]) -> list[float]:
    """The losses of steps from one start on some devices."""
    current = runs.set_up(config, jax.devices()[:devices])
    train = jax.jit(lambda state, batch: step.train_step(current.recipe, state, batch))
    state, losses = runs.fresh_state(current), []
    for batch in batches:
        state, metrics = train(state, meshes.to_devices(current.mesh, batch))
        losses.append(float(metrics["loss"]))
    return losses


NEGATIVES = {"contrast__in_batch_negatives": True}
"""Without them the first loss has no negative, as the banks are empty."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit, scanned", "resnet, scanned"])
def test_eight_devices_train_as_one_with_and_without_recomputation(name: str, tiny: Make, make_batch: Batch) -> None:
    one = tiny(**TINY[name], **NEGATIVES)
    field = f"{backbones.of(one.model).path}.remat"
    eight = remat.with_choice(tiny(**TINY[name], **NEGATIVES, **SPLIT), {field: True})
    batches = [make_batch(one, seed) for seed in (0, 0, 0)]
    few, many = taken(one, 1, batches), taken(eight, 8, batches)
    np.testing.assert_allclose(few, many, rtol=2e-3)
    np.testing.assert_allclose(few[:1], many[:1], rtol=1e-5)
    assert len({round(loss, 3) for loss in few}) == len(few), "the steps learn something"


def gradient(config: experiment.Config, params: Any, batch: dict[str, np.ndarray]) -> tuple[float, dict[str, Any]]:
    """The loss of a batch, and its gradient under the names of exports, in which layers of scans are apart."""
    from wenlan_jax.convert.brivl import brivl_table
    from wenlan_jax.convert.rules import to_flax, to_torch, unflatten

    current = runs.set_up(config, jax.devices()[:1])
    state, table = runs.fresh_state(current), brivl_table(backbone=config.model.image.architecture)
    template = {tower: {"params": tree} for tower, tree in current.shapes.params.items()}
    leaves = unflatten(to_flax(to_torch(params, table), table, template).leaves)
    state = state.replace(params={tower: tree["params"] for tower, tree in leaves.items()})
    done = jax.jit(lambda s, b: (lambda d: (d.metrics["loss"], d.grads))(step.forward_backward(current.recipe, s, b)))
    loss, grads = done(state, batch)
    flat = {tower: {"params": jax.tree.map(np.asarray, tree)} for tower, tree in grads.items()}
    return float(loss), to_torch(flat, table)


@pytest.mark.slow
def test_loops_over_layers_change_nothing(tiny: Make, make_batch: Batch) -> None:
    plain, scanned = (tiny(**{**TINY[name], "task": "clip", "model__freeze": ()}) for name in ("vit", "vit, scanned"))
    state = runs.fresh_state(runs.set_up(plain, jax.devices()[:1]))
    params = {tower: {"params": jax.tree.map(np.asarray, tree)} for tower, tree in state.params.items()}
    batch = make_batch(plain)
    (loss, one), (same, other) = gradient(plain, params, batch), gradient(scanned, params, batch)
    np.testing.assert_allclose(loss, same, rtol=1e-5)
    assert one.keys() == other.keys()
    for key, leaf in one.items():
        np.testing.assert_allclose(other[key], leaf, atol=1e-4 * max(1e-3, np.abs(leaf).max()), err_msg=key)


@pytest.mark.parametrize("name", TINY)
def test_every_leaf_has_a_rule_and_layers_are_split_over_both_axes(name: str, tiny: Make) -> None:
    current = runs.set_up(tiny(**TINY[name], **SPLIT))
    places = trees.flatten(current.shardings)
    split = {leaf: place.spec for leaf, place in places.items() if "image/backbone/layers_" in leaf}
    assert bool(split) == name.startswith("vit")
    for leaf, spec in split.items():
        if leaf.startswith("params/") and partition.re.search(r"(query|key|value|linear1|out|linear2)/kernel$", leaf):
            assert {"tensor", "fsdp"} <= {axis for axis in spec if axis}, leaf


@pytest.mark.parametrize("name", OTHER_BACKBONES)
def test_state_holds_what_the_backbone_has(name: str, tiny: Make) -> None:
    current = runs.set_up(tiny(**TINY[name]), jax.devices()[:1])
    names = {leaf.split("/")[2] for leaf in trees.flatten(current.shapes.params) if "image/backbone/" in leaf}
    stats = trees.flatten(current.shapes.batch_stats)
    assert bool(stats) == backbones.of(current.config.model).batch_norm == name.startswith("resnet")
    assert names and all(leaf.split("/")[2] in names for leaf in stats)


def vit_flops(config: experiment.Config, pairs: int, trained: bool) -> int:
    """Of one more layer: forward in both encoders, and twice that for gradients of the query encoder."""
    vit, tokens = config.model.image.vit, (config.data.image_size // config.model.image.vit.patch) ** 2
    tokens += 1 + vit.registers
    matrices = 2 * pairs * tokens * (4 * vit.width**2 + 2 * vit.width * vit.feed_forward)
    attention = 2 * 2 * pairs * tokens**2 * vit.width
    return (4 if trained else 2) * (matrices + attention)


def test_a_layer_of_the_vision_transformer_costs_its_matrices(tiny: Make, make_batch: Batch) -> None:
    batch = make_batch(tiny())
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}

    def counted(layers: int, **changes: Any) -> float:
        config = tiny(**{**TINY["vit"], "model__image__vit__layers": layers, **changes})
        return model_flops.of_step(config, shapes)

    one, config = counted(3), tiny(**TINY["vit"])
    assert counted(4) - one == vit_flops(config, len(batch["id"]), trained=True)
    assert counted(3, model__image__vit__remat=True, model__image__vit__scan_segments=(3,)) == one
    frozen = {"model__freeze": ("image/backbone/",)}
    assert counted(4, **frozen) - counted(3, **frozen) == vit_flops(config, len(batch["id"]), trained=False)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "vit",
            {"data__image_size": 30},
            "data.image_size: 30 is no multiple of model.image.vit.patch, 4; take 28 or 32",
        ),
        ("vit", {"model__image__vit__heads": 5}, "model.image.vit.heads: must divide model.image.vit.width"),
        ("vit", {"model__image__vit__scan_segments": (1, 1)}, "model.image.vit.scan_segments: must sum to"),
        ("resnet", {"model__image__resnet__blocks": ()}, "model.image.resnet.blocks: at least one stage"),
        ("efficientnet", {"model__image__backbone__stages": ((3, 1),)}, "model.image.backbone.stages: five numbers"),
        ("efficientnet", {"model__image__architecture": "swin"}, "model.image.architecture: one of efficientnet, vit"),
    ],
)
def test_faults_of_fields_are_named(name: str, changes: dict[str, Any], message: str, tiny: Make) -> None:
    with pytest.raises(experiment.ConfigError) as error:
        tiny(**{**TINY[name], **changes})
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["efficientnet", "vit", "resnet"])
def test_fields_of_the_other_backbones_are_not_read(name: str, tiny: Make) -> None:
    """So that a sweep can change the architecture alone."""
    others = {
        "vit": {"model__image__vit__heads": 7, "model__image__vit__patch": 5},
        "resnet": {"model__image__resnet__blocks": ()},
        "efficientnet": {"model__image__backbone__stages": ((3, 1),)},
    }
    wrong = {field: value for other, fields in others.items() if other != name for field, value in fields.items()}
    assert image_shapes(tiny(**{**wrong, **TINY[name]})) == image_shapes(tiny(**TINY[name]))


def image_shapes(config: experiment.Config) -> dict[str, Any]:
    current = runs.set_up(config, jax.devices()[:1])
    return {name: leaf.shape for name, leaf in trees.flatten(current.shapes.params["image"]).items()}


def test_groups_of_batch_normalisation_concern_only_who_has_it(tiny: Make) -> None:
    odd = {"model__image__batch_norm__group_size": 3}
    assert runs.set_up(tiny(**TINY["vit"], **odd), jax.devices()[:1]).recipe.unit == 1
    whole = {"model__image__batch_norm__mode": "batch", "train__accumulation": 2}
    tiny(**TINY["vit"], **whole)
    for changes, message in ((odd, "batch_norm.group_size: must divide"), (whole, "statistics of the whole batch")):
        with pytest.raises(experiment.ConfigError, match=message):
            tiny(**TINY["resnet"], **changes)


def test_patterns_that_freeze_another_backbone_are_refused(tiny: Make) -> None:
    for name in ("vit", "resnet"):
        usual = {**TINY[name], "model__freeze": experiment.Config().model.freeze[:1]}
        with pytest.raises(step.FreezeError, match=r"no parameter matches 'image/backbone/\(conv_stem"):
            runs.set_up(tiny(**usual), jax.devices()[:1])


def test_a_frozen_resnet_keeps_its_statistics(tiny: Make, make_batch: Batch) -> None:
    config = tiny(**TINY["resnet"])
    current = runs.set_up(config, jax.devices()[:1])
    before = runs.fresh_state(current)
    stats = trees.flatten(jax.device_get(before.batch_stats))
    after, _ = jax.jit(lambda s, b: step.train_step(current.recipe, s, b))(before, make_batch(config))
    changed = {name for name, leaf in trees.flatten(after.batch_stats).items() if not np.array_equal(leaf, stats[name])}
    assert changed == {name for name in stats if "stem_bn" not in name}


MAP = {
    "task": "mlmm",
    "model__image__batch_norm__mode": "frozen",
    "single__width": 16,
    "single__layers": 1,
    "single__heads": 2,
    "single__feed_forward": 16,
    "single__regions__features": "map",
    "single__regions__boxes": "grid",
    "single__regions__grid": 2,
    "pretrain__objectives": ("mlm",),
    "pretrain__weights": (1.0,),
}


@pytest.mark.parametrize(("name", "width"), [("vit", 16), ("resnet", 32)])
def test_the_single_tower_pools_regions_on_any_map(name: str, width: int, tiny: Make) -> None:
    changes = {**TINY[name], **MAP, "model__freeze": ("image/",), "single__regions__width": width}
    current = runs.set_up(tiny(**changes), jax.devices()[:1])
    assert set(current.shapes.params) == {"single", "image"}
    task = current.recipe.task
    assert isinstance(task, SingleTowerTask)
    batch = zeros(objective_spec(current.config, "itm", 2, current.config.pretrain.text_buckets[0], 3))
    features = jax.eval_shape(task.tower.features, current.shapes.params, current.shapes.batch_stats, batch)
    assert features.shape == (2, 3, width)
    with pytest.raises(experiment.ConfigError, match=rf"single\.regions\.width: 9, .* has {width} channels; set it to"):
        runs.set_up(tiny(**{**changes, "single__regions__width": 9}), jax.devices()[:1])


def test_what_is_recomputed_is_a_field_of_the_backbone_in_use(tiny: Make) -> None:
    for name in ("efficientnet", "vit", "resnet"):
        config = tiny(**TINY[name])
        (field,) = (field for field in remat.of(config) if "encoder" not in field and "text" not in field)
        assert field == f"{backbones.of(config.model).path}.remat"
        assert remat.text(remat.with_choice(config, {field: True})) == "image backbone"


def test_nothing_but_the_registry_asks_which_backbone_it_is() -> None:
    """A comparison with a name elsewhere is a place that the next backbone must touch."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and ".architecture" in ast.unparse(node):
                named = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
                if named & set(backbones.BACKBONES):
                    found.add(path.relative_to(PACKAGE).as_posix())
    assert found == set()
