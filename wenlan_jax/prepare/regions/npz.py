"""Folders with an .npz file of detections for each image, and what BriVL puts in one."""

from __future__ import annotations

import dataclasses
import glob
import io
import itertools
import os
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from wenlan_jax.prepare import image_places
from wenlan_jax.prepare.formats import files
from wenlan_jax.prepare.image_places import Root
from wenlan_jax.prepare.raw_items import ReadError, Rejected
from wenlan_jax.prepare.regions.detections import DetectionError, Detections

Arrays = Mapping[str, np.ndarray]

SUFFIX = ".npz"
SHOWN_KEYS = 3
_SIZE_LIMIT = 1 << 28  # bytes of one image's arrays


@dataclasses.dataclass(frozen=True)
class NpzFolder:
    """A folder with an .npz file for each image, by the name of the file without its ending.

    Attributes:
        place: the folder.
        links: files may be links that lead out of the folder.
        interpret: makes detections of the arrays of the named file.
    """

    place: str
    links: bool
    interpret: Callable[[Arrays, str], Detections]

    def get(self, key: str) -> Detections | None:
        """Reads what was found in an image.

        Args:
            key: the name of the file without its ending.

        Returns:
            The detections; None where there is no file.

        Raises:
            DetectionError: for a damaged one.
        """
        root, name = Root(self.place, links=self.links, options=(image_places.ALLOW_LINKS,)), key + SUFFIX
        try:
            if not root.has(name):
                return None
            data = root.read(name, _SIZE_LIMIT)
        except (ReadError, Rejected) as error:
            raise DetectionError(str(error)) from error
        path = os.path.join(self.place, name)
        return self.interpret(arrays_in(data, path), path)

    def some_keys(self) -> list[str]:
        """Lists a few of the names.

        Raises:
            ReadError: when there is no folder.
        """
        with files.reading(self.place):
            os.stat(self.place)
            found = glob.iglob(f"**/*{SUFFIX}", root_dir=self.place, recursive=True)
            return [name.removesuffix(SUFFIX) for name in itertools.islice(found, SHOWN_KEYS)]

    def stamps(self) -> list[list[int]]:
        """Returns nothing: a look at every file of a large folder would take as long as reading it."""
        return []


def arrays_in(data: bytes, where: str) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file.

    Args:
        data: the file's bytes.
        where: names the file in messages.

    Returns:
        The arrays by name.

    Raises:
        DetectionError: for what is none, or holds pickled objects.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _SIZE_LIMIT:
            raise DetectionError(f"{where}: {size:,} bytes of arrays for one image, more than {_SIZE_LIMIT:,}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    except DetectionError:
        raise
    except Exception as error:  # a damaged archive makes zipfile, zlib and NumPy raise a dozen kinds
        raise DetectionError(f"{where}: not a whole .npz file of plain arrays ({error})") from error


def brivl_boxes(arrays: Arrays, where: str) -> Detections:
    """Reads BriVL's boxes: `bbox`, (boxes, 4) in pixels of the image, and nothing else.

    Args:
        arrays: of the file.
        where: names the file in messages.

    Returns:
        The detections.

    Raises:
        DetectionError: if there is no such array.
    """
    boxes = arrays.get("bbox")
    if boxes is None or boxes.dtype.kind not in "iuf" or boxes.size % 4:
        raise DetectionError(f"{where}: no numeric array 'bbox' of (boxes, 4)")
    return Detections(boxes.astype(np.float64).reshape(-1, 4), None)
