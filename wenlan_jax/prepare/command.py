"""`wenlan data`: build named data sets, list them, and look into any data set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from wenlan_jax.config import sections
from wenlan_jax.prepare import pack_command, raw_items
from wenlan_jax.prepare.formats import registry
from wenlan_jax.util.arguments import whole

DESCRIPTION = "Build named public data sets, list them, or look into a data set of your own."

_BUILD = """\
Build a named data set in our schema. Sets made from Debian packages (wenlan_emoji, wenlan_stamps) are fetched without
root by `apt-get download` unless --manual-dir names a directory that holds them; of the public sets you fetch the files
yourself, and `wenlan data list NAME` says which. Then `--config.data.source=NAME` trains on it.
"""
_INSPECT = """\
Look into a packed directory, a named data set, or anything that `wenlan pack` takes: records by split, sources,
languages, kinds, formats, lengths of captions, sizes of images, boxes, questions, and broken items by reason. --out
receives a contact sheet as a JPEG, and as a page that has the captions, too.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wenlan data`."""
    parser.description = DESCRIPTION
    parser.epilog = (
        "examples:\n  wenlan data list\n  wenlan data build wenlan_emoji/noto\n"
        "  wenlan data build wenlan_public/coco_cn --manual-dir downloads/coco-cn\n"
        "  wenlan data inspect data/web --out sheets/web --limit 10000"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_build(_action(actions, "build", "build a named data set", _BUILD))
    _add_list(_action(actions, "list", "name the data sets that can be built", "List data sets, or tell of one."))
    _add_inspect(_action(actions, "inspect", "count and measure what is in a data set", _INSPECT))


def _action(actions: Any, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return parser


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="e.g. wenlan_emoji/noto; `wenlan data list` names all")
    _add_data_dir(parser)
    parser.add_argument(
        "--manual-dir", "--packages", type=Path, metavar="DIR", help="the files that the set is made from"
    )


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="tell which files this set needs")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="PATH", help="packed directory, name of a set, or raw file, folder or URL")
    _add_data_dir(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write a contact sheet into this directory")
    parser.add_argument(
        "--cards", type=whole(0), default=64, help="images of the contact sheet, at most (default: %(default)s)"
    )
    parser.add_argument("--decode", action="store_true", help="decode every image instead of reading its header")
    parser.add_argument("--limit", type=whole(1), metavar="N", help="look at N records, evenly spaced, instead of all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    usual = raw_items.ReadOptions()
    raw = parser.add_argument_group("raw data, as for `wenlan pack`")
    raw.add_argument("--images", help="directory or URL of the images (default: that of PATH)")
    pack_command.add_trust_arguments(raw)
    raw.add_argument("--format", choices=tuple(registry.FORMATS), help="default: found from PATH")
    raw.add_argument("--image-name", default=usual.image_name, metavar="TEMPLATE", help="default: %(default)s")
    pack_command.add_text_arguments(raw, usual)
    pack_command.add_field_arguments(raw, usual.fields)


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    usual = Path(sections.DataConfig().dir)
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=usual,
        metavar="DIR",
        help="where sets lie (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs `wenlan data` with parsed arguments, and returns the exit status."""
    return {"build": _build, "list": _list, "inspect": _inspect}[args.action](args)


def _build(args: argparse.Namespace) -> int:
    from wenlan_jax.data import sources
    from wenlan_jax.prepare.builders import registry as builders

    data_dir = args.data_dir.expanduser()
    name = builders.find(args.name).name
    builders.build(name, data_dir, args.manual_dir)
    sizes = sources.split_sizes(name, data_dir)
    print(f"{name} in {data_dir}: {', '.join(f'{split} {count:,}' for split, count in sizes.items())}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from wenlan_jax.prepare.builders import registry as builders

    if args.name:
        one = builders.find(args.name)
        print(f"{one.name}: {one.title}\n{one.instructions}")
        return 0
    for one in builders.names().values():
        print(f"{one.name:28}{one.title} ({one.needs})")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from wenlan_jax.prepare import contact_sheet, inspect

    options = inspect.InspectOptions(
        place=args.place,
        data_dir=args.data_dir.expanduser(),
        images=args.images,
        allow_remote=args.allow_remote,
        allow_links=args.allow_links,
        file_format=args.format,
        read=pack_command.read_options(args),
        decode=args.decode,
        limit=args.limit,
        cards=args.cards,
    )
    found, cards = inspect.inspect(options)
    print(json.dumps(found.to_json(), ensure_ascii=False, indent=1) if args.json else found.summary())
    if args.out is not None:
        note = f"{found.looked_at:,} of {found.total:,} records looked at; {len(cards)} evenly spaced are shown"
        written = contact_sheet.write(args.out, cards, str(args.place), note)
        if not args.json:
            print("\n".join(f"contact sheet: {path}" for path in written))
    return 0
