"""Every data set that can be built by name. Importing this imports no builder, so that listing names costs nothing."""

from __future__ import annotations

import dataclasses
import difflib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wenlan_jax.data.named_sets import EMOJI, PUBLIC, SCENES, STAMPS

if TYPE_CHECKING:
    from wenlan_jax.data.tfds_builder import RecordBuilder


@dataclasses.dataclass(frozen=True)
class Named:
    """A data set by name, e.g. `wenlan_emoji/noto`.

    Attributes:
        name: its name.
        title: for a person.
        kind: its builder.
        config: the configuration of its builder.
        instructions: how its files are fetched.
        packages: Debian packages that it is made from, which can be fetched; empty where the user must fetch files.
        drawn: it is made from nothing.
    """

    name: str
    title: str
    kind: type[RecordBuilder]
    config: str
    instructions: str
    packages: tuple[str, ...] = ()
    drawn: bool = False

    @property
    def needs(self) -> str:
        """What it is made from, in a few words."""
        if self.drawn:
            return "drawn here, nothing to fetch"
        return f"from packages {', '.join(self.packages)}" if self.packages else "from files that you fetch"


def names() -> dict[str, Named]:
    """Lists every data set by its name, first those that are drawn."""
    from wenlan_jax.prepare.builders import emoji, packages, public, sets, stamps
    from wenlan_jax.synthetic import builder as scenes

    told = "Drawn by this package on first use; there is nothing to fetch."
    found = [
        Named(f"{SCENES}/{name}", config.description, scenes.WenlanScenes, name, told, drawn=True)
        for name, config in scenes.CONFIGS.items()
    ]
    found += [
        Named(
            f"{EMOJI}/{config.name}",
            f"{config.description}, names and keywords in seven languages",
            emoji.WenlanEmoji,
            config.name,
            packages.instructions(list(config.wanted)),
            tuple(config.wanted),
        )
        for config in emoji.CONFIGS
    ]
    title = "Tux Paint's stamps, a phrase each in up to seven languages"
    told = packages.instructions([stamps.PACKAGE])
    found.append(Named(STAMPS, title, stamps.WenlanStamps, "", told, (stamps.PACKAGE,)))
    found += [
        Named(f"{PUBLIC}/{one.name}", one.title, public.WenlanPublic, one.name, one.instructions)
        for one in sets.SETS.values()
    ]
    return {one.name: one for one in found}


def find(name: str) -> Named:
    """Finds a data set.

    Args:
        name: its name, or the end of it if only one ends so.

    Returns:
        The data set.

    Raises:
        BuildError: with the nearest names.
    """
    from wenlan_jax.data.tfds_builder import BuildError

    known = names()
    meant = [name] if name in known else [one for one in known if name in _short_names(one)]
    if len(meant) == 1:
        return known[meant[0]]
    spelled = {short: one for one in known for short in (one, *_short_names(one))}
    near = [spelled[short] for short in difflib.get_close_matches(name, spelled, 5, 0.4)]
    told = ", ".join(list(dict.fromkeys([*meant, *near]))[: max(3, len(meant))] or known)
    raise BuildError(f"unknown data set {name[:80]!r}; perhaps {told}? `wenlan data list` names all")


def _short_names(name: str) -> tuple[str, str]:
    """A name without its family, and without the first word of all families."""
    return name.rpartition("/")[2], name.removeprefix("wenlan_")


def build(
    name: str,
    data_dir: Path,
    manual_dir: Path | None = None,
    fetch: Callable[[Sequence[str], Path], None] | None = None,
) -> Path:
    """Builds a data set where it is absent.

    Args:
        name: its name.
        data_dir: where data sets lie.
        manual_dir: files that the user has fetched; None has Debian packages fetched.
        fetch: fetches them; None for `packages.fetch`.

    Returns:
        Its directory.

    Raises:
        BuildError: for a set that cannot be built, with what to fetch.
    """
    from wenlan_jax.data import tfds_builder
    from wenlan_jax.prepare.builders import packages

    one = find(name)
    folder = tfds_builder.version_folder(one.kind, one.config, data_dir)
    if tfds_builder.is_built(folder):
        return folder
    if manual_dir is not None:
        if not Path(manual_dir).is_dir():
            raise tfds_builder.BuildError(f"{manual_dir}: no such directory. {one.instructions}")
        return tfds_builder.build(one.kind, one.config, data_dir, manual_dir)
    if one.drawn:
        return tfds_builder.build(one.kind, one.config, data_dir, None)
    if not one.packages:
        raise tfds_builder.BuildError(
            f"data set {name!r} is not in {data_dir}; build it with "
            f"`wenlan data build {name} --manual-dir DIR`. {one.instructions}"
        )
    with tempfile.TemporaryDirectory() as place:
        (fetch or packages.fetch)(one.packages, Path(place))
        return tfds_builder.build(one.kind, one.config, data_dir, Path(place))
