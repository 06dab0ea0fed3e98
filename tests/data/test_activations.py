"""Stored activations as a stream, on files of which every number is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from halflife.data.activations import (
    INDEX,
    TOKENS,
    ActivationBatches,
    CorruptActivations,
    Index,
    Layout,
    StoredActivations,
    append,
    is_held_out,
)
from halflife.errors import UserError

LAYOUT = Layout(
    sites=("residual-1", "mlp-2"),
    width=3,
    length=5,
    texts=11,
    training_texts=8,
    pass_texts=2,
    shard_texts=4,
    stored="fp32",
    first_position=2,
)
SHAPE = (LAYOUT.texts, LAYOUT.length, LAYOUT.width)
VALUES = {
    site: np.random.default_rng(number).normal(size=SHAPE).astype("<f4") for number, site in enumerate(LAYOUT.sites)
}
ROWS = np.random.default_rng(9).integers(0, 300, (LAYOUT.texts, LAYOUT.length))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    index = Index.empty(LAYOUT)
    for shard in range(LAYOUT.shards):
        part = slice(4 * shard, 4 * shard + 4)
        arrays: dict[str, NDArray] = {site: values[part] for site, values in VALUES.items()}
        arrays[TOKENS] = ROWS[part].astype(np.uint32)
        train = {site: values[part][: max(0, 8 - part.start)].reshape(-1, 3) for site, values in VALUES.items()}
        sums = {site: values.sum(0, dtype=float) for site, values in train.items()}
        squares = {site: float((values.astype(float) ** 2).sum()) for site, values in train.items()}
        checksums: dict[str, int] = {}
        for some in (slice(2), slice(2, None)):  # in two passes
            append(tmp_path, shard, len(arrays[TOKENS]), {name: of[some] for name, of in arrays.items()}, checksums)
        index.files |= checksums
        for site in LAYOUT.sites:
            index.sums[site] += sums[site]
            index.squares[site] += squares[site]
    index.write(tmp_path)
    return tmp_path


def test_a_pass_has_every_vector_once_with_its_token_and_place(folder: Path) -> None:
    """Also when batches straddle passes: 40 vectors in batches of 7."""
    stored = StoredActivations(folder)
    batches = [ActivationBatches(stored, rows=7, key=(1, "fit")).batch(step) for step in range(40)]
    texts, columns = (np.concatenate([getattr(b, name) for b in batches]) for name in ("texts", "positions"))
    columns = columns - LAYOUT.first_position
    numbers = texts * LAYOUT.length + columns
    passes = numbers.reshape(7, 40)
    assert (np.sort(passes, axis=1) == np.arange(40)).all()
    assert len({tuple(order) for order in passes}) == 7
    for site in LAYOUT.sites:
        assert np.array_equal(np.concatenate([b.values[site] for b in batches]), VALUES[site][texts, columns])
    assert np.array_equal(np.concatenate([b.tokens for b in batches]), ROWS[texts, columns])


def test_held_out_vectors_are_those_of_held_out_texts(folder: Path) -> None:
    stored = StoredActivations(folder)
    held_out = ActivationBatches(stored, rows=15, key=(1,), part="held-out").batch(0)
    assert set(held_out.texts) == {8, 9, 10}
    assert len(set(zip(held_out.texts, held_out.positions, strict=True))) == 15
    train = ActivationBatches(stored, rows=40, key=(1,)).batch(3)
    assert set(train.texts) == set(range(8))


def test_a_batch_is_a_pure_function_of_key_and_step(folder: Path) -> None:
    stored = StoredActivations(folder)
    first = ActivationBatches(stored, rows=6, key=(1, "fit"))
    first.batch(0)
    found, again = first.batch(9), ActivationBatches(StoredActivations(folder), rows=6, key=(1, "fit")).batch(9)
    assert np.array_equal(found.values["mlp-2"], again.values["mlp-2"])
    other = ActivationBatches(stored, rows=6, key=(2, "fit")).batch(9)
    assert not np.array_equal(found.values["mlp-2"], other.values["mlp-2"])


def test_one_site_is_read_as_with_all_and_needs_only_its_files(folder: Path) -> None:
    whole = ActivationBatches(StoredActivations(folder), rows=6, key=(1,)).batch(2)
    for path in folder.glob("*.mlp-2.npy"):
        path.unlink()
    one = ActivationBatches(StoredActivations(folder, ["residual-1"]), rows=6, key=(1,)).batch(2)
    assert list(one.values) == ["residual-1"]
    assert np.array_equal(one.values["residual-1"], whole.values["residual-1"])
    with pytest.raises(CorruptActivations, match=r"shard-00000\.mlp-2\.npy cannot be read"):
        StoredActivations(folder)
    with pytest.raises(UserError, match="site 'mlp-1' given: activations were stored at residual-1, mlp-2"):
        StoredActivations(folder, ["mlp-1"])


def test_means_and_scales_are_those_of_the_training_texts(folder: Path) -> None:
    index = StoredActivations(folder).index
    train = VALUES["mlp-2"][:8].reshape(-1, 3)
    np.testing.assert_allclose(index.mean("mlp-2"), train.mean(0), rtol=1e-6)
    assert index.rms("mlp-2") == pytest.approx(float(np.sqrt((train**2).mean())), rel=1e-6)


@pytest.mark.parametrize("name", ["shard-00001.residual-1.npy", "shard-00002.tokens.npy"])
def test_a_flipped_byte_is_found_by_name(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(CorruptActivations, match=f"{name} does not match its checksum"):
        StoredActivations(folder)


@pytest.mark.parametrize("damage", ["missing", "text", "format", "shards"])
def test_an_incomplete_folder_is_refused(folder: Path, damage: str) -> None:
    body = json.loads((folder / INDEX).read_text())
    if damage == "missing":
        (folder / INDEX).unlink()
    elif damage == "text":
        (folder / INDEX).write_text('{"format": 1')
    elif damage == "format":
        (folder / INDEX).write_text(json.dumps({**body, "format": 2}))
    else:
        files = dict(list(body["files"].items())[:6])
        (folder / INDEX).write_text(json.dumps({**body, "files": files}))
    expected = {"format": "is of format 2", "shards": "holds 2 of 3 shards"}.get(damage, "holds no stored activations")
    with pytest.raises(CorruptActivations, match=expected):
        StoredActivations(folder)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=60), st.floats(0.01, 0.9), st.integers(0, 9))
def test_equal_texts_are_on_one_side_and_neither_is_empty(names: list[int], share: float, seed: int) -> None:
    rows = np.random.default_rng(3).integers(0, 50, (7, 4))[names]
    distinct = len(set(names))
    expected = int(np.ceil(round(share * distinct, 9)))
    if expected >= distinct:
        with pytest.raises(UserError, match="different texts given"):
            is_held_out(rows, share, seed)
        return
    held_out = is_held_out(rows, share, seed)
    sides = {name: set(held_out[np.array(names) == name]) for name in names}
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {True} for side in sides.values()) == expected


def test_a_stream_without_vectors_is_refused(folder: Path) -> None:
    body = json.loads((folder / INDEX).read_text())
    body["layout"]["training_texts"] = 11
    (folder / INDEX).write_text(json.dumps(body))
    with pytest.raises(UserError, match="0 held-out vectors given"):
        ActivationBatches(StoredActivations(folder), rows=1, key=(0,), part="held-out")
