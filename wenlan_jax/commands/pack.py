"""`wenlan pack`: turns pairs of images and texts into records."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from wenlan_jax.config.options import Options
from wenlan_jax.prepare import pack, pack_shard, raw_images, raw_items
from wenlan_jax.prepare.regions import stored

PACK = Options(pack.PackOptions, {"file_format": "format", "split_shares": "split"})
READ = Options(raw_items.ReadOptions)
IMAGES = Options(raw_images.ImageOptions)
FIELDS = Options(
    raw_items.FieldNames,
    {"texts": "text-field", "boxes": "box-field"}
    | {name: f"{name}-field" for name in ("image", "id", "split", "language", "kind", "source")},
)
STORED = {"place": "regions", "file_format": "regions-format", "key": "regions-key"}
REGIONS = Options(stored.StoredRegions, STORED)

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
    """Declares the arguments of `wenlan pack`."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    PACK.add(parser, "inputs", "out", "images", "file_format", "source", "split_shares", "on_bad", "workers", "threads")
    READ.add(parser.add_argument_group("texts"), "language", "encoding", "max_caption")
    images = parser.add_argument_group("images")
    IMAGES.add(images)
    PACK.add(images, "allow_remote", "allow_links")
    READ.add(images, "image_name")
    FIELDS.add(parser.add_argument_group("which field or column holds what"))
    REGIONS.add(parser.add_argument_group("boxes and features of a detector"), *STORED, required=False)


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan pack`, prints the report, and returns the exit status."""
    del fields
    report = pack.pack(
        PACK.read(
            arguments,
            read=read_options(arguments),
            image_options=IMAGES.read(arguments),
            regions=_regions(arguments),
        )
    )
    print(report.summary())
    if report.rejected:
        print(f"          each rejected line is named in {arguments.out / pack.REJECTED_NAME}")
    return 0


def _regions(arguments: argparse.Namespace) -> stored.StoredRegions | None:
    if (arguments.regions is None) != (arguments.regions_format is None):
        raise pack_shard.PackError("--regions and --regions-format go together; name both")
    return None if arguments.regions is None else REGIONS.read(arguments, links=arguments.allow_links)


def read_options(arguments: argparse.Namespace) -> raw_items.ReadOptions:
    """Reads how raw text is understood."""
    return READ.read(arguments, fields=FIELDS.read(arguments))
