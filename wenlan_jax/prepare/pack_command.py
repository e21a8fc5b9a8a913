"""The command line of `wenlan pack`."""

from __future__ import annotations

import argparse
import collections
import dataclasses
from pathlib import Path

from wenlan_jax.prepare import image_places, pack, pack_shard, raw_images, raw_items
from wenlan_jax.prepare.formats import registry
from wenlan_jax.prepare.regions import stored
from wenlan_jax.util.arguments import text, whole

DESCRIPTION = """\
Pack pairs of images and texts into a data set for training.

Every input names images and their texts in one of these formats, which is found from the first input:
  csv, tsv      with a header, which tells the separator: columns image and caption, and if you like language, kind,
                split, id, source
  jsonl         one object a line, or one JSON array of objects (BLIP, ALBEF); --image-field and --text-field say which
                fields hold what. A text may be a string, a list, or an object from language to either
  parquet       the same in columns; images as paths, bytes, or {bytes, path}
  webdataset    tar shards of KEY.jpg, KEY.txt, KEY.json (img2dataset), also .tar.gz, also by URL. KEY ends at the last
                dot, but for KEY.zh.txt and KEY.title.txt: a language or a known kind of text
  brivl, brivl2 *.jsonl with image_id, bbox and sentences; or images.csv and texts.csv, a line each
  coco, stair, karpathy, token, multi30k, aic_icc, muge, conceptual, vqa, vg_qa   as those sets are published
Lines of one image in one file become one record. Several inputs, a pattern such as 'shards/{00000..00099}.tar' or
'part-*.csv', or a folder are packed side by side; of a folder without shards, the one captions file in it. The same
command goes on with an interrupted pack.

Names of images in data lead to regular files below --images and nowhere else. What you type is trusted, what data says
is not: addresses need --allow-remote, links that lead out of the folder --allow-links.

Every item that cannot be packed is named with the reason in OUT/rejected.jsonl.
"""

