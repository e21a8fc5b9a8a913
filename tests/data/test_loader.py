"""Batches: equal for any number of threads, workers and hosts, from any step; faults named or replaced."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import subprocess
import sys
import threading
import time
import types
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from wenlan_jax.data import images, loader, order, records
from wenlan_jax.data.mixture import Mixture, MixturePart, TextChoice, WantedTexts

RECORDS, BATCH, SIZE, LENGTH = 11, 8, 16, 6


def _png(row: int) -> bytes:
    pixels = np.random.default_rng(row).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


class Rows:
    """A source of small images. Row r has r boxes (at most 3) and a text of each kind in two languages."""

    def __init__(self, name: str = "rows", corrupt: tuple[int, ...] = (), silent: tuple[int, ...] = ()) -> None:
        self.name, self.corrupt, self.silent = name, corrupt, silent

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, row: int, /) -> records.Record:
        image = _png(row)
        texts = tuple(
            records.Text(kind, language, f"{row} {kind} {language}")
            for kind, language in itertools.product(("descriptive", "weak"), ("zh", "en"))
        )
        return records.Record(
            id=f"id{row}",
            image=image[:-9] if row in self.corrupt else image,
            width=20,
            height=12,
            texts=() if row in self.silent else texts,
            regions=tuple(records.Region((0, 0, 5.0 * (i + 1), 6)) for i in range(min(row, 3))),
        )


class Letters:
    """A tokenizer of characters: 1 + its code, after the row of the text; good enough to read texts back."""

    pad_id, mask_id, size, fingerprint = 0, None, 1 << 16, "letters"

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.zeros((len(texts), length), np.int32)
        for place, text in enumerate(texts):
            codes = [1, *(ord(letter) for letter in text)][:length]
            ids[place, : len(codes)] = codes
        return ids, ids > 0


class CountedLetters(Letters):
    """Tells of each batch that it is asked for."""

    def __init__(self) -> None:
        self.made = threading.Semaphore(0)

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        self.made.release()
        return super().encode(texts, length)


class BackendSpy(Letters):
    """Its ids say where it runs: 2 for a child process, plus 1 if a jax backend has been started there."""

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        bridge = sys.modules.get("jax._src.xla_bridge")
        started = bridge is not None and bridge.backends_are_initialized()
        child = multiprocessing.parent_process() is not None
        ids = np.full((len(texts), length), 2 * child + started, np.int32)
        return ids, ids >= 0


def _images(size: int = SIZE, box_limit: int = 2) -> loader.ImageReader:
    return loader.ImageReader(size, True, "exact", box_limit, True)


ALL = WantedTexts((), ())


def _maker(source: Rows | None = None, wanted: WantedTexts = ALL, **changes: object) -> loader.TrainBatches:
    part = MixturePart(source or Rows(), TextChoice(wanted, "any", (), 1.0), 0.0)
    fields: dict[str, object] = {
        "mixture": Mixture([part], 5),
        "tokenizer": Letters(),
        "batch_size": BATCH,
        "share": tuple(range(BATCH)),
        "reader": _images(),
        "text_length": 24,
        "bad_records": "raise",
    }
    return loader.TrainBatches(**{**fields, **changes})  # type: ignore[arg-type]


def _take(maker: loader.TrainBatches, start: int, count: int, workers: int) -> list[tuple[int, loader.HostBatch]]:
    with loader.train_batches(maker, start, workers, prefetch=3) as batches:
        return [(step, {k: np.array(v) for k, v in batch.items()}) for step, batch in itertools.islice(batches, count)]


def _same(left: loader.HostBatch, right: loader.HostBatch) -> bool:
    return left.keys() == right.keys() and all(
        left[key].dtype == right[key].dtype and np.array_equal(left[key], right[key]) for key in left
    )


def _texts(batch: loader.HostBatch) -> list[str]:
    rows = zip(batch["token_ids"], batch["token_mask"], strict=True)
    return ["".join(map(chr, ids[mask][1:])) for ids, mask in rows]


def test_a_batch_has_the_documented_fields() -> None:
    [(step, batch)] = _take(_maker(), 3, 1, workers=0)
    assert step == 3
    shapes = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
    assert shapes == {
        "image": ("uint8", (8, 16, 16, 3)),
        "boxes": ("float32", (8, 2, 4)),
        "box_mask": ("bool", (8, 2)),
        "token_ids": ("int32", (8, 24)),
        "token_mask": ("bool", (8, 24)),
        "id": ("int32", (8,)),
    }


def test_image_text_boxes_and_id_belong_together() -> None:
    maker = _maker()
    for step in range(5):
        batch = maker(step)
        assert np.array_equal(batch["id"], order.Order(RECORDS, 5, True).rows(step, BATCH)[0])
        for place, row in enumerate(batch["id"]):
            pixels = images.resize(images.decode(_png(int(row))), SIZE, True)
            assert np.array_equal(batch["image"][place], pixels)
            assert batch["box_mask"][place].sum() == min(row, 2)
            assert batch["boxes"][place, 0].tolist() == ([0, 0, 0.25, 0.5] if row else [0, 0, 0, 0])
        assert [int(text.split()[0]) for text in _texts(batch)] == batch["id"].tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(workers: int) -> None:
    expected = [(step, _maker()(step)) for step in range(4, 9)]
    for (step, batch), (step_, batch_) in zip(expected, _take(_maker(), 4, 5, workers), strict=True):
        batch.pop(loader.REPLACED)
        assert step == step_
        assert _same(batch, batch_)


def test_resuming_needs_the_step_alone() -> None:
    whole = _take(_maker(), 0, 9, workers=0)
    for start in (1, 4, 8):
        for (step, batch), (step_, batch_) in zip(whole[start:], _take(_maker(), start, 9 - start, 0), strict=True):
            assert step == step_
            assert _same(batch, batch_)


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_hosts_together_make_the_global_batch(processes: int) -> None:
    """Whichever rows each of them has: here every so-many-th."""
    for step in (0, 5):
        whole = _maker()(step)
        for process in range(processes):
            share = tuple(range(process, BATCH, processes))
            part = {key: value[list(share)] for key, value in whole.items()}
            assert _same(_maker(share=share)(step), part)


def test_every_wanted_text_is_drawn_and_no_other() -> None:
    maker = _maker(wanted=WantedTexts(("descriptive",), ("zh", "en")))
    seen = {text for step in range(40) for text in _texts(maker(step))}
    assert seen == {f"{row} descriptive {language}" for row in range(RECORDS) for language in ("zh", "en")}


def test_another_epoch_draws_another_text() -> None:
    drawn: dict[int, set[str]] = {}
    maker = _maker()
    for step in range(120):  # 87 draws a row: one of its four texts would be missing with a chance of 1e-9
        batch = maker(step)
        for row, text in zip(batch["id"], _texts(batch), strict=True):
            drawn.setdefault(int(row), set()).add(text)
    assert all(len(texts) == 4 for texts in drawn.values())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named(workers: int) -> None:
    maker = _maker(source=Rows("shop/train", corrupt=(7,)))
    with pytest.raises(loader.BadRecord, match=r"shop/train row 7 \(id 'id7'\): truncated PNG.*wenlan pack"):
        _take(maker, 0, 2, workers)


def test_a_record_without_a_wanted_text_says_what_it_has() -> None:
    maker = _maker(wanted=WantedTexts((), ("ko",)))
    with pytest.raises(loader.BadRecord, match=r"\['ko'\].*descriptive/en.*data\.languages"):
        maker(0)


def test_bad_records_are_replaced_by_the_next_good_row_and_counted() -> None:
    maker = _maker(source=Rows(corrupt=(7,), silent=(8, 10)), bad_records="replace")
    good, steps, expected = _maker(), 6, 0
    with loader.train_batches(maker, 0, workers=0, prefetch=2) as batches:
        for step, batch in itertools.islice(batches, steps):
            rows = good(step)["id"]
            assert batch["id"].tolist() == [{7: 9, 8: 9, 10: 0}.get(row, row) for row in rows.tolist()]
            assert loader.REPLACED not in batch
            expected += int(np.isin(rows, (7, 8, 10)).sum())
        assert batches.replaced == expected > 0


def test_replacing_ends_when_nothing_is_good() -> None:
    maker = _maker(source=Rows(silent=tuple(range(RECORDS))), bad_records="replace")
    with pytest.raises(loader.BadRecord, match=f"among the {RECORDS} from row"):
        maker(0)


@pytest.mark.parametrize("box_limit", [0, 2])
def test_images_are_evaluated_once_each_in_order(box_limit: int) -> None:
    maker = loader.ImageBatches(Rows(), 4, tuple(range(4)), _images(box_limit=box_limit))
    with loader.eval_batches(maker, workers=0, prefetch=2) as batches:
        made = [batch for _, batch in batches]
    assert len(made) == 3
    assert {len(batch["image"]) for batch in made} == {4}
    valid = np.concatenate([batch["valid"] for batch in made])
    rows = np.concatenate([batch["id"] for batch in made])
    assert rows[valid].tolist() == list(range(RECORDS))
    assert rows[~valid].tolist() == [-1]
    assert not made[-1]["image"][-1].any()


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_hosts_together_make_the_evaluation_batch(kind: str) -> None:
    texts = loader.list_texts(Rows(), WantedTexts(("weak",), ("zh",)))

    def maker(*share: int) -> loader.ImageBatches | loader.TextBatches:
        if kind == "images":
            return loader.ImageBatches(Rows(), 8, share, _images())
        return loader.TextBatches(texts, Letters(), 8, share, 24)

    for number in range(len(maker(0))):
        whole = maker(*range(8))(number)
        for share in ([0], [3], [7], [1, 4, 6], [5, 6, 7]):
            assert _same(maker(*share)(number), {key: value[share] for key, value in whole.items()})


def test_texts_are_listed_with_their_rows_and_encoded_once_each() -> None:
    texts = loader.list_texts(Rows(silent=(2,)), WantedTexts((), ("en",)))
    assert [(item.row, item.text.kind) for item in texts[:4]] == [
        (0, "descriptive"), (0, "weak"), (1, "descriptive"), (1, "weak")
    ]  # fmt: skip
    with loader.eval_batches(loader.TextBatches(texts, Letters(), 8, tuple(range(8)), 24), 0, 1) as batches:
        made = [batch for _, batch in batches]
    valid = np.concatenate([batch["valid"] for batch in made])
    assert np.concatenate([batch["id"] for batch in made])[valid].tolist() == [item.row for item in texts]
    found = [text for batch in made for text in _texts(batch)]
    assert found[: len(texts)] == [item.text.text for item in texts]
    assert len(texts) == 20
    assert all(batch["token_mask"].any(axis=1).all() for batch in made)


def test_no_wanted_text_at_all_is_an_error() -> None:
    with pytest.raises(loader.BadRecord, match="no text of kinds any in languages"):
        loader.list_texts(Rows(), WantedTexts((), ("cs",)))


def test_waiting_for_data_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by 3 seconds whenever it is read: once before and once after each batch."""
    ticks = itertools.count(0, 3)
    with loader.train_batches(_maker(), 0, workers=0, prefetch=1) as batches:
        monkeypatch.setattr(loader, "time", types.SimpleNamespace(perf_counter=lambda: float(next(ticks))))
        for _ in range(4):
            next(batches)
    assert batches.wait_seconds == 12


