"""The input formats by name: how each is recognised, which files belong together, and what reads them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence

from wenlan_jax.data import readers
from wenlan_jax.data.formats import aligned, brivl, coco, conceptual, files, muge, questions, tables, tokens, webdataset
from wenlan_jax.data.readers import ReadError, ReadOptions, Shard

_COMPRESSED = re.compile(r"\.gz$")


@dataclasses.dataclass(frozen=True)
class Format:
    """One layout of raw data.

    `detects` takes a file's name in lower case and its beginning as text. `inside` are the files of the format in a
    folder. `group` tells which files make a shard. `language` is that of texts which name none, unless the user says.
    """

    name: str
    reader: readers.Reader
    detects: Callable[[str, str], bool]
    inside: tuple[str, ...] = ()
    group: Callable[[Sequence[str]], list[tuple[str, ...]]] = lambda places: [(place,) for place in places]
    language: str = ""


def _suffix(*suffixes: str) -> Callable[[str, str], bool]:
    return lambda name, head: name.endswith(suffixes)


def _json(*keys: str, start: str = "") -> Callable[[str, str], bool]:
    """A JSON document that begins with `start` and soon names all of `keys`."""

    def detects(name: str, head: str) -> bool:
        known = all(f'"{key}"' in head for key in keys)
        return name.endswith(".json") and head.lstrip().startswith(start) and known

    return detects


def _jsonl(*keys: str) -> Callable[[str, str], bool]:
    """JSON lines the first of which has all of `keys`."""

    def detects(name: str, head: str) -> bool:
        first = head.lstrip().split("\n")[0]
        return name.endswith((".jsonl", ".json", ".ndjson")) and all(f'"{key}"' in first for key in keys)

    return detects


_NAMED_SETS = (
    Format("webdataset", webdataset.read, _suffix(*webdataset.SUFFIXES), ("*.tar", "*.tar.gz", "*.tgz")),
    Format("parquet", tables.read_parquet, _suffix(".parquet"), ("*.parquet",)),
    Format("muge", muge.read, _suffix(muge.IMAGES, muge.TEXTS), (f"*{muge.IMAGES}",), muge.group, "zh"),
    Format("conceptual", conceptual.read, lambda name, head: conceptual.looks_so(head), language="en"),
    Format(
        "brivl2",
        aligned.read_brivl2,
        lambda name, head: name == aligned.BRIVL2_IMAGES and "," not in head.split("\n")[0],
        (aligned.BRIVL2_IMAGES,),
        aligned.group_brivl2,
        "zh",
    ),
    Format(
        "multi30k",
        aligned.read_multi30k,
        lambda name, head: False,  # only a folder has it all
        ("**/image_splits/*.txt", "**/raw/*"),
        aligned.group_multi30k,
    ),
    Format("token", tokens.read, lambda name, head: bool(tokens.LINE.fullmatch(head.split("\n")[0]))),
    Format("stair", coco.read_coco, _json("images", "annotations", "tokenized_caption"), language="ja"),
    Format("karpathy", coco.read_karpathy, _json("images", "sentences", start="{"), language="en"),
    Format("vqa", questions.read_vqa, _json("question_id"), group=questions.group_vqa, language="en"),
    Format("vg_qa", questions.read_vg, _json("qas", start="[")),
    Format("aic_icc", coco.read_aic, _json("image_id", "caption", start="["), language="zh"),
    Format("coco", coco.read_coco, _json("file_name", start="{"), language="en"),
    Format("brivl", brivl.read, _jsonl(brivl.IMAGE, brivl.SENTENCES)),
)
_ANY_SET = (
    Format("csv", tables.read_csv, _suffix(".csv")),
    Format("tsv", tables.read_tsv, _suffix(".tsv")),
    Format("jsonl", tables.read_jsonl, _jsonl()),
)
FORMATS = {one.name: one for one in (*_NAMED_SETS, *_ANY_SET)}
"""Every format by its name, in the order they are tried in."""


def shards(inputs: Sequence[str], name: str | None, options: ReadOptions) -> tuple[str, list[Shard]]:
    """The name of the format, found from the first input when None, and the shards of all inputs in order.

    Inputs are files, URLs, patterns of either, or folders. Raises ReadError.
    """
    places = [place for one in inputs for place in files.expand(one)]
    name = name or detect(places[0])
    one = FORMATS[name]
    groups = one.group([file for place in places for file in _inside(place, one)])
    options = dataclasses.replace(options, language=options.language or one.language)
    return name, [
        Shard(label, group, one.reader, options)
        for label, group in zip(_labels([group[0] for group in groups]), groups, strict=True)
    ]


def detect(place: str) -> str:
    """The format of a file or folder, by its name and its beginning. Raises ReadError."""
    if os.path.isdir(place):
        return _detect_folder(place)
    name = _COMPRESSED.sub("", files.name_of(place).lower())
    binary = name.endswith((".tar", ".tgz", ".parquet"))
    head = "" if binary else files.head(place)
    for one in FORMATS.values():
        if one.detects(name, head):
            return one.name
    raise ReadError(f"{place}: neither its name nor its content tells the format; choose --format {'|'.join(FORMATS)}")


def _detect_folder(place: str) -> str:
    for one in FORMATS.values():
        if one.inside and all(_found(place, pattern) for pattern in one.inside[:1]):
            return one.name
    raise ReadError(f"{place}: no file in this folder tells the format; name the file, or choose --format")


def _inside(place: str, one: Format) -> list[str]:
    """The files of a format in a folder, or the file itself."""
    if not os.path.isdir(place):
        return [place]
    found = [file for pattern in one.inside for file in _found(place, pattern)]
    if not found:
        raise ReadError(f"{place}: a folder without {' or '.join(one.inside) or 'a file of its own'}; name the file")
    return found


def _found(place: str, pattern: str) -> list[str]:
    import glob

    return sorted(glob.glob(os.path.join(glob.escape(place), pattern), recursive=True))


def _labels(places: Sequence[str]) -> list[str]:
    """The shortest names that tell files apart: stems, or else as much of the paths as it takes."""
    parts = [place.replace("\\", "/").rstrip("/").split("/") for place in places]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        labels = ["/".join([*part[-depth:-1], files.stem_of(part[-1])]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label}#{index}" for index, label in enumerate(labels)]
