"""What earlier versions wrote is read as they read it: checkpoints, configurations and their files."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

import wenlan_jax
from wenlan_jax import cli
from wenlan_jax.data import sources
from wenlan_jax.prepare.clean import options
from wenlan_jax.tasks import config_changes, experiment

ARCHIVE = Path(__file__).parent / "fixtures" / "earlier_run.tar.xz"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory `run`, and the embeddings of its test split, `vectors.npz`."""
    root = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    return root


def test_its_checkpoint_embeds_as_it_did(earlier: Path) -> None:
    data = str(earlier / "data")
    model = wenlan_jax.load(earlier / "run", overrides=[f"data.dir={data}", "eval.batch_size=16"])
    source = sources.open_source(model.config.data.source, "test", Path(data))
    texts = [text.text for row in range(len(source)) for text in source[row].texts]
    with np.load(earlier / "vectors.npz") as expected:
        images = model.encode_images([source[row].image for row in range(len(source))])
        np.testing.assert_allclose(images, expected["images"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(model.encode_texts(texts), expected["texts"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_its_training_goes_on(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = json.loads((earlier / "run" / "result.json").read_text())
    config = experiment.parse(config_changes.completed(_configuration(earlier)))
    result = wenlan_jax.train(config, earlier / "run", overrides=["train.steps=4", "checkpoint.accept_changes=true"])
    assert "resumed at step 3" in capsys.readouterr().out
    assert (saved["train/steps"], result["train/steps"]) == (3, 4)


def _configuration(earlier: Path) -> dict[str, object]:
    """That of the checkpoint, as it was saved."""
    note = json.loads((earlier / "run" / "checkpoints" / "3" / "note" / "metadata").read_text())
    config = dict(note["config"])
    config["data"] = {**config["data"], "dir": str(earlier / "data")}
    config["mesh"] = {**config["mesh"], "data": -1}
    return config


def test_its_files_of_configurations_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.py"
    file.write_text(
        "from wenlan_jax import config as configs\n"
        "from wenlan_jax import config_single\n\n\n"
        "def get_config():\n"
        "    c = configs.default()\n"
        "    configs.make_small(c, stage_width=8)\n"
        "    config_single.make_single(c)\n"
        "    return c\n"
    )
    config = experiment.load(file)
    assert config.task == "mlmm" and config.model.embedding == 128
    with pytest.raises(ImportError):
        from wenlan_jax import config_single  # type: ignore[attr-defined]  # noqa: F401


def test_its_files_for_cleaning_are_read(tmp_path: Path) -> None:
    file = tmp_path / "clean.py"
    file.write_text(
        "from wenlan_jax.data.clean import options\n\n\n"
        "def get_config():\n"
        "    c = options.default()\n"
        "    c.image.min_side = 77\n"
        "    return c\n"
    )
    assert options.load(file, []).image.min_side == 77
    assert cli.main(["clean", "nowhere", f"--config={file}", f"--out={tmp_path / 'out'}"]) == 1