def test_batches_are_made_ahead() -> None:
    letters = CountedLetters()
    with loader.train_batches(_maker(tokenizer=letters), 0, workers=0, prefetch=4) as batches:
        next(batches)
        assert all(letters.made.acquire(timeout=60) for _ in range(1 + 3))  # three more than were asked for


@pytest.mark.parametrize("workers", [0, 2])
def test_closing_ends_threads_and_processes(workers: int) -> None:
    threads, processes = threading.active_count(), set(multiprocessing.active_children())
    with loader.train_batches(_maker(), 0, workers, prefetch=4) as batches:
        next(batches)
        if workers:
            assert len(set(multiprocessing.active_children()) - processes) == workers
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and threading.active_count() > threads:
        time.sleep(0.05)
    assert threading.active_count() <= threads
    assert not set(multiprocessing.active_children()) - processes
    assert list(batches) == []


def test_arrays_outlive_the_workers() -> None:
    with loader.train_batches(_maker(reader=_images(128, 0)), 0, 1, prefetch=2) as batches:
        kept = [next(batches)[1]["image"] for _ in range(3)]
    gc.collect()
    for step, image in enumerate(kept):
        assert np.array_equal(image, _maker(reader=_images(128, 0))(step)["image"])


def test_workers_start_no_jax_backend() -> None:
    batches = _take(_maker(tokenizer=BackendSpy()), 0, 2, workers=1)
    assert {int(value) for _, batch in batches for value in batch["token_ids"].ravel()} == {2}


