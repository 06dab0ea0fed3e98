"""Stored activations of a subject: their files, and the stream of batches that fits read.

    activations.json                 the layout, each file's CRC-32, and sums for means and scales
    shard-00000.tokens.npy           (texts of the shard, length) uint32
    shard-00000.residual-1.npy       (texts of the shard, length, width), one file for each site

Training texts come first and held-out texts last, so each part is a range of vectors. A text is wholly in one of them.
"""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from halflife.data.streams import Shuffle
from halflife.errors import UserError
from halflife.rng import generator, seed_of

Stored = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[Stored, str] = {"fp32": "<f4", "fp16": "<f2", "bf16": "<u2"}
"""Of the files. NumPy has no bf16: its bits are stored, which are the upper half of a float32."""
Part = Literal["train", "held-out"]
INDEX = "activations.json"
TOKENS = "tokens"
SHARD_BYTES = 2**26
"""Of a shard's activations, all sites together, if a batch of texts fits into it."""
FORMAT = 1


class CorruptActivations(Exception):
    """The folder is incomplete, or a file does not match its checksum."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a folder of activations holds, and in which files."""

    sites: tuple[str, ...]
    width: int
    length: int
    """Tokens of each text"""
    texts: int
    training_texts: int
    pass_texts: int
    """Texts of one forward pass"""
    shard_texts: int
    """Texts of a shard; the last one may have fewer"""
    stored: Stored
    first_position: int = 0
    """Position of each text's first token; not 0 where the subject reads a prompt before it"""

    @property
    def shards(self) -> int:
        return -(-self.texts // self.shard_texts)

    def texts_of(self, shard: int) -> range:
        return range(shard * self.shard_texts, min(self.texts, (shard + 1) * self.shard_texts))

    def part(self, part: Part) -> range:
        """The vectors of a part: text t has those from t * length."""
        middle = self.training_texts * self.length
        return range(middle) if part == "train" else range(middle, self.texts * self.length)


def file_of(shard: int, name: str) -> str:
    return f"shard-{shard:05}.{name}.npy"


def is_held_out(rows: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Which texts (count, length) are held out: `share` of the different ones, at least one of them if it is not 0.

    Equal texts are on the same side. Raises UserError when nothing would be left to train on.
    """
    factors = generator("text").integers(0, 2**63, rows.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    distinct, which = np.unique((rows.astype(np.uint64) + np.uint64(1)) @ factors, return_inverse=True)
    count = math.ceil(round(share * len(distinct), 9))
    if count >= len(distinct):
        raise UserError(
            f"{len(distinct)} different texts given, {count} of them held out: expected more, or held_out=0"
        )
    return (generator(seed, "held out").permutation(len(distinct)) < count)[which]


# Writing.


def append(folder: Path, shard: int, texts: int, arrays: Mapping[str, NDArray[Any]], checksums: dict[str, int]) -> None:
    """Append the arrays of some texts, by site or TOKENS, to the files of a shard of `texts` texts.

    `checksums` (CRC-32, by file) are carried on from those of the texts before, and empty at the first. The store adds
    SHA-256 when the stage is complete.
    """
    for name, array in arrays.items():
        file_name, header = file_of(shard, name), io.BytesIO()
        if file_name not in checksums:
            described = np.lib.format.header_data_from_array_1_0(array) | {"shape": (texts, *array.shape[1:])}
            np.lib.format.write_array_header_1_0(header, described)
        with open(folder / file_name, "ab") as file:
            file.write(header.getvalue())
            file.write(array.data)
        before = zlib.crc32(header.getvalue(), checksums.get(file_name, 0))
        checksums[file_name] = zlib.crc32(array.data.cast("B"), before)


@dataclass(kw_only=True)
class Index:
    """What has been written, as far as it is complete."""

    layout: Layout
    files: dict[str, int]
    """CRC-32 by name, in the order in which they were written"""
    sums: dict[str, NDArray[np.float64]]
    """By site, the sum of the training vectors (width,)"""
    squares: dict[str, float]
    """By site, the sum of their squared norms"""
    seconds: float = 0.0
    """Spent on computing them, in all attempts; in checkpoints only"""

    @classmethod
    def empty(cls, layout: Layout) -> Index:
        sums = {site: np.zeros(layout.width) for site in layout.sites}
        return cls(layout=layout, files={}, sums=sums, squares=dict.fromkeys(layout.sites, 0.0))

    @property
    def shards(self) -> int:
        return len(self.files) // (len(self.layout.sites) + 1)

    def mean(self, site: str) -> NDArray[np.float64]:
        """(width,), over the training texts."""
        return self.sums[site] / len(self.layout.part("train"))

    def rms(self, site: str) -> float:
        """Root mean square of an element, over the training texts."""
        return math.sqrt(self.squares[site] / (len(self.layout.part("train")) * self.layout.width))

    def write(self, folder: Path) -> None:
        sums = {site: total.tolist() for site, total in self.sums.items()}
        body = {**vars(self), "format": FORMAT, "layout": asdict(self.layout), "sums": sums}
        (folder / INDEX).write_text(json.dumps(body), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Index:
        """Raises CorruptActivations when there is no index that this code reads."""
        try:
            body = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            if body["format"] != FORMAT:
                raise CorruptActivations(f"{folder / INDEX} is of format {body['format']}, this code reads {FORMAT}")
            return cls(
                layout=Layout(**{**body["layout"], "sites": tuple(body["layout"]["sites"])}),
                files=body["files"],
                sums={site: np.array(total) for site, total in body["sums"].items()},
                squares=body["squares"],
                seconds=body["seconds"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptActivations(f"{folder} holds no stored activations: {error}") from error


# Reading.


@dataclass(frozen=True)
class Vectors:
    """Activations of some tokens, drawn from different texts."""

    values: dict[str, NDArray[np.float32]]
    """By site (rows, width)"""
    tokens: NDArray[np.int64]
    """(rows,)"""
    positions: NDArray[np.int64]
    """(rows,): of each token in its text"""
    texts: NDArray[np.int64]
    """(rows,): the number of its text in the folder"""


class StoredActivations:
    """A folder of activations, memory-mapped: many readers share its pages. A stage's is `final/` in its folder."""

    def __init__(self, folder: Path, sites: Sequence[str] | None = None) -> None:
        """`sites`: those to read, by default all. Their files' checksums are verified here, once.

        Raises CorruptActivations, which names the file, and UserError when a site was not stored.
        """
        index = self.index = Index.read(folder)
        self.layout, self.sites = index.layout, tuple(sites or index.layout.sites)
        if unknown := [site for site in self.sites if site not in self.layout.sites]:
            raise UserError(f"site {unknown[0]!r} given: activations were stored at {', '.join(self.layout.sites)}")
        if index.shards != self.layout.shards:
            raise CorruptActivations(f"{folder} holds {index.shards} of {self.layout.shards} shards")
        self._arrays = {
            name: [self._mapped(folder, file_of(shard, name)) for shard in range(index.shards)]
            for name in (TOKENS, *self.sites)
        }

    def _mapped(self, folder: Path, name: str) -> NDArray[Any]:
        found = 0
        try:
            with open(folder / name, "rb") as file:
                while block := file.read(2**20):
                    found = zlib.crc32(block, found)
        except OSError as error:
            raise CorruptActivations(f"{folder / name} cannot be read: {error.strerror}") from error
        if found != self.index.files[name]:
            raise CorruptActivations(f"{folder / name} does not match its checksum in {INDEX}")
        array = np.load(folder / name, mmap_mode="r", allow_pickle=False).view(np.ndarray)  # slices of memmap are slow
        return array.reshape(-1, *array.shape[2:])

    def read(self, vectors: NDArray[np.int64]) -> Vectors:
        """The vectors of these numbers (rows,), in their order."""
        texts, columns = np.divmod(vectors, self.layout.length)
        values = {site: self._gathered(site, vectors) for site in self.sites}
        return Vectors(
            values={site: as_float32(found, self.layout.stored) for site, found in values.items()},
            tokens=self._gathered(TOKENS, vectors).astype(np.int64),
            positions=columns + self.layout.first_position,
            texts=texts,
        )

    def _gathered(self, name: str, vectors: NDArray[np.int64]) -> NDArray[Any]:
        arrays = self._arrays[name]
        shards, rows = np.divmod(vectors, self.layout.shard_texts * self.layout.length)
        result = np.empty((len(vectors), *arrays[0].shape[1:]), arrays[0].dtype)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            result[here] = arrays[shard][rows[here]]
        return result


def as_float32(values: NDArray[Any], stored: Stored) -> NDArray[np.float32]:
    if stored == "bf16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32, copy=False)


class ActivationBatches:
    """A stream (`data.streams.Stream`) of the vectors of a part, in a new order at each pass.

    Every pass has each vector exactly once, whatever the number of rows: a batch may end one pass and begin the next.
    Rows lie anywhere in the files: as fast as memory while they fit into it, beyond that as the disk's random reads.
    """

    def __init__(
        self, stored: StoredActivations, *, rows: int, key: tuple[int | str, ...], part: Part = "train"
    ) -> None:
        """`batch` depends on these, and the step, only. Raises UserError when the part is empty."""
        self.stored, self.rows, self._key = stored, rows, key
        self._range = stored.layout.part(part)
        if rows < 1 or not self._range:
            raise UserError(
                f"batches of {rows} rows of {len(self._range)} {part} vectors given: expected at least 1 of each"
            )

    def batch(self, step: int) -> Vectors:
        """Raises IndexError for a negative step."""
        if step < 0:
            raise IndexError(f"step {step} of a stream")
        passes, places = np.divmod(step * self.rows + np.arange(self.rows), len(self._range))
        orders = [self._order(number)(places[passes == number]) for number in range(passes[0], passes[-1] + 1)]
        return self.stored.read(self._range.start + np.concatenate(orders))

    def _order(self, number: int) -> Shuffle:
        return Shuffle(len(self._range), seed_of(*self._key, "pass", int(number)))
