"""Dirty WebDataset shards of the emoji in ../shared/data/emoji7: planted so that what must come of each is known."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import re
import struct
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wenlan_jax.data import images

EMOJI = Path(__file__).resolve().parents[2] / "shared" / "data" / "emoji7"
CLEAN, TEST = 144, 20
"""Samples without fault to train on, and to evaluate with."""
LAST, WHOLE = 6, 3
"""Samples of the last shard, and those before the place where it is cut off."""
_HAN = re.compile(r"[\u4e00-\u9fff、：]{8,60}")


@dataclasses.dataclass(frozen=True)
class _Emoji:
    """A picture on white, its caption in Chinese, and whether it is to evaluate with."""

    pixels: np.ndarray
    caption: str
    test: bool


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample of a shard, as img2dataset writes it; what is None was not fetched.

    `stays` are the texts that shall be left of it, none for dirt. `key` is its number in the shard unless given.
    """

    image: bytes | None
    text: bytes | None
    stays: tuple[str, ...] = ()
    split: str = "train"
    suffix: str = "jpg"
    key: str = ""


@dataclasses.dataclass
class Planted:
    """The samples of each shard, and what must come of the dirt among them."""

    shards: Sequence[Sequence[Sample]]
    rejected: Counter[str]
    records_dropped: Counter[str]
    texts_dropped: Counter[str]