WENLAN_SCRIPT = """
import sys
import wenlan_jax.cli
import numpy as np
from wenlan_jax.data import loader


def spy(number):
    return {"jax": np.array([name for name in sys.modules if name.startswith("jax.")], str), "none": np.zeros(2)}


if __name__ == "__main__":
    with loader.Batches(spy, 0, 2, workers=1, prefetch=1) as batches:
        found = [batch["jax"].tolist() for _, batch in batches]
    sys.exit(str(found) if found != [[], []] else 0)
"""


def test_workers_of_the_command_never_import_jax(tmp_path: Path) -> None:
    script = tmp_path / "wenlan"
    script.write_text(WENLAN_SCRIPT)
    subprocess.run([sys.executable, str(script)], check=True, timeout=120)


def test_the_data_code_itself_imports_no_jax() -> None:
    code = (
        "import sys; from wenlan_jax.data import images, loader, order;"
        "sys.exit(any(name in sys.modules for name in ('jax', 'tensorflow', 'torch', 'grain')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


MEMORY_SCRIPT = """
import os, sys
from pathlib import Path
import cv2, numpy as np
from wenlan_jax.bench.data_sides import family
from wenlan_jax.bench.data_sides import resident_bytes
from wenlan_jax.data import loader
from wenlan_jax.prepare import tfds_files as parts
from wenlan_jax.data import records
from wenlan_jax.data import sources
from wenlan_jax.data import text
from wenlan_jax.data.mixture import Mixture
from wenlan_jax.data.mixture import MixturePart
from wenlan_jax.data.mixture import TextChoice
from wenlan_jax.data.mixture import WantedTexts

if __name__ == "__main__":
    workers, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    if not (folder / "small").exists():
        images = [cv2.imencode(".jpg", np.full((24, 24, 3), row % 256, np.uint8))[1].tobytes() for row in range(2000)]
        text_of_all = (records.Text("a", "zh", "一"),)
        rows = [records.Record(str(row), image, 24, 24, texts=text_of_all) for row, image in enumerate(images)]
        parts.write(folder / "small", {"train": rows}, "test")
        (folder / "vocab.txt").write_text("\\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "一"]))
    source = sources.open_source("small", "train", folder)
    maker = loader.TrainBatches(
        Mixture([MixturePart(source, TextChoice(WantedTexts((), ()), "any", (), 1.0), 0.0)], 0),
        text.load_tokenizer(folder / "vocab.txt"), 100, tuple(range(100)),
        loader.ImageReader(16, True, "fast", 0, True), 8, "raise",
    )
    used = []
    with loader.train_batches(maker, 0, workers, 4) as batches:
        for step, batch in batches:
            if step * 100 in (count // 5, count):
                used.append(sum(map(resident_bytes, family(os.getpid()))))
            if step * 100 == count:
                break
    print(*used)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_memory_is_flat_over_a_hundred_thousand_records(workers: int, tmp_path: Path) -> None:
    script = tmp_path / "memory.py"
    script.write_text(MEMORY_SCRIPT)
    command = [sys.executable, str(script), str(workers), "100000", str(tmp_path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    early, late = map(int, output.split())
    print(f"{early / 2**20:.1f} MiB after 20,000 records, {late / 2**20:.1f} MiB after 100,000")
    assert late - early < 4 * 2**20
