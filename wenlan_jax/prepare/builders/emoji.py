"""The TFDS data set `wenlan_emoji`: drawn emoji with names and keywords in seven languages, in two drawing styles.

A split is a hash of the English name, the same in both styles: what is trained on one style is tested on names and
drawings it has not seen in the other. Skin tones are left out: they repeat a drawing under nearly the same name.
"""

from __future__ import annotations

import collections
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from wenlan_jax.data import headers, named_sets, records
from wenlan_jax.data.tfds_builder import RecordBuilder
from wenlan_jax.prepare import ingest
from wenlan_jax.prepare.builders import cldr, emoji_images, packages
from wenlan_jax.util import languages

SOURCE = named_sets.EMOJI
SPLIT_SHARES = {"validation": 0.1, "test": 0.1}
SPLITS = (ingest.DEFAULT_SPLIT, *SPLIT_SHARES)
_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))


@dataclasses.dataclass(eq=False, kw_only=True)
class EmojiConfig(tfds.core.BuilderConfig):
    """A drawing style.

    Attributes:
        package: the Debian package of its images.
        files: patterns of the files that are read.
        images: reads the images of an unpacked package.
        license: of the images.
    """

    package: str = ""
    files: tuple[str, ...] = ()
    images: Callable[[Path], Iterator[tuple[str, bytes]]] | None = None
    license: str = ""

    @property
    def wanted(self) -> dict[str, tuple[str, ...]]:
        """The files that are read, by package."""
        texts = tuple(f"{folder}/{code}.xml" for folder in cldr.FOLDERS for code in languages.LANGUAGES)
        return {self.package: self.files, cldr.PACKAGE: texts}


CONFIGS = (
    EmojiConfig(
        name="noto",
        description="Noto Emoji, 136 x 128 pixels",
        package=emoji_images.NOTO_PACKAGE,
        files=(emoji_images.NOTO_FONT,),
        images=emoji_images.noto,
        license="images: SIL Open Font License 1.1, googlefonts/noto-emoji",
    ),
    EmojiConfig(
        name="emojione",
        description="EmojiOne 2, 64 x 64 pixels",
        package=emoji_images.EMOJIONE_PACKAGE,
        files=emoji_images.EMOJIONE_FILES,
        images=emoji_images.emojione,
        license="images: CC BY-SA 4.0, Ranks.com Inc. (EmojiOne)",
    ),
)


class WenlanEmoji(RecordBuilder):
    """Emoji with their names (kind `descriptive`) and keywords (`weak`) in zh, en, de, fr, cs, ja and ko."""

    name = SOURCE
    BUILDER_CONFIGS: ClassVar[list[EmojiConfig]] = list(CONFIGS)

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:  # noqa: N802 - TFDS's name
        """The packages of this style."""
        return packages.instructions(list(self.builder_config.wanted))

    def described(self) -> dict[str, str]:
        """The licences of images and texts differ."""
        config = self.builder_config
        return {"description": f"{self.__doc__} {config.description}", "license": f"{config.license}; {cldr.LICENSE}"}

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        config = self.builder_config
        with tempfile.TemporaryDirectory() as scratch:
            root = packages.unpack(Path(dl_manager.manual_dir), config.wanted, Path(scratch))
            annotations = cldr.read(root, languages.LANGUAGES)
            images = dict(config.images(root))
        by_split: dict[str, list[records.Record]] = collections.defaultdict(list)
        for split, record in _records(images, annotations, f"{SOURCE}/{config.name}"):
            by_split[split].append(record)
        self.info.metadata.update(
            images=len(images),
            without_names=sum(sequence not in annotations for sequence in images),
            skin_tones_left_out=sum(sequence in annotations for sequence in images if _TONES & set(sequence)),
        )
        return {split: self._generate_examples(iter(by_split[split]), split) for split in SPLITS}


def _records(
    images: Mapping[str, bytes], annotations: Mapping[str, cldr.Annotation], source: str
) -> Iterator[tuple[str, records.Record]]:
    """The records of the emoji that have both an image and names, each with its split."""
    for sequence, annotation in annotations.items():
        if sequence not in images or _TONES & set(sequence):
            continue
        header = headers.read(images[sequence])
        split = ingest.split_of(annotation.names["en"], SPLIT_SHARES)
        yield (
            split,
            records.Record(
                id="-".join(f"{ord(character):04X}" for character in sequence),
                image=images[sequence],
                width=header.width,
                height=header.height,
                source=source,
                texts=annotation.texts(),
            ),
        )