def _emoji() -> Iterator[_Emoji]:
    """Those with a Chinese caption, no two alike in picture or caption by measures that the package does not use."""
    rows = [json.loads(line) for line in (EMOJI / "records.jsonl").read_text("utf-8").splitlines()]
    thumbs: list[np.ndarray] = []
    said: list[set[str]] = []
    for index in np.random.default_rng(0).permutation(len(rows)):
        row = rows[index]
        caption = f"{row['name']['zh']}：{'、'.join(row['keywords']['zh'])}"
        pairs = {caption[start : start + 2] for start in range(len(caption) - 1)}
        if not _HAN.fullmatch(caption) or any(len(pairs & other) > 0.3 * len(pairs | other) for other in said):
            continue
        pixels = images.decode((EMOJI / row["image"]).read_bytes())
        thumb = cv2.resize(pixels, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
        if any(np.abs(thumb - other).mean() < 20 for other in thumbs):
            continue
        thumbs.append(thumb)
        said.append(pairs)
        yield _Emoji(pixels, caption, row["split"] == "test")


def _jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    return bytes(cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def _png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())


def _bomb() -> bytes:
    """A PNG that says it has 50,000 x 50,000 pixels."""
    small = _png(np.zeros((8, 8, 3), np.uint8))
    return small[:16] + struct.pack(">II", 50_000, 50_000) + small[24:]


def _sample(of: _Emoji, text: str | None = None, encoding: str = "utf-8", **changes: Any) -> Sample:
    """A sample with the picture of `of` and its caption, or another text."""
    said = of.caption if text is None else text
    return Sample(**{"image": _jpeg(of.pixels), "text": said.encode(encoding), **changes})


def plant() -> Planted:
    """All samples, in six shards: four of everything mixed, one of repeated pictures, one that is cut off."""
    pool = list(itertools.islice(_emoji(), 300))
    test = [one for one in pool if one.test][:TEST]
    fresh = iter([one for one in pool if not one.test])
    clean = list(itertools.islice(fresh, CLEAN))
    kept, again = _repeated_pictures(clean[:-LAST], test, fresh)
    kept += [_sample(one, stays=(one.caption,), split="test") for one in test]
    mixed = kept + _bad_samples(fresh) + _bad_texts(fresh, test)
    order = np.random.default_rng(1).permutation(len(mixed))
    shards = [[mixed[index] for index in order[start::4]] for start in range(4)]
    shards[0].append(_sample(next(fresh), key=f"{0:09d}"))
    cut = [_sample(one, stays=(one.caption,) if n < WHOLE else ()) for n, one in enumerate(clean[-LAST:])]
    return Planted(
        [*shards, again, cut],
        rejected=Counter(
            wrong_encoding=4, corrupt_image=3, oversized_image=2, missing_image=2, empty_caption=2, duplicate_id=1,
            caption_too_long=1, damaged_shard=1,
        ),
        records_dropped=Counter(
            equal_picture=4, near_picture=4, leakage_picture=3, small_picture=2, no_text_left=4 + 2 + 8 + 2
        ),
        texts_dropped=Counter(
            {
                "record: near_picture": 4, "record: leakage_picture": 3, "record: small_picture": 2,
                "advertising_text": 4, "empty_text": 2, "repeated_text": 8, "leakage_text": 2,
            }
        ),
    )  # fmt: skip


def _repeated_pictures(
    clean: Sequence[_Emoji], test: Sequence[_Emoji], fresh: Iterator[_Emoji]
) -> tuple[list[Sample], list[Sample]]:
    """Samples of `clean`, and samples with the pictures of some of them, or of `test`, under texts of their own."""
    kept, again = [], []
    for number, one in enumerate(clean):
        said = next(fresh).caption if number < 8 else ""
        if number < 4:  # the same pixels in another file: its text goes to the first
            again.append(_sample(one, said, image=_png(images.decode(_jpeg(one.pixels))), suffix="png"))
        elif number < 8:
            again.append(_sample(one, said, image=_jpeg(cv2.resize(one.pixels, (120, 120)), 80)))
        kept.append(_sample(one, stays=(one.caption, said) if number < 4 else (one.caption,)))
    return kept, again + [_sample(one, next(fresh).caption, image=_jpeg(one.pixels, 80)) for one in test[:3]]


def _bad_samples(fresh: Iterator[_Emoji]) -> list[Sample]:
    """Samples that no pack takes, and pictures that are too small."""
    cut = [_jpeg(next(fresh).pixels)[:-400] for _ in range(3)]
    return [
        *(_sample(one, encoding="gb18030") for one in itertools.islice(fresh, 4)),
        *(_sample(next(fresh), image=image) for image in [*cut, _bomb(), _bomb()]),
        *(Sample(None, None) for _ in range(2)),
        *(_sample(next(fresh), text) for text in ("  ", "\u200b\n", "长" * 100_000)),
        *(_sample(next(fresh), image=_png(np.asarray(next(fresh).pixels[40:88, 40:88]))) for _ in range(2)),
    ]


def _bad_texts(fresh: Iterator[_Emoji], test: Sequence[_Emoji]) -> list[Sample]:
    """Samples whose texts are dirt, or have dirt in them that is to be taken out."""
    advertising = ("点击下方链接领取优惠券", "全场特价包邮到家", "扫描上方二维码关注我们", "招商热线欢迎来电咨询")
    bare = ("http://t.cn/a1B2c3", "www.example.com/album?id=7")
    around = ("{} http://t.cn/RxYz12", "{} 联系电话：13812345678", "@小明的店 {}", "{} 微信号：abcdef123", "<b>{}</b>")
    wrapped = [(one, around[n % len(around)].format(one.caption)) for n, one in enumerate(itertools.islice(fresh, 10))]
    return [
        *(_sample(next(fresh), text) for text in (*advertising, *bare)),
        *(_sample(next(fresh), "高清壁纸每日更新欢迎收藏") for _ in range(8)),
        *(_sample(next(fresh), one.caption) for one in test[3:5]),
        *(_sample(one, text, stays=(one.caption,)) for one, text in wrapped),
    ]


def write_shards(place: Path, shards: Sequence[Sequence[Sample]]) -> str:
    """The samples as tar shards below `place`; the pattern that names them."""
    place.mkdir()
    for number, samples in enumerate(shards):
        starts = []
        with tarfile.open(place / f"{number:05d}.tar", "w") as archive:
            for index, one in enumerate(samples):
                starts.append(archive.offset)
                for suffix, data in _members(one, number, index):
                    info = tarfile.TarInfo(f"{one.key or f'{index:09d}'}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    last = place / f"{len(shards) - 1:05d}.tar"
    last.write_bytes(last.read_bytes()[: starts[WHOLE] + 1000])
    return str(place / f"{{00000..{len(shards) - 1:05d}}}.tar")


def _members(one: Sample, shard: int, index: int) -> Iterator[tuple[str, bytes]]:
    """The files of one sample by what follows its key."""
    if one.image is not None:
        yield one.suffix, one.image
    if one.text is not None:
        yield "txt", one.text
    status = {"status": "success"} if one.image else {"status": "failed_to_download", "error_message": "HTTP Error 404"}
    source = ("web", "news")[index % 2]
    yield (
        "json",
        json.dumps({"url": f"http://x/{shard}/{index}", "source": source, "split": one.split, **status}).encode(),
    )
