"""Pages: what is not ours stays out, and a browser is told to run and load nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from wenlan_jax.evaluation import gallery
from wenlan_jax.report import evidence
from wenlan_jax.util import html_page

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
QUERIES = [
    gallery.TextQuery('红色 <圆> & "a"', "zh", [gallery.ImageHit(PNG, 0.5, True)], 1),
    gallery.ImageQuery(PNG, [gallery.TextHit("a <b>circle</b>", "en", 0.25, False)], None, "BriVL"),
]


def body_of(page: str) -> str:
    return page.partition("</h1>")[2].rpartition("</body>")[0]


def test_a_gallery_of_ours_is_taken_as_it_is() -> None:
    body = body_of(gallery.render_gallery(QUERIES, "What the model retrieves", "two queries"))
    assert html_page.gallery_parts(body) == body
    assert "红色 &lt;圆&gt; &amp; &quot;a&quot;" in body


FOREIGN = [
    "<script>alert(1)</script>",
    "<SCRIPT src=//x></SCRIPT>",
    "<img src=x onerror=alert(1)>",
    '<img src="https://example.org/a.png">',
    '<img src="data:image/svg+xml;base64,AAAA">',
    '<img src="data:text/html;base64,AAAA">',
    '<img src=" data:image/png;base64,AAAA">',
    '<p onclick="alert(1)">a</p>',
    '<p style="background:url(//x)">a</p>',
    '<a href="javascript:alert(1)">a</a>',
    '<iframe srcdoc="a"></iframe>',
    "<svg><animate onbegin=alert(1) /></svg>",
    "<style>@import '//x'</style>",
    '<meta http-equiv="refresh" content="0;url=//x">',
    '<base href="//x">',
    "<form action=//x><input></form>",
    "<object data=//x></object>",
    "<embed src=//x>",
    "<link rel=stylesheet href=//x>",
    "<math><mtext></mtext></math>",
    "<!-- --><p>a</p>",
    "<!doctype html>",
    "<?php a ?>",
    "<![CDATA[a]]>",
    "<div>",
    "</div>",
    "<p><div></p></div>",
    '<p class="a"onmouseover="x">a</p>',
    '<div src="data:image/png;base64,AAAA"></div>',
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></p></noscript>",
    "<textarea><img src=x></textarea>",
    "<title><img src=x></title>",
    '<p lang="a&quot; onclick=x">a</p>',
]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_no_gallery_holds_keeps_all_of_it_out(tmp_path: Path, foreign: str) -> None:
    page = gallery.render_gallery(QUERIES, "What the model retrieves", "")
    ours = body_of(page)
    assert html_page.gallery_parts(foreign + ours) is None
    assert html_page.gallery_parts(ours + foreign) is None
    path = tmp_path / "gallery.html"
    path.write_text(page.replace("</body>", f"{foreign}</body>"), encoding="utf-8")
    remarks: list[str] = []
    assert evidence._gallery(path, remarks) is None
    assert "is not a whole gallery" in remarks[0]


@pytest.mark.parametrize(
    "text", ["&lt;script&gt;alert(1)&lt;/script&gt;", "a < b", "&amp;lt;script&amp;gt;", "<", "&#60;b>"]
)
def test_text_stays_text(text: str) -> None:
    found = html_page.gallery_parts(f"<p>{text}</p>")
    assert found is not None
    assert found.count("<") == 2  # of the paragraph


def test_every_page_forbids_scripts_and_what_lies_elsewhere() -> None:
    head = html_page.document("a", "b", ["<p>c</p>"]).partition("</head>")[0]
    assert head.index("Content-Security-Policy") < head.index("<title>")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in head
