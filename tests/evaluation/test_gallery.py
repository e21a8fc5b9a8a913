"""What is drawn for people: the retrieval gallery and the training curves."""

from __future__ import annotations

import base64
import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from wenlan_jax.evaluation import gallery
from wenlan_jax.monitoring import curves
from wenlan_jax.util import html_page

VOID = {"meta", "img"}


def _png(colour: int) -> bytes:
    return cv2.imencode(".png", np.full((8, 8, 3), colour, np.uint8))[1].tobytes()


class Outline(HTMLParser):
    """All elements with their attributes and the text by language; every element must be closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str | None]] = []
        self.spoken: list[tuple[str | None, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("lang")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.spoken.append((self.open[-1][1], data))


def _rows() -> list[gallery.GalleryRow]:
    hits = [gallery.ImageHit(_png(10), 0.75, False), gallery.ImageHit(_png(200), 0.5, True)]
    lines = [gallery.TextHit("赤い円", "ja", 0.9, True), gallery.TextHit("빨간 원", "ko", -0.25, False)]
    return [
        gallery.ImageQuery(_png(77), lines, 1),
        gallery.TextQuery("一个红色的圆", "zh", hits, 2),
        gallery.TextQuery("<script>alert('x')</script> & more", "en", hits, None),
    ]


def test_gallery_is_one_well_formed_page_that_loads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "gallery.html"
    gallery.write_gallery(path, _rows(), 'A "title" & <b>', "note")
    page = path.read_text(encoding="utf-8")
    outline = Outline(page)
    assert not outline.open
    assert "script" not in {tag for tag, _ in outline.elements}
    sources = [attributes["src"] or "" for tag, attributes in outline.elements if tag == "img"]
    assert len(sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert base64.b64decode(sources[-1].split(",")[1]) == _png(77)
    assert not re.search(r"https?://|url\(|@import", page)
    assert [item.name for item in path.parent.iterdir()] == ["gallery.html"]


def test_gallery_declares_languages_marks_truth_and_escapes() -> None:
    page = gallery.render_gallery(_rows(), "title", "note")
    outline = Outline(page)
    assert ("zh", "一个红色的圆") in outline.spoken
    assert ("ja", "赤い円") in outline.spoken
    assert ("en", "<script>alert('x')</script> & more") in outline.spoken
    true = [tag for tag, attributes in outline.elements if attributes.get("class") == "true"]
    assert sorted(true) == ["figure", "figure", "li"]
    texts = [text for _, text in outline.spoken]
    assert "rank of the truth: 2" in texts
    assert "rank of the truth: 1" in texts
    assert "no true answer given" in texts
    assert texts.index("Text to image") < texts.index("Image to text")
    assert "2. 0.500" in texts
    assert "-0.250" in texts


@pytest.mark.parametrize("kind", [".bmp", ".tiff", ".ppm", ".png", ".jpg"])
def test_an_image_that_no_browser_shows_is_shown_as_png(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    data = cv2.imencode(kind, pixels)[1].tobytes()
    page = gallery.render_gallery([gallery.ImageQuery(data, [], None)], "t", "")
    shown, encoded = re.findall(r"data:image/(\w+);base64,([^\"]*)", page)[0]
    assert shown == ("jpeg" if kind == ".jpg" else "png")
    assert np.array_equal(cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), 1), cv2.imdecode(
        np.frombuffer(data, np.uint8), 1
    ))  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"BM....", b"no image", bytes(100)])
def test_an_image_that_cannot_be_decoded_leaves_its_mark(data: bytes) -> None:
    row = gallery.TextQuery("x", "en", [gallery.ImageHit(data, 0.0, False)], None)
    page = gallery.render_gallery([row], "t", "")
    assert "image at rank 1: an image that cannot be shown" in page and "<img" not in page
    body = page.partition("</h1>")[2].rpartition("</body>")[0]
    assert html_page.gallery_parts(body) is not None


def test_a_page_holds_paths_that_are_no_text() -> None:
    page = html_page.document("runs/\udcff", "a \udce9 note", [])
    assert page.encode("utf-8").count(b"\\udcff") == 2


def _log(path: Path, steps: int, tail: str = "") -> None:
    lines = []
    for step in range(0, steps, 10):
        line: dict[str, object] = {
            "step": step,
            "train/loss": 9 / (1 + step / 50),
            "train/loss_reference": 9.0,
        }
        line |= {
            "train/learning_rate": 1e-4 * step,
            "train/pairs_per_second": 50.0,
            "train/data_wait_share": 0.1,
        }
        if step % 50 == 0:
            for direction in ("text_to_image", "image_to_text"):
                line[f"retrieval/validation/{direction}/recall_at_1"] = step / steps
                line[f"retrieval/validation/{direction}/chance_recall_at_1"] = 0.01
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n" + tail, encoding="utf-8")


def test_metrics_are_read_by_name_and_the_later_line_counts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 2, "a": 1.0, "text": "x"},
        {"step": 1, "a": 5},
        {"step": 2, "a": 3.0},
        {"step": 3, "b": None},
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert curves.read_metrics(path) == {"a": {1: 5.0, 2: 3.0}}
    assert list(curves.read_metrics(path)["a"]) == [1, 2]


def test_a_line_cut_off_by_a_crash_is_skipped_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    _log(path, 100, tail='{"step": 100, "train/lo')
    with caplog.at_level(logging.WARNING):
        metrics = curves.read_metrics(path)
    assert max(metrics["train/loss"]) == 90
    assert "line 11" in caplog.text


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_curves_are_drawn(tmp_path: Path, suffix: str) -> None:
    _log(tmp_path / "metrics.jsonl", 300)
    out = tmp_path / "images" / f"curves.{suffix}"
    curves.plot_curves(tmp_path / "metrics.jsonl", out)
    if suffix == "png":
        pixels = cv2.imread(str(out))
        assert pixels.shape[0] > 600
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    else:
        assert "validation, text to image, recall@1" in out.read_text(encoding="utf-8")


def test_curves_that_were_not_logged_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/loss": NaN}\n{"step": 2, "train/loss": 1.0}\n', encoding="utf-8")
    out = tmp_path / "curves.svg"
    curves.plot_curves(path, out)
    assert out.read_text(encoding="utf-8").count("not logged") == 3


def test_a_run_that_ranks_nothing_shows_its_accuracy(tmp_path: Path) -> None:
    path, out = tmp_path / "metrics.jsonl", tmp_path / "curves.svg"
    path.write_text(
        '{"step": 4, "vqa/test/all/accuracy": 0.4, "vqa/test/all/majority": 0.2, "vqa/test/zh/accuracy": 1}'
    )
    curves.plot_curves(path, out)
    drawn = out.read_text(encoding="utf-8")
    assert "vqa, test, all, accuracy" in drawn and "vqa, test, all, majority" in drawn and "zh" not in drawn
    assert drawn.count("not logged") == 3


def test_every_protocol_of_a_run_has_a_panel() -> None:
    names = ("retrieval/test/text_to_image/recall_at_1", "vqa/test/all/accuracy", "zero_shot/test/top_1")
    figure = curves.figure_of({"train/loss": {1: 2.0}, **{name: {1: 0.2, 2: 0.4} for name in names}})
    shown = [axes.get_title(loc="left") for axes in figure.axes if axes.has_data()]
    assert shown == ["loss (nats)", "retrieval", "accuracy", "top 1"]
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison][-2:] == ["learning rate", "speed"]


def test_an_empty_log_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(curves.CurvesError, match="has the run logged yet"):
        curves.plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