EXAMPLES = """\
examples:
  wenlan pack captions.tsv --out data/flowers --language zh --split validation=0.01,test=0.01 --max-side 512
  wenlan pack emoji/records.jsonl --out data/emoji --id-field emoji \\
      --text-field name=descriptive --text-field keywords=weak
  wenlan pack brivl.jsonl --images /photos --out data/brivl --language zh
  wenlan pack 's3://bucket/{00000..00331}.tar' --out data/web --source web --max-side 640
  wenlan pack captions_train2014.json --images coco --out data/coco --regions coco_train2014/all_compressed \\
      --regions-format uniter_lmdb --regions-key 'coco_train2014_{number:012d}.npz'
  wenlan pack v2_OpenEnded_mscoco_val2014_questions.json v2_mscoco_val2014_annotations.json --images coco --out data/vqa
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `wenlan pack`."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    usual = pack.PackOptions(inputs=(), out=Path())
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, URLs, patterns of either, or folders")
    parser.add_argument("--out", type=Path, required=True, help="directory to write; an earlier pack is replaced")
    parser.add_argument("--images", help="directory or URL of the images (default: that of the first input)")
    parser.add_argument("--format", choices=tuple(registry.FORMATS), help="default: found from the first input")
    parser.add_argument(
        "--source", type=text, default=usual.source, help="source of records that name none (default: OUT's name)"
    )
    parser.add_argument(
        "--split",
        type=_shares,
        default={},
        metavar="NAME=SHARE,...",
        help="put these shares of the records in splits, by a hash of the id; the rest is train",
    )
    parser.add_argument(
        "--on-bad",
        choices=pack_shard.ON_BAD,
        default=usual.on_bad,
        help="count what cannot be packed, or end at the first (default: %(default)s)",
    )
    parser.add_argument("--workers", type=whole(0), help="processes, each at a shard (default: one per core)")
    parser.add_argument(
        "--threads", type=whole(0), default=usual.threads, help="threads for images (default: one per core)"
    )
    add_text_arguments(parser.add_argument_group("texts"), usual.read)
    _add_image_arguments(parser.add_argument_group("images"), usual.image_options)
    add_field_arguments(parser.add_argument_group("which field or column holds what"), usual.read.fields)
    _add_region_arguments(parser.add_argument_group("boxes and features of a detector"))


def add_text_arguments(group: argparse._ArgumentGroup, usual: raw_items.ReadOptions) -> None:
    """Declares the options of how texts are read."""
    group.add_argument(
        "--language",
        type=text,
        default=usual.language,
        help="language of texts that name none, e.g. zh; any usual spelling",
    )
    group.add_argument(
        "--encoding",
        default=usual.encoding,
        help="e.g. gb18030; a byte order mark tells more (default: %(default)s)",
    )
    group.add_argument(
        "--max-caption",
        type=whole(1),
        default=usual.max_caption,
        metavar="CHARACTERS",
        help="longer texts are dropped and counted (default: %(default)s)",
    )


def _add_image_arguments(group: argparse._ArgumentGroup, usual: raw_images.ImageOptions) -> None:
    group.add_argument("--max-side", type=whole(1), metavar="PIXELS", help="shrink larger images to this long side")
    group.add_argument(
        "--max-pixels",
        type=whole(1),
        default=usual.max_pixels,
        metavar="PIXELS",
        help="refuse images of more, or of more bytes than 4 for each, unopened (default: %(default)s)",
    )
    group.add_argument(
        "--exif",
        choices=raw_images.EXIF_CHOICES,
        default=usual.exif,
        help="whether to turn images, and boxes with them, as EXIF says (default: %(default)s)",
    )
    add_trust_arguments(group)
    group.add_argument(
        "--image-name",
        default=raw_items.ReadOptions().image_name,
        metavar="TEMPLATE",
        help="name of the image of a line that gives a URL, by {number} and {url} (default: %(default)s)",
    )


def add_trust_arguments(group: argparse._ArgumentGroup) -> None:
    """Declares how far names of images in data are followed."""
    group.add_argument(
        image_places.ALLOW_REMOTE,
        action="store_true",
        help=f"fetch images that data names by address ({', '.join(image_places.REMOTE)})",
    )
    group.add_argument(
        image_places.ALLOW_LINKS,
        action="store_true",
        help="follow links that lead out of the directory of the images, or out of that of stored regions",
    )


def add_field_arguments(group: argparse._ArgumentGroup, usual: raw_items.FieldNames) -> None:
    """Declares the options of where in a record each part is."""
    group.add_argument(
        "--image-field", type=text, default=usual.image, metavar="FIELD", help="path (default: %(default)s)"
    )
    group.add_argument(
        "--text-field",
        action="append",
        type=_text_field,
        metavar="FIELD[=KIND]",
        help="texts and their kind, e.g. descriptive or weak; may be given several times (default: caption)",
    )
    for name in ("id", "split", "language", "kind", "source"):
        group.add_argument(
            f"--{name}-field", type=text, metavar="FIELD", help=f"{name} (default: {name}, where present)"
        )
    group.add_argument("--box-field", type=text, metavar="FIELD", help="boxes [[x1, y1, x2, y2], ...] in pixels")


def _add_region_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--regions", metavar="PLACE", help="where they are stored; they replace boxes of the inputs")
    group.add_argument(
        "--regions-format",
        choices=tuple(stored.FORMATS),
        help="; ".join(f"{name}: {of.meaning}" for name, of in stored.FORMATS.items()),
    )
    group.add_argument(
        "--regions-key",
        default="",
        metavar="TEMPLATE",
        help="name of an image there, of {id}, {path}, {stem} and {number} (default: by format)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs `wenlan pack` with parsed arguments, prints the report, and returns the exit status."""
    options = pack.PackOptions(
        inputs=tuple(args.inputs),
        out=args.out,
        images=args.images,
        allow_remote=args.allow_remote,
        allow_links=args.allow_links,
        file_format=args.format,
        read=read_options(args),
        image_options=raw_images.ImageOptions(max_side=args.max_side, max_pixels=args.max_pixels, exif=args.exif),
        source=args.source,
        split_shares=args.split,
        regions=_regions(args),
        on_bad=args.on_bad,
        workers=args.workers,
        threads=args.threads,
    )
    report = pack.pack(options)
    print(report.summary())
    if report.rejected:
        print(f"          each rejected line is named in {options.out / pack.REJECTED_NAME}")
    return 0


def _regions(args: argparse.Namespace) -> stored.StoredRegions | None:
    if (args.regions is None) != (args.regions_format is None):
        raise pack_shard.PackError("--regions and --regions-format go together; name both")
    return (
        None
        if args.regions is None
        else stored.StoredRegions(args.regions, args.regions_format, args.regions_key, links=args.allow_links)
    )


def read_options(args: argparse.Namespace) -> raw_items.ReadOptions:
    """What the parsed options of both groups say."""
    fields = raw_items.FieldNames(
        image=args.image_field,
        id=args.id_field,
        split=args.split_field,
        language=args.language_field,
        kind=args.kind_field,
        source=args.source_field,
        boxes=args.box_field,
    )
    if args.text_field:
        fields = dataclasses.replace(fields, texts=dict(args.text_field))
    return raw_items.ReadOptions(
        fields=fields,
        language=args.language,
        encoding=args.encoding,
        max_caption=args.max_caption,
        image_name=args.image_name,
    )


def _text_field(value: str) -> tuple[str, str]:
    name, _, kind = text(value).partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{value!r} is not FIELD or FIELD=KIND")
    return name, kind or raw_items.DEFAULT_KIND


def _shares(value: str) -> dict[str, float]:
    try:
        pairs = [(name.strip(), float(share)) for name, share in (part.split("=") for part in value.split(","))]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=SHARE,NAME=SHARE") from error
    for name, count in collections.Counter(name for name, _ in pairs).items():
        if count > 1:
            raise argparse.ArgumentTypeError(f"{value!r} names {name!r} {count} times; give one share")
    return dict(pairs)
