"""Files out of Debian packages, fetched and unpacked without root: `apt-get download`, then a stream of each."""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from wenlan_jax.data.tfds_builder import BuildError

_TREE = "usr/share"


def instructions(packages: Sequence[str]) -> str:
    """Says how a user gets the packages by hand."""
    return (
        f"The .deb files of the Debian packages {', '.join(packages)}, which\n"
        f"  apt-get download {' '.join(packages)}\n"
        "fetches without root on Debian and Ubuntu; or a directory they are unpacked in; or / where they are installed."
    )


def fetch(packages: Sequence[str], directory: Path) -> None:
    """Downloads packages.

    Args:
        packages: their names.
        directory: where they go.

    Raises:
        BuildError: where apt or the packages are absent.
    """
    if shutil.which("apt-get") is None:
        raise BuildError(
            f"this needs the Debian packages {', '.join(packages)}, and there is no apt-get here; fetch them on a "
            "Debian or Ubuntu machine with `apt-get download`, and name their directory with --manual-dir"
        )
    done = subprocess.run(
        ["apt-get", "download", *packages], cwd=directory, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise BuildError(
            f"`apt-get download {' '.join(packages)}` failed ({lines[-1]}); run `apt-get update` if its lists are old, "
            "or fetch the packages elsewhere and name their directory with --manual-dir"
        )


def unpack(place: Path, wanted: Mapping[str, Sequence[str]], scratch: Path) -> Path:
    """Finds or makes a tree with the wanted files of each package.

    Args:
        place: a directory of .deb files, which are unpacked into `scratch`, or one they were unpacked in.
        wanted: patterns of paths, such as `usr/share/fonts/*.ttf`, by package.
        scratch: an empty directory.

    Returns:
        The root of the tree.

    Raises:
        BuildError: for a package that is not there.
    """
    if (place / _TREE).is_dir():
        return place
    for package, patterns in wanted.items():
        found = sorted(place.glob(f"{package}_*.deb"))
        if not found:
            raise BuildError(f"{place}: no {package}_*.deb. It must hold: {instructions(list(wanted))}")
        _stream(found[-1], patterns, scratch)
    return scratch


def _stream(deb: Path, patterns: Sequence[str], scratch: Path) -> None:
    """Writes the files of one package that match; the others, which may be many, never touch the disk."""
    if shutil.which("dpkg-deb") is None:
        raise BuildError(f"{deb}: needs dpkg-deb to be unpacked; or unpack it elsewhere and name that directory")
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as opened:
        try:
            with tarfile.open(fileobj=opened.stdout, mode="r|") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if member.isfile() and any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
                        archive.extract(member, scratch, filter="data")
        except tarfile.TarError as error:
            raise BuildError(f"{deb}: damaged ({error}); fetch it again") from error
        _, told = opened.communicate()
    if opened.returncode:
        raise BuildError(f"{deb}: cannot be unpacked ({told.decode(errors='replace').strip()}); fetch it again")


def one_file(root: Path, pattern: str) -> Path:
    """Finds the file below `root` that matches; of several versions the last.

    Args:
        root: of the tree.
        pattern: of the file's path.

    Returns:
        The file.

    Raises:
        BuildError: for none.
    """
    found = sorted(root.glob(pattern))
    if not found:
        raise BuildError(f"{root}: no {pattern} in the packages; is this another version of them?")
    return found[-1]
