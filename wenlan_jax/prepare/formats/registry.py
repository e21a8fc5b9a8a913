"""The input formats by name: how each is recognised, which files belong together, and what reads them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.formats import (
    aligned,
    brivl,
    coco,
    conceptual,
    files,
    muge,
    questions,
    tables,
    tokens,
    webdataset,
)
from wenlan_jax.prepare.raw_items import RawShard, ReadError, ReadOptions

_HAN = re.compile("[\u4e00-\u9fff]")
_COMPRESSED = re.compile(r"\.gz$")
_CAPTIONS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".token", ".txt")
_NO_CAPTIONS = ("_stats.json", "dataset_info.json", "features.json", "metadata.json", "package.json", "config.json")
"""Files beside captions: of img2dataset, of prepared directories, of programs."""


@dataclasses.dataclass(frozen=True)
class RawFormat:
    """One layout of raw data.

    Attributes:
        name: of the format.
        reader: reads a shard.
        detects: takes a file's name in lower case and its beginning as text, and says whether it is of the format.
        inside: patterns of the files of the format in a folder.
        group: tells which files make a shard.
        language: of texts which name none, unless the user says.
    """

    name: str
    reader: raw_items.Reader
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


def _any(*ways: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
    return lambda name, head: any(detects(name, head) for detects in ways)


def _aic(name: str, head: str) -> bool:
    """A JSON array of images with lists of Chinese captions; ALBEF's and BLIP's arrays have a field `image` as well."""
    first = _first_object(head) if name.endswith(".json") else {}
    captions = first.get("caption")
    if not isinstance(captions, list) or not isinstance(first.get("image_id"), str) or "image" in first:
        return False
    said = "".join(map(str, captions))
    return bool(_HAN.search(said)) or ("url" in first and not said.strip())


def _first_object(head: str) -> dict[str, Any]:
    """The first object of the JSON array that a file begins with; empty where it begins with none."""
    text = head.lstrip()
    if not text.startswith("["):
        return {}
    try:
        first, _ = json.JSONDecoder().raw_decode(text[1:].lstrip())
    except (ValueError, RecursionError):
        return {}
    return first if isinstance(first, dict) else {}


def _jsonl(*keys: str) -> Callable[[str, str], bool]:
    """JSON lines the first of which has all of `keys`."""

    def detects(name: str, head: str) -> bool:
        first = head.lstrip().split("\n")[0]
        return name.endswith((".jsonl", ".json", ".ndjson")) and all(f'"{key}"' in first for key in keys)

    return detects


_NAMED_SETS = (
    RawFormat("webdataset", webdataset.read, _suffix(*webdataset.SUFFIXES), ("*.tar", "*.tar.gz", "*.tgz")),
    RawFormat("parquet", tables.read_parquet, _suffix(".parquet"), ("*.parquet",)),
    RawFormat("muge", muge.read, _suffix(muge.IMAGES, muge.TEXTS), (f"*{muge.IMAGES}",), muge.group, "zh"),
    RawFormat("conceptual", conceptual.read, lambda name, head: conceptual.looks_so(head), language="en"),
    RawFormat(
        "brivl2",
        aligned.read_brivl2,
        lambda name, head: name == aligned.BRIVL2_IMAGES and "," not in head.split("\n")[0],
        (aligned.BRIVL2_IMAGES,),
        aligned.group_brivl2,
        "zh",
    ),
    RawFormat(
        "multi30k",
        aligned.read_multi30k,
        lambda name, head: False,  # only a folder has it all
        ("**/image_splits/*.txt", "**/raw/*"),
        aligned.group_multi30k,
    ),
    RawFormat("token", tokens.read, lambda name, head: bool(tokens.LINE.fullmatch(head.split("\n")[0]))),
    RawFormat("stair", coco.read_coco, _json("images", "annotations", "tokenized_caption", start="{"), language="ja"),
    RawFormat("karpathy", coco.read_karpathy, _json("images", "sentences", start="{"), language="en"),
    RawFormat(
        "vqa",
        questions.read_vqa,
        _any(_json("questions", "question_id", start="{"), _json("annotations", "question_id", start="{")),
        group=questions.group_vqa,
        language="en",
    ),
    RawFormat("vg_qa", questions.read_vg, _json("qas", start="[")),
    RawFormat("aic_icc", coco.read_aic, _aic, language="zh"),
    RawFormat("coco", coco.read_coco, _json("images", "file_name", start="{"), language="en"),
    RawFormat("brivl", brivl.read, _jsonl(brivl.IMAGE, brivl.SENTENCES)),
)
_ANY_SET = (
    RawFormat("csv", tables.read_csv, _suffix(".csv")),
    RawFormat("tsv", tables.read_tsv, _suffix(".tsv")),
    RawFormat("jsonl", tables.read_jsonl, _jsonl()),
)
FORMATS = {one.name: one for one in (*_NAMED_SETS, *_ANY_SET)}
"""Every format by its name, in the order they are tried in."""


def shards(inputs: Sequence[str], name: str | None, options: ReadOptions) -> tuple[str, list[RawShard]]:
    """Divides inputs into shards.

    Args:
        inputs: files, URLs, patterns of either, or folders.
        name: of the format; None finds it from the first input.
        options: how raw text is understood.

    Returns:
        The name of the format, and the shards of all inputs in order.

    Raises:
        ReadError: for inputs that are not there or of no known format.
    """
    conceptual.check(options)
    places = [place for one in inputs for place in files.expand(one)]
    name = name or detect(places[0], options)
    one = FORMATS[name]
    groups = one.group([file for place in places for file in _inside(place, one, options)])
    options = dataclasses.replace(options, language=options.language or one.language)
    return name, [
        RawShard(label, group, one.reader, options)
        for label, group in zip(_labels([group[0] for group in groups]), groups, strict=True)
    ]


def detect(place: str, options: ReadOptions) -> str:
    """Finds the format of a file or folder, by its name and its beginning.

    Args:
        place: the file or folder.
        options: how raw text is understood.

    Returns:
        The name of the format.

    Raises:
        ReadError: if neither tells the format.
    """
    if os.path.isdir(place):
        return _detect_folder(place, options)
    if (found := _detected(place, options)) is not None:
        return found.name
    raise ReadError(f"{place}: neither its name nor its content tells the format; choose --format {'|'.join(FORMATS)}")


def _detected(place: str, options: ReadOptions) -> RawFormat | None:
    name = _COMPRESSED.sub("", files.name_of(place).lower())
    binary = name.endswith((".tar", ".tgz", ".parquet"))
    head = "" if binary else files.head(place, options.encoding)
    return next((one for one in FORMATS.values() if one.detects(name, head)), None)


def _detect_folder(place: str, options: ReadOptions) -> str:
    """The format that a folder is laid out in, or else that of the one captions file in it."""
    captions = _captions(place, options)
    for one in FORMATS.values():
        if one.inside and all(_found(place, pattern) for pattern in one.inside[:1]):
            # Tables beside archives of images; img2dataset's own lie beside its shards under the same names.
            others = [file for file, of in captions.items() if one.name == "webdataset" and not of.inside]
            if others:
                raise ReadError(f"{place}: has {', '.join(one.inside[:1])} and {_names(others)}; name what to pack")
            return one.name
    if not captions:
        raise ReadError(f"{place}: no file in this folder tells the format; name the file, or choose --format")
    return _only(place, captions).name


def _captions(place: str, options: ReadOptions) -> dict[str, RawFormat]:
    """The captions files that lie in a folder, each with its format; tables only if they name the field of the image.

    Where none does, all of them, so that what they name instead can be told.
    """
    found: dict[str, RawFormat] = {}
    fitting: dict[str, RawFormat] = {}
    for file in _found(place, "*"):
        is_text = _COMPRESSED.sub("", file.lower()).endswith(_CAPTIONS) and not file.endswith(_NO_CAPTIONS)
        if not is_text or not os.path.isfile(file):
            continue
        with contextlib.suppress(ReadError):
            if (one := _detected(file, options)) is not None:
                found[file] = one
                if one not in _ANY_SET or options.fields.image in files.head(file, options.encoding):
                    fitting[file] = one
    return fitting or found


def _only(place: str, captions: Mapping[str, RawFormat]) -> RawFormat:
    formats = {one.name for one in captions.values()}
    if len(captions) > 1 and formats != {"vqa"}:  # which is a pair of files
        raise ReadError(f"{place}: several files in this folder may be meant; name one of {_names(captions)}")
    return next(iter(captions.values()))


def _names(places: Iterable[str]) -> str:
    names = [raw_items.printable(files.name_of(file)) for file in places]
    return ", ".join([*names[:10], *(["..."] if len(names) > 10 else [])])


def _inside(place: str, one: RawFormat, options: ReadOptions) -> list[str]:
    """The files of a format in a folder, or the file itself."""
    if not os.path.isdir(place):
        return [place]
    found = [file for pattern in one.inside for file in _found(place, pattern)]
    if not found:
        captions = {file: of for file, of in _captions(place, options).items() if of is one}
        found = list(captions) if captions and _only(place, captions) else []
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
        labels = [raw_items.printable("/".join([*part[-depth:-1], files.stem_of(part[-1])])) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label}#{index}" for index, label in enumerate(labels)]
