"""Where names in data are looked up. They are never trusted as what a user types on the command line is.

A name leads to a regular file below one folder or address. Other addresses, links that lead out of the folder, and
whatever is no regular file (devices, pipes) are refused, unless the user allows the first two.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from wenlan_jax.config.options import option
from wenlan_jax.prepare.formats import files
from wenlan_jax.prepare.raw_items import ReadError, Reason, Rejected, printable

REMOTE = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "hf")
"""Schemes of the addresses that data may name where the user allows it: web servers and object stores."""

ALLOW_REMOTE, ALLOW_LINKS = "--allow-remote", "--allow-links"


def allow_remote() -> Any:
    """Declares the field of that name: whether data may name images by address."""
    return option(False, f"fetch images that data names by address ({', '.join(REMOTE)})")


def allow_links() -> Any:
    """Declares the field of that name: whether names in data may lead out of their folder by links."""
    return option(False, "follow links that lead out of the directory of the images, or out of that of stored regions")


_LOCAL_SCHEME = "file://"


@dataclasses.dataclass(frozen=True)
class Root:
    """The folder or address `place` that names in data are below; picklable.

    remote: names may also be addresses of one of REMOTE.
    links: links may lead out of the folder.
    linked: folders below it that may themselves be links, since the user set them.
    options: those by which the user can allow more, named where a name is refused.
    """

    place: str
    remote: bool = False
    links: bool = False
    linked: tuple[str, ...] = ()
    options: tuple[str, ...] = (ALLOW_REMOTE, ALLOW_LINKS)

    def read(self, name: str, limit: int) -> bytes:
        """Reads the beginning of what a name names.

        Args:
            name: a path below the root, or an address.
            limit: how many bytes at most.

        Returns:
            The bytes.

        Raises:
            Rejected: for a name that leads elsewhere.
            ReadError: where there is no file that can be read.
        """
        if "://" in name:
            return files.read_bytes(self._address(name), limit)
        if files.is_url(self.place) and not self.place.startswith(_LOCAL_SCHEME):
            return _first_of([posixpath.join(self.place, one) for one in self._below_address(name)], limit)
        return files.read_local(self._path(name), limit)

    def named(self, name: str) -> tuple[str, str]:
        """Shortens a name, below this root.

        Args:
            name: a path below the root, or an address.

        Returns:
            The short name, and what all names of the same file have in common. Addresses, and names that lead
            elsewhere, have themselves in common.
        """
        if "://" in name:
            return name, name
        short = posixpath.normpath(name)
        if files.is_url(self.place) and not self.place.startswith(_LOCAL_SCHEME):
            return short, unicodedata.normalize("NFC", short)
        try:
            short = self._inside(name)
            return short, os.path.relpath(os.path.realpath(self._path(name)), _real(os.path.abspath(self._base)))
        except (Rejected, OSError):
            return short, short

    def has(self, name: str) -> bool:
        """Says whether there may be something of that name; an address is asked when it is read."""
        if "://" in name or (files.is_url(self.place) and not self.place.startswith(_LOCAL_SCHEME)):
            return True
        return os.path.exists(self._path(name))

    def _address(self, name: str) -> str:
        scheme, _, rest = name.partition("://")
        scheme = scheme.lower()
        if scheme not in REMOTE or "::" in name:
            raise _refused(name, f"data may name no address but plain ones of {', '.join(REMOTE)}")
        if not self.remote:
            raise _refused(name, "data names an address" + self._remedy(ALLOW_REMOTE, "fetches"))
        return f"{scheme}://{rest}"

    def _below_address(self, name: str) -> Iterator[str]:
        """What `name` may be called below an address, in the order to try."""
        path = posixpath.normpath(name)
        if path.startswith(("/", "..")) or "::" in path or _has_dots(path):
            raise _refused(name, f"not below {self.place}")
        if not self.place.startswith(("http://", "https://")):
            yield from forms(path)
            return
        if _has_dots(unquote(path)):  # servers and clients go where `%2e%2e` leads
            raise _refused(name, f"not below {self.place}")
        for form in forms(path):
            yield quote(form)
        if quote(path, safe="/%") == path:  # it was quoted when it was written down
            yield path

    @property
    def _base(self) -> str:
        return self.place.removeprefix(_LOCAL_SCHEME)

    def _inside(self, name: str) -> str:
        """A name as it is from the folder on. Raises Rejected for one that leads out of it."""
        base = os.path.abspath(self._base)
        inside = os.path.relpath(os.path.normpath(os.path.join(base, name)), base)
        if inside != os.curdir and _has_dots(inside):
            raise _refused(name, f"not below {self._base}")
        return inside

    def _path(self, name: str) -> str:
        base, inside = self._base, self._inside(name)
        path = _existing(base, inside)
        if self.links:
            return path
        real = os.path.realpath(path)
        if not any(_is_below(real, _real(os.path.join(os.path.abspath(base), one))) for one in ("", *self.linked)):
            raise _refused(name, f"a link that leads out of {base}" + self._remedy(ALLOW_LINKS, "follows"))
        return real

    def _remedy(self, option: str, does: str) -> str:
        return f"; {option} {does} such" if option in self.options else ", and no option allows that"


@functools.lru_cache(maxsize=64)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _refused(name: str, why: str) -> Rejected:
    return Rejected(Reason.UNTRUSTED_PLACE, f"{printable(name[:200])}: {why}")


def _has_dots(path: str) -> bool:
    """Whether a part of a normal path is `..`, `.` or nothing, or is taken for that by one who drops blanks."""
    return any(_usual(part) in ("", os.curdir, os.pardir) for part in path.split("/"))


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _first_of(places: Sequence[str], limit: int) -> bytes:
    for place in places[:-1]:
        try:
            return files.read_bytes(place, limit)
        except ReadError:
            continue
    return files.read_bytes(places[-1], limit)


def forms(name: str) -> Sequence[str]:
    """A name, and the same in the Unicode forms that file systems and programs give it (NFC, NFD)."""
    return list(dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]))


def _existing(base: str, name: str) -> str:
    """The path of `name` below `base`; where it is not there, of the one name that differs in nothing one can see."""
    path = os.path.join(base, name)
    if os.path.lexists(path):
        return path
    path = base
    for part in name.split(os.sep):
        path = os.path.join(path, _alike(path, part))
    return path


def _alike(folder: str, part: str) -> str:
    """The entry of a folder that is `part` but for its Unicode form and blanks around it; or else `part`."""
    if os.path.lexists(os.path.join(folder, part)):
        return part
    try:
        unusual = _unusual(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return part
    usual = _usual(part)
    found = [*unusual.get(usual, ()), *([usual] if os.path.lexists(os.path.join(folder, usual)) else ())]
    if len(found) > 1:
        raise Rejected(
            Reason.MISSING_IMAGE, f"{printable(part[:200])}: {len(found)} files differ from it in Unicode form only"
        )
    return found[0] if found else part


@functools.lru_cache(maxsize=256)
def _unusual(folder: str, changed: int) -> Mapping[str, Sequence[str]]:
    """The entries of a folder that are not in the usual form, by that form, as of the time `changed`."""
    del changed
    found: dict[str, list[str]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if (usual := _usual(entry.name)) != entry.name:
                found.setdefault(usual, []).append(entry.name)
    return found


def _usual(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()
