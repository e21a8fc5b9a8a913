"""`wenlan data`: build named data sets, list them, and look into any data set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wenlan_jax.commands import pack
from wenlan_jax.config.options import Options
from wenlan_jax.prepare import contact_sheet, inspect

INSPECT = Options(inspect.InspectOptions, {"file_format": "format"})

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
    """Declares the arguments of `wenlan data`."""
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
    INSPECT.add(parser, "data_dir")
    parser.add_argument(
        "--manual-dir", "--packages", type=Path, metavar="DIR", help="the files that the set is made from"
    )


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="tell which files this set needs")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    INSPECT.add(parser, "place", "data_dir")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write a contact sheet into this directory")
    INSPECT.add(parser, "cards", "decode", "limit")
    parser.add_argument("--json", action="store_true", help="print JSON")
    raw = parser.add_argument_group("raw data, as for `wenlan pack`")
    INSPECT.add(raw, "images", "allow_remote", "allow_links", "file_format")
    pack.READ.add(raw, "image_name", "language", "encoding", "max_caption")
    pack.FIELDS.add(raw)


def run(arguments: argparse.Namespace, fields: Sequence[str]) -> int:
    """Runs `wenlan data` and returns the exit status."""
    del fields
    return {"build": _build, "list": _list, "inspect": _inspect}[arguments.action](arguments)


def _build(arguments: argparse.Namespace) -> int:
    from wenlan_jax.data import sources
    from wenlan_jax.prepare.builders import registry as builders

    data_dir = arguments.data_dir.expanduser()
    name = builders.find(arguments.name).name
    builders.build(name, data_dir, arguments.manual_dir)
    sizes = sources.split_sizes(name, data_dir)
    print(f"{name} in {data_dir}: {', '.join(f'{split} {count:,}' for split, count in sizes.items())}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from wenlan_jax.prepare.builders import registry as builders

    if arguments.name:
        one = builders.find(arguments.name)
        print(f"{one.name}: {one.title}\n{one.instructions}")
        return 0
    for one in builders.names().values():
        print(f"{one.name:28}{one.title} ({one.needs})")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    data_dir, read = arguments.data_dir.expanduser(), pack.read_options(arguments)
    found, cards = inspect.inspect(INSPECT.read(arguments, data_dir=data_dir, read=read))
    print(json.dumps(found.to_json(), ensure_ascii=False, indent=1) if arguments.json else found.summary())
    if arguments.out is not None:
        note = f"{found.looked_at:,} of {found.total:,} records looked at; {len(cards)} evenly spaced are shown"
        written = contact_sheet.write(arguments.out, cards, str(arguments.place), note)
        if not arguments.json:
            print("\n".join(f"contact sheet: {path}" for path in written))
    return 0
