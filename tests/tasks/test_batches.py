"""What the makers of batches give is what the tasks declare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from saved_models import SINGLE, TWO_TOWERS

from wenlan_jax.tasks import registry
from wenlan_jax.tasks.batch import faults
from wenlan_jax.tasks.experiment import Config
from wenlan_jax.tasks.single_tower.batch import objective_spec, of_batch
from wenlan_jax.training import prepared

BOXES = {"model__image__regions__kind": "boxes", "model__image__regions__boxes": 3}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batches")


def made(config: Config, workdir: Path) -> tuple[Config, dict[str, Any]]:
    """The settled configuration and its first batch, without what the loop takes out."""
    workdir.mkdir(exist_ok=True)
    config, tokenizer = prepared.for_training(config, workdir)
    batch = registry.of(config).batches(config, tokenizer, tuple(range(config.train.batch_size)))(0)
    batch.pop("replaced", None)
    return config, batch


@pytest.mark.parametrize("changes", [{}, BOXES, {"data__enlarge": "accelerator"}], ids=["grid", "boxes", "enlarged"])
def test_two_towers(changes: dict[str, Any], tiny: Callable[..., Config], place: Path) -> None:
    config, batch = made(tiny(**TWO_TOWERS | changes | {"data__dir": str(place / "data")}), place / "two")
    assert faults(registry.of(config).batch_spec(config), batch) == []
    del batch["token_mask"]
    assert faults(registry.of(config).batch_spec(config), batch) == ["token_mask: missing"]


@pytest.mark.parametrize("objective", ["itm", "mlm"])
def test_the_single_tower(objective: str, tiny: Callable[..., Config], place: Path) -> None:
    changes = {"pretrain__objectives": (objective,), "pretrain__weights": (1.0,), "data__dir": str(place / "data")}
    config, batch = made(tiny(**SINGLE | changes), place / "single")
    assert of_batch(batch) == objective
    sizes = (config.train.batch_size, batch["token_ids"].shape[1], batch["region_mask"].shape[1])
    assert faults(objective_spec(config, objective, *sizes), batch) == []
