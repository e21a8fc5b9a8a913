"""Dirty WebDataset shards of drawn images, planted so that what must come of each is known."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import struct
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wenlan_jax.data import images

CLEAN, TEST = 144, 20
"""Samples without fault to train on, and to evaluate with."""
LAST, WHOLE = 6, 3
"""Samples of the last shard, and those before the place where it is cut off."""
_WORDS = (
    "山峰 河流 湖泊 大海 沙滩 森林 草原 沙漠 雪地 瀑布 岛屿 峡谷 田野 花园 公园 村庄 城市 街道 桥梁 港口 "
    "太阳 月亮 星空 云朵 彩虹 闪电 雨天 大雾 清晨 黄昏 春天 夏天 秋天 冬天 微风 冰霜 火焰 影子 灯光 波浪 "
    "老虎 狮子 大象 熊猫 猴子 兔子 松鼠 狐狸 骆驼 绵羊 奶牛 骏马 小狗 花猫 燕子 麻雀 孔雀 天鹅 海豚 鲸鱼 "
    "蝴蝶 蜜蜂 蜻蜓 蚂蚁 青蛙 乌龟 螃蟹 金鱼 荷花 牡丹 玫瑰 菊花 竹子 松树 柳树 银杏 枫叶 小麦 稻谷 玉米 "
    "苹果 香蕉 葡萄 西瓜 草莓 橙子 樱桃 桃子 面包 饺子 面条 米饭 豆腐 蛋糕 茶杯 咖啡 牛奶 鸡蛋 蔬菜 蘑菇 "
    "火车 飞机 轮船 汽车 单车 帆船 卡车 马车 气球 火箭 雨伞 帽子 围巾 手套 皮鞋 衬衫 眼镜 钥匙 书本 铅笔 "
    "钢琴 吉他 鼓手 歌声 舞蹈 画家 医生 老师 学生 农夫 渔民 厨师 司机 孩子 老人 朋友 家庭 婚礼 节日 烟花 "
    "足球 篮球 游泳 跑步 滑雪 登山 钓鱼 下棋 读书 写字 睡觉 微笑 哭泣 思考 拥抱 握手 工厂 学校 医院 寺庙"
)
"""Of captions."""


@dataclasses.dataclass(frozen=True)
class _Pair:
    """An image, its caption in Chinese, and whether it is to evaluate with."""

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


def _pairs() -> Iterator[_Pair]:
    """Without end, no two alike in image or caption by measures that the package does not use."""
    rng, words = np.random.default_rng(0), _WORDS.split()
    thumbs: list[np.ndarray] = []
    said: list[set[str]] = []
    for number in itertools.count():
        name, *keywords = rng.choice(words, 5, replace=False)
        caption = f"{name}：{'、'.join(keywords)}"
        pairs = {caption[start : start + 2] for start in range(len(caption) - 1)}
        if any(len(pairs & other) > 0.3 * len(pairs | other) for other in said):
            continue
        pixels = _drawn(rng)
        thumb = cv2.resize(pixels, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
        if any(np.abs(thumb - other).mean() < 20 for other in thumbs):
            continue
        thumbs.append(thumb)
        said.append(pairs)
        yield _Pair(pixels, caption, number % 10 == 0)


def _drawn(rng: np.random.Generator) -> np.ndarray:
    """Soft patches of colour, with sharp discs and a little noise on them."""
    pixels = cv2.resize(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8), (128, 128), interpolation=cv2.INTER_CUBIC)
    for _ in range(4):
        place, radius = rng.integers(16, 112, 2), int(rng.integers(8, 32))
        cv2.circle(pixels, tuple(map(int, place)), radius, tuple(map(int, rng.integers(0, 256, 3))), -1)
    return np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


def _jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    return bytes(cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def _png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())


def _bomb() -> bytes:
    """A PNG that says it has 50,000 x 50,000 pixels."""
    small = _png(np.zeros((8, 8, 3), np.uint8))
    return small[:16] + struct.pack(">II", 50_000, 50_000) + small[24:]


def _sample(of: _Pair, text: str | None = None, encoding: str = "utf-8", **changes: Any) -> Sample:
    """A sample with the image of `of` and its caption, or another text."""
    said = of.caption if text is None else text
    return Sample(**{"image": _jpeg(of.pixels), "text": said.encode(encoding), **changes})


def plant() -> Planted:
    """All samples, in six shards: four of everything mixed, one of repeated images, one that is cut off."""
    pool = list(itertools.islice(_pairs(), 300))
    test = [one for one in pool if one.test][:TEST]
    fresh = iter([one for one in pool if not one.test])
    clean = list(itertools.islice(fresh, CLEAN))
    kept, again = _repeated_images(clean[:-LAST], test, fresh)
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
            equal_image=4, near_image=4, leakage_image=3, small_image=2, no_text_left=4 + 2 + 8 + 2
        ),
        texts_dropped=Counter(
            {
                "record: near_image": 4, "record: leakage_image": 3, "record: small_image": 2,
                "advertising_text": 4, "empty_text": 2, "repeated_text": 8, "leakage_text": 2,
            }
        ),
    )  # fmt: skip


def _repeated_images(
    clean: Sequence[_Pair], test: Sequence[_Pair], fresh: Iterator[_Pair]
) -> tuple[list[Sample], list[Sample]]:
    """Samples of `clean`, and samples with the images of some of them, or of `test`, under texts of their own."""
    kept, again = [], []
    for number, one in enumerate(clean):
        said = next(fresh).caption if number < 8 else ""
        if number < 4:  # the same pixels in another file: its text goes to the first
            again.append(_sample(one, said, image=_png(images.decode(_jpeg(one.pixels))), suffix="png"))
        elif number < 8:
            again.append(_sample(one, said, image=_jpeg(cv2.resize(one.pixels, (120, 120)), 80)))
        kept.append(_sample(one, stays=(one.caption, said) if number < 4 else (one.caption,)))
    return kept, again + [_sample(one, next(fresh).caption, image=_jpeg(one.pixels, 80)) for one in test[:3]]


def _bad_samples(fresh: Iterator[_Pair]) -> list[Sample]:
    """Samples that no pack takes, and images that are too small."""
    cut = [_jpeg(next(fresh).pixels)[:-400] for _ in range(3)]
    return [
        *(_sample(one, encoding="gb18030") for one in itertools.islice(fresh, 4)),
        *(_sample(next(fresh), image=image) for image in [*cut, _bomb(), _bomb()]),
        *(Sample(None, None) for _ in range(2)),
        *(_sample(next(fresh), text) for text in ("  ", "\u200b\n", "长" * 100_000)),
        *(_sample(next(fresh), image=_png(np.asarray(next(fresh).pixels[40:88, 40:88]))) for _ in range(2)),
    ]


def _bad_texts(fresh: Iterator[_Pair], test: Sequence[_Pair]) -> list[Sample]:
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
