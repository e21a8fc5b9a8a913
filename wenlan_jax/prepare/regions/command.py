"""`wenlan regions`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from wenlan_jax.prepare import image_places
from wenlan_jax.prepare.regions import contract, detector, job, stored
from wenlan_jax.prepare.regions.detections import Selection
from wenlan_jax.util.arguments import real, whole

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
    """The arguments of `wenlan regions`."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    usual = Selection()
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a packed directory")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    finder = parser.add_mutually_exclusive_group(required=True)
    finder.add_argument("--detector", type=Path, metavar="PATH", help="an ONNX file or a directory of transformers")
    finder.add_argument("--stored", metavar="PLACE", help="where regions are stored, in the format of --format")
    parser.add_argument(
        "--threshold",
        type=real(0, 1),
        help=f"least score (default: that of the detector's contract, else {usual.threshold:g})",
    )
    parser.add_argument(
        "--min-boxes",
        type=whole(0),
        default=usual.min_boxes,
        help="kept of an image whatever their score (default: %(default)s)",
    )
    parser.add_argument(
        "--max-boxes", type=whole(1), default=usual.max_boxes, help="kept of an image (default: %(default)s)"
    )
    parser.add_argument("--workers", type=whole(0), default=0, help="processes; 0: in this one (default: %(default)s)")
    _add_detector_arguments(parser.add_argument_group("with --detector"))
    group = parser.add_argument_group("with --stored")
    group.add_argument("--format", choices=tuple(stored.FORMATS))
    group.add_argument("--key", default="", metavar="TEMPLATE", help="name of an image there (default: by format)")
    group.add_argument(image_places.ALLOW_LINKS, action="store_true", help="follow links that lead out of PLACE")


def _add_detector_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--kind", choices=detector.KINDS, help="default: onnx for a file, transformers for a directory")
    group.add_argument("--nms", type=real(0, 1), metavar="OVERLAP", help="suppress worse boxes that overlap more")
    group.add_argument(
        "--batch-size",
        type=whole(1),
        default=detector.Supplied.batch_size,
        help="images at once (default: %(default)s)",
    )
    group.add_argument(
        "--threads", type=whole(0), default=detector.Supplied.threads, help="of each process; 0: all cores (default)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs `wenlan regions`, prints the report, and returns the exit status."""
    report = job.run(arguments.source, arguments.out, _finder(arguments), arguments.workers)
    print(report.summary())
    if report.faulty:
        print(f"          each faulty record is named in {arguments.out / job.FAULTS_NAME}")
    return 0


def _finder(arguments: argparse.Namespace) -> job.Finder:
    if arguments.stored is not None:
        if arguments.format is None:
            raise job.RegionJobError("--stored needs --format; see `wenlan regions --help`")
        threshold = Selection.threshold if arguments.threshold is None else arguments.threshold
        selection = Selection(threshold, arguments.min_boxes, arguments.max_boxes)
        return stored.StoredRegions(arguments.stored, arguments.format, arguments.key, selection, arguments.allow_links)
    return detector.Supplied(
        place=arguments.detector,
        kind=arguments.kind or detector.kind_of(arguments.detector),
        threshold=arguments.threshold,
        nms=arguments.nms,
        min_boxes=arguments.min_boxes,
        max_boxes=arguments.max_boxes,
        batch_size=arguments.batch_size,
        threads=arguments.threads,
    )
