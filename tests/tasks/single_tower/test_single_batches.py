"""Batches of the single tower: fields by objective, negatives, masks, equal on all hosts, faults named or replaced."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from wenlan_jax.data import loader
from wenlan_jax.data.mixture import MixturePart
from wenlan_jax.tasks.single_tower.input import batches
from wenlan_jax.tasks.single_tower.input.buckets import Shape
from wenlan_jax.tasks.single_tower.input.examples import ExampleError, ExamplePool
from wenlan_jax.tasks.single_tower.input.regions import RegionReadError
from wenlan_jax.tasks.single_tower.input.schedule import ScheduleError, StepKind

ITM = {"itm": 1.0}
RANK = {"rank": 1.0}


def _steps(maker: batches.SingleBatches, objective: str, count: int) -> list[tuple[int, StepKind, loader.HostBatch]]:
    """The first steps of an objective."""
    wanted = (step for step in itertools.count() if maker.mixture.cell(step).objective == objective)
    return [(step, maker.mixture.cell(step), maker(step)) for step in itertools.islice(wanted, count)]


def _shown(batch: loader.HostBatch) -> list[int]:
    """The row whose regions are in each place."""
    return batch["region_features"][:, 0, 0].astype(int).tolist()


def _same(one: loader.HostBatch, other: loader.HostBatch) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


COMMON = {"token_ids", "token_mask", "region_features", "region_boxes", "region_mask", "id", loader.REPLACED}
OWN = {
    "itm": {"match": ("int32", ())},
    "mlm": {
        "masked_places": ("int32", (4,)), "masked_ids": ("int32", (4,)), "masked_valid": ("bool", (4,))
    },
    "mrfr": {"region_masked": ("bool", (None,))},
    "mrc": {"region_masked": ("bool", (None,)), "region_classes": ("float16", (None, 5))},
}  # fmt: skip


@pytest.mark.parametrize("objective", OWN)
def test_the_documented_fields_in_the_shape_of_the_cell(toy: SimpleNamespace, objective: str) -> None:
    for _, cell, batch in _steps(toy.maker(), objective, 6):
        tokens, regions = cell.shape
        expected = {
            "token_ids": ("int32", (tokens,)),
            "token_mask": ("bool", (tokens,)),
            "region_features": ("float16", (regions, 6)),
            "region_boxes": ("float32", (regions, 4)),
            "region_mask": ("bool", (regions,)),
            "id": ("int32", ()),
            loader.REPLACED: ("bool", ()),
        }
        for name, (kind, shape) in OWN[objective].items():
            expected[name] = kind, tuple(regions if size is None else size for size in shape)
        found = {name: (array.dtype.name, array.shape[1:]) for name, array in batch.items()}
        assert found == expected
        assert {len(array) for array in batch.values()} == {4}


def test_text_regions_and_id_are_of_the_rows_of_the_schedule(toy: SimpleNamespace) -> None:
    maker = toy.maker()
    for step, cell, batch in _steps(maker, "mrfr", 12):
        rows = [row.row for row in maker.mixture.rows(step, range(4))]
        texts = [toy.read_text(ids[mask]) for ids, mask in zip(batch["token_ids"], batch["token_mask"], strict=True)]
        assert batch["id"].tolist() == _shown(batch) == rows
        assert [text[:4] for text in texts] == [f"{row:02}{cell.language}" for row in rows]
        assert batch["token_mask"].sum(1).tolist() == [8 + row % 5 for row in rows]
        assert batch["region_mask"].sum(1).tolist() == [1 + row % 4 for row in rows]


def test_texts_are_cut_to_their_length_in_a_longer_bucket(toy: SimpleNamespace) -> None:
    maker = toy.maker(recipe=toy.recipe(text_length=9), text_buckets=(16,))
    for _, _, batch in _steps(maker, "itm", 4):
        assert batch["token_ids"].shape == (4, 16)
        assert batch["token_mask"].sum(1).max() == 9


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_make_the_global_batch(toy: SimpleNamespace, hosts: int) -> None:
    maker = toy.maker(objectives={**toy.all, **RANK})
    seen = set()
    for step in range(60):
        whole = maker(step)
        seen.add(maker.mixture.cell(step).objective)
        for host in range(hosts):
            share = tuple(range(host, 4, hosts))
            mine = dataclasses.replace(pickle.loads(pickle.dumps(maker)), share=share)
            assert _same(mine(step), {name: array[list(share)] for name, array in whole.items()})
            assert mine.mixture.cell(step) == maker.mixture.cell(step)
    assert seen == {"itm", "mlm", "mrfr", "mrc", "rank"}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers(toy: SimpleNamespace, workers: int) -> None:
    maker = toy.maker()
    with loader.train_batches(maker, 3, workers, prefetch=2) as made:
        for step, batch in itertools.islice(made, 5):
            expected = maker(step)
            del expected[loader.REPLACED]
            assert _same(batch, expected)


def test_half_of_the_pairs_match_and_no_negative_is_the_own_image(toy: SimpleNamespace) -> None:
    twins = {row: row - 1 for row in range(1, 40, 2)}  # two records of every image
    maker = toy.maker((toy.Gallery(twins=twins),), objectives=ITM)
    matches, others, elsewhere = [], collections.Counter(), 0
    for step in range(600):
        batch, cell = maker(step), maker.mixture.cell(step)
        matches += batch["match"].tolist()
        for own, shown, match in zip(batch["id"].tolist(), _shown(batch), batch["match"].tolist(), strict=True):
            assert (own == shown) if match else (own // 2 != shown // 2)
            assert shown in cell.images
            others[shown] += not match
            elsewhere += shown not in cell.rows
        assert [toy.read_text(ids)[:2] for ids in batch["token_ids"]] == [f"{row:02}" for row in batch["id"]]
    assert stats.binomtest(sum(matches), len(matches), 0.5).pvalue > 1e-4
    assert set(others) == set(range(40))
    assert elsewhere, "images of texts of another length are negatives, too"


@pytest.mark.parametrize(("probability", "expected"), [(0.0, {0}), (1.0, {1}), (0.8, {0, 1})])
def test_the_share_of_matches_can_be_chosen(toy: SimpleNamespace, probability: float, expected: set[int]) -> None:
    maker = toy.maker(objectives=ITM, recipe=toy.recipe(match_probability=probability))
    found = [value for step in range(200) for value in maker(step)["match"].tolist()]
    assert set(found) == expected
    assert stats.binomtest(sum(found), len(found), probability).pvalue > 1e-4


def test_negatives_are_drawn_evenly(toy: SimpleNamespace) -> None:
    source = toy.Gallery(length=8, languages=("en",), tokens=_eight, regions=_one)
    maker = toy.maker((source,), objectives=ITM, recipe=toy.recipe(match_probability=0.0))
    found = collections.Counter(
        pair for batch in map(maker, range(700)) for pair in zip(batch["id"].tolist(), _shown(batch), strict=True)
    )
    assert len(found) == 8 * 7
    assert stats.chisquare(list(found.values())).pvalue > 1e-4


def _eight(row: int, language: str) -> int:
    return 8


def _one(row: int) -> int:
    return 1


def test_another_epoch_draws_other_masks_and_negatives(toy: SimpleNamespace) -> None:
    maker = toy.maker()
    for objective, name in (("itm", "match"), ("mlm", "masked_places"), ("mrfr", "region_masked")):
        drawn: dict[tuple[int, str, int], set[bytes]] = collections.defaultdict(set)
        for _, cell, batch in _steps(maker, objective, 120):
            for place, row in enumerate(batch["id"].tolist()):
                shown = batch["region_features"][place, 0, 0].tobytes() if objective == "itm" else b""
                drawn[row, cell.language, cell.shape.regions].add(batch[name][place].tobytes() + shown)
        several = [len(found) > 1 for (row, _, _), found in drawn.items() if row % 4 or objective != "mrfr"]
        assert np.mean(several) > 0.9


def test_masked_words_can_be_put_back(toy: SimpleNamespace) -> None:
    maker = toy.maker()
    hidden = 0
    for _, cell, batch in _steps(maker, "mlm", 40):
        assert batch["masked_valid"].any(axis=1).all()
        rows, _ = np.nonzero(batch["masked_valid"])
        places, ids = batch["masked_places"][batch["masked_valid"]], batch["masked_ids"][batch["masked_valid"]]
        assert batch["token_mask"][rows, places + 1].all()  # the last token is special
        hidden += int((batch["token_ids"][rows, places] == 3).sum())
        batch["token_ids"][rows, places] = ids
        texts = [toy.read_text(row) for row in batch["token_ids"]]
        assert [text[:4] for text in texts] == [f"{row:02}{cell.language}" for row in batch["id"]]
        assert batch["region_mask"].sum() == sum(1 + row % 4 for row in batch["id"].tolist())
    assert hidden > 100


@pytest.mark.parametrize("objective", ["mrfr", "mrc"])
def test_hidden_regions_keep_their_features(toy: SimpleNamespace, objective: str) -> None:
    for _, _, batch in _steps(toy.maker(), objective, 20):
        assert batch["region_masked"].any(axis=1).all()
        assert not (batch["region_masked"] & ~batch["region_mask"]).any()
        assert _shown(batch) == batch["id"].tolist()
        assert "?" not in "".join(map(toy.read_text, batch["token_ids"]))
        if objective == "mrc":
            there = batch["region_mask"]
            expected = (batch["id"][:, None] + np.arange(there.shape[1])) % 5
            assert np.array_equal(batch["region_classes"].argmax(2)[there], expected[there])
            assert not batch["region_classes"][~there].any()


def test_rank_has_other_texts_and_other_regions(toy: SimpleNamespace) -> None:
    twins = {row: row - 1 for row in range(1, 40, 2)}
    maker = toy.maker((toy.Gallery(twins=twins),), objectives=RANK, recipe=toy.recipe(negatives=3))
    differ = 0
    for step in range(40):
        batch, cell = maker(step), maker.mixture.cell(step)
        assert batch["negative_token_ids"].shape == (4, 3, cell.shape.tokens)
        assert batch["negative_region_features"].shape == (4, 3, cell.shape.regions, 6)
        assert batch["negative_region_boxes"].shape == (4, 3, cell.shape.regions, 4)
        assert _shown(batch) == batch["id"].tolist()
        for place, own in enumerate(batch["id"].tolist()):
            texts = [toy.read_text(ids) for ids in batch["negative_token_ids"][place]]
            rows = [int(text[:2]) for text in texts]
            shown = batch["negative_region_features"][place, :, 0, 0].astype(int).tolist()
            assert {text[2:4] for text in texts} == {cell.language}
            assert own // 2 not in {row // 2 for row in (*rows, *shown)}
            assert len(set(rows)) == len(set(shown)) == 3
            assert batch["negative_token_mask"][place].sum(1).tolist() == [8 + row % 5 for row in rows]
            assert batch["negative_region_mask"][place].sum(1).tolist() == [1 + row % 4 for row in shown]
            differ += set(rows) != set(shown)
    assert differ > 100


def test_images_of_negatives_on_a_map(toy: SimpleNamespace) -> None:
    regions = toy.regions(features="map", images=loader.ImageReader(8, True, "fast", 0, True))
    batch = toy.maker(objectives=RANK, recipe=toy.recipe(regions=regions))(0)
    assert batch["image"].shape == (4, 8, 8, 3)
    assert batch["negative_image"].shape == (4, 2, 8, 8, 3)
    assert batch["negative_image"].any(axis=(2, 3, 4)).all()
    assert "region_features" not in batch


def _damaged(maker: batches.SingleBatches, *rows: int) -> batches.SingleBatches:
    """`maker`, after some records lost their features: the lengths still say that they have them."""
    maker.mixture.parts[0].source.bad = rows
    return maker


def test_a_bad_record_is_named(toy: SimpleNamespace) -> None:
    maker = _damaged(toy.maker((toy.Gallery(),)), 7)
    with pytest.raises(loader.BadRecord, match=r"gallery row 7 \(id 'id7'\): no region_features.*wenlan regions"):
        for step in range(100):
            maker(step)


@pytest.mark.parametrize("objectives", [None, ITM, RANK])
def test_bad_records_are_replaced_from_their_bucket_and_counted(
    toy: SimpleNamespace, objectives: dict[str, float] | None
) -> None:
    changes = {"objectives": objectives} if objectives else {}
    good, bad = toy.maker((toy.Gallery(),), **changes), (7, 8, 27)
    maker = _damaged(toy.maker((toy.Gallery(),), bad_records="replace", **changes), *bad)
    replaced = 0
    for step in range(150):
        batch, cell = maker(step), maker.mixture.cell(step)
        assert not set(_shown(batch)) & set(bad)
        assert set(batch["id"].tolist()) <= set(cell.rows.tolist())
        changed = batch["id"] != good(step)["id"]
        assert (batch[loader.REPLACED] >= changed).all()
        replaced += int(batch[loader.REPLACED].sum())
        if cell.objective != "mlm":
            assert [toy.read_text(ids)[:2] for ids in batch["token_ids"]] == [f"{row:02}" for row in batch["id"]]
    assert replaced > 10


def test_replacing_ends_when_nothing_is_good(toy: SimpleNamespace) -> None:
    for probability, message in ((1.0, "No usable record among"), (0.0, "0 can be negatives")):
        recipe = toy.recipe(match_probability=probability)
        maker = toy.maker((toy.Gallery(),), objectives=ITM, bad_records="replace", recipe=recipe)
        with pytest.raises(loader.BadRecord, match=message):
            _damaged(maker, *range(40))(0)


def test_an_objective_that_the_part_must_not_train_makes_no_batch(toy: SimpleNamespace) -> None:
    maker = toy.maker(parts_objectives=(("itm",),))
    maker(0)
    maker.mixture.cells = tuple(dataclasses.replace(cell, objective="mlm") for cell in maker.mixture.cells)
    with pytest.raises(ScheduleError, match="gallery: its objectives are itm, and 'mlm'"):
        maker(0)


def test_cells_that_cannot_be_made_are_refused(toy: SimpleNamespace) -> None:
    lonely = toy.Gallery(tokens=lambda row, language: 8 if language == "en" or row == 3 else 0)
    with pytest.raises(ExampleError, match="a bucket of texts in zh has 1 records, and objective 'itm' needs 1 others"):
        toy.maker((lonely,))
    toy.maker((lonely,), objectives={"mlm": 1.0})
    with pytest.raises(ExampleError, match="'mlm' needs a way to mask"):
        toy.maker(recipe=toy.recipe(words=None))
    with pytest.raises(RegionReadError, match="'mrc'"):
        toy.maker(recipe=toy.recipe(regions=toy.regions(classes=0)))
    with pytest.raises(ExampleError, match="'rank' needs negatives"):
        toy.maker(objectives=RANK, recipe=toy.recipe(negatives=0))
    with pytest.raises(ExampleError, match="'vtlm': must be one of"):
        toy.maker(objectives={"vtlm": 1.0})


def _fixed(toy: SimpleNamespace, objective: str, batch_size: int = 4, **changes: object) -> batches.FixedBatches:
    source = toy.Gallery(length=10, bad=(6,))
    pool = batches.whole_pool(MixturePart(source, toy.any, 0.0), toy.measured(source, toy.regions()), "zh")
    fields = {"share": tuple(range(batch_size)), "recipe": toy.recipe(), **changes}
    return batches.FixedBatches(
        pool=pool, objective=objective, shape=Shape(16, 4), batch_size=batch_size, **fields  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("objective", [*OWN, "rank"])
def test_an_evaluation_has_every_usable_row_once(toy: SimpleNamespace, objective: str) -> None:
    maker = _fixed(toy, objective)
    made = [maker(number) for number in range(len(maker))]
    joined = {name: np.concatenate([batch[name] for batch in made]) for name in made[0]}
    assert len(made) == 3
    assert joined["id"].tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, -1, -1, -1]
    assert joined["valid"].tolist() == [True] * 9 + [False] * 3
    assert loader.REPLACED not in joined
    for name, array in joined.items():
        filling = array[9:]
        if name.endswith(("token_ids", "token_mask")):
            assert (filling == toy.recipe().encode([""], 16)[name.removeprefix("negative_")]).all()
        elif name != "id":
            assert not filling.any()
    assert set(joined) - COMMON - {"valid"} == set(OWN.get(objective, {})) or objective == "rank"


def test_masks_and_negatives_of_an_evaluation_depend_on_the_row_alone(toy: SimpleNamespace) -> None:
    for objective in (*OWN, "rank"):
        one, other = _fixed(toy, objective, 4), _fixed(toy, objective, 3)
        by_row = [
            {name: np.concatenate([maker(n)[name] for n in range(len(maker))])[:9] for name in maker(0)}
            for maker in (one, other)
        ]
        assert _same(*by_row)
        changed = _fixed(toy, objective, 4, recipe=toy.recipe(seed=8))
        assert not _same(one(0), changed(0))


def test_hosts_together_make_the_evaluation_batch(toy: SimpleNamespace) -> None:
    for number in range(3):
        whole = _fixed(toy, "mlm")(number)
        for share in ((0, 1), (2, 3), (1,), (0, 3)):
            part = _fixed(toy, "mlm", share=share)(number)
            assert _same(part, {name: array[list(share)] for name, array in whole.items()})


def test_bad_records_of_an_evaluation_are_reported(toy: SimpleNamespace) -> None:
    maker = _fixed(toy, "itm")
    pool = ExamplePool(
        maker.pool.source, maker.pool.texts, np.arange(10, dtype=np.int32), np.arange(10, dtype=np.int32), 0
    )
    with pytest.raises(loader.BadRecord, match="row 6"):
        [dataclasses.replace(maker, pool=pool)(number) for number in range(3)]
    with pytest.raises(ExampleError, match="no record has both a wanted text in 'ko'"):
        batches.whole_pool(MixturePart(toy.Gallery(), toy.any, 0.0), toy.measured(toy.Gallery(), toy.regions()), "ko")


def test_the_data_code_of_the_single_tower_imports_no_jax() -> None:
    code = (
        "import sys; from wenlan_jax.tasks.single_tower.input import batches, lengths, masking, questions, schedule;"
        "sys.exit(any(name in sys.modules for name in ('jax', 'tensorflow', 'torch', 'grain')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
