"""A sweep of real trainings, on the smallest data set."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_runs import Place

from wenlan_jax.evaluation import query_ranks


@pytest.mark.slow
def test_two_real_trainings_make_a_table(sweeps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that differ in the size of the bank, of one seed; the figures agree with the ranks of their queries."""
    monkeypatch.undo()  # the stand-in
    for name, value in Place(tmp_path).environment().items():
        monkeypatch.setitem(os.environ, name, value)
    sweeps.write_base(
        eval__every=2,
        data__dir=str(tmp_path / "data"),
        tokenizer__train_size=1000,
        model__text__bert__vocab_size=0,
        telemetry__tensorboard="off",
    )
    sweeps.write_table(seeds="(3,)")
    printed = sweeps.call("--jobs=2")
    assert "[2/2]" in printed
    with (sweeps.out / "queue.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["state"], row["steps"], row["pairs"]) for row in rows] == [("done", "6.0", "48.0")] * 2
    assert all(float(row["pairs per second"]) > 0 for row in rows)
    kept = []
    for made, row in zip(sweeps.folders(), rows, strict=True):
        result = json.loads((made.path / "result.json").read_text())
        found = query_ranks.read(made.path, "test")
        kept.append(found)
        for way, of in (("text_to_image", found.text_to_image), ("image_to_text", found.image_to_text)):
            asked = of[of > 0]
            assert result[f"retrieval/test/{way}/recall_at_5"] == np.mean(asked <= 5)
            assert result[f"retrieval/test/{way}/mean_rank"] == np.mean(asked)
        name = "retrieval/test/text_to_image/recall_at_1"
        assert float(row[name]) == result[name]
        assert "configuration" in made.log.read_text()
    assert kept[0].same_queries(kept[1])
    assert json.loads((sweeps.folders()[0].path / "config.json").read_text())["seed"] == 3
    one, two = (float(row["retrieval/test/text_to_image/recall_at_1"]) for row in rows)
    assert float(rows[1]["difference"]) == pytest.approx(two - one)
    assert "2 of 2 run(s) are done already" in sweeps.call()
