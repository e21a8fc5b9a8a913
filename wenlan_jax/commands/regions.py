"""`wenlan regions`: gives records boxes and features of a detector."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.config.options import Options
from wenlan_jax.prepare.regions import contract, detector, job, stored
from wenlan_jax.prepare.regions.detections import Selection
from wenlan_jax.util.arguments import whole

SELECTION = Options(Selection)
SUPPLIED = Options(detector.UserDetector, {"place": "detector"})
STORED = Options(stored.StoredRegions, {"place": "stored", "file_format": "format", "links": "allow-links"})

_FORMATS = "\n".join(f"  {name:13} {of.meaning}, by {of.key}" for name, of in stored.FORMATS.items())

DESCRIPTION = f"""\
Give boxes, features and class distributions to the records of a packed directory, in place of the boxes they have:
found by a detector of yours, or stored before (--stored).

OUT is a packed directory again, with the counts in {job.REPORT_NAME} and every record that kept its own boxes in
{job.FAULTS_NAME}. The same command again continues an interrupted job. Boxes are sorted by score, best first.

A detector is a directory of a transformers object-detection model of the DETR family (features: the last hidden states
of its queries), or an ONNX file with a JSON file of the same name beside it.

{(contract.__doc__ or "").strip()}

Formats of stored regions, and the usual name of an image there, of {{id}}, {{path}}, {{stem}} and {{number}}:
{_FORMATS}
"""

EXAMPLES = """\
examples:
  wenlan regions data/web --out data/web_regions --detector detectors/vg.onnx
  wenlan regions data/web --out data/web_regions --detector detectors/detr --nms 0.7
  wenlan regions data/coco --out data/coco_regions --stored coco_train2014/all_compressed --format uniter_lmdb \\
      --key 'coco_train2014_{number:012d}.npz'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `wenlan regions`."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a packed directory")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    finder = parser.add_mutually_exclusive_group(required=True)
    SUPPLIED.add(finder, "place", required=False)
    STORED.add(finder, "place", required=False)
    SUPPLIED.add(parser, "threshold")
    SELECTION.add(parser, "min_boxes", "max_boxes")
    parser.add_argument("--workers", type=whole(0), default=0, help="processes; 0: in this one (default: %(default)s)")
    group = parser.add_argument_group("with --detector")
    SUPPLIED.add(group, "kind", required=False)
    SUPPLIED.add(group, "nms", "batch_size", "threads")
    group = parser.add_argument_group("with --stored")
    STORED.add(group, "file_format", required=False)
    STORED.add(group, "key", "links")


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan regions`, prints the report, and returns the exit status."""
    del fields
    report = job.run(arguments.source, arguments.out, _finder(arguments), arguments.workers)
    print(report.summary())
    if report.faulty:
        print(f"          each faulty record is named in {arguments.out / job.FAULTS_NAME}")
    return 0


def _finder(arguments: argparse.Namespace) -> job.DetectionSource:
    selection = SELECTION.read(arguments)
    if arguments.stored is not None:
        if arguments.format is None:
            raise job.RegionJobError("--stored needs --format; see `wenlan regions --help`")
        return STORED.read(arguments, selection=selection)
    kind = arguments.kind or detector.kind_of(arguments.detector)
    return SUPPLIED.read(arguments, kind=kind, min_boxes=selection.min_boxes, max_boxes=selection.max_boxes)
