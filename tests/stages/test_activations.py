"""A subject's activations as a stage: what it stores, refuses, and takes up again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from halflife.data import activations
from halflife.data.activations import ActivationBatches, CorruptActivations, Stored
from halflife.data.corpus import Corpus
from halflife.data.mixture import Batches, Mixture, Source
from halflife.data.tokenizers import Bytes, Lexicon
from halflife.errors import Diverged, UserError
from halflife.evaluation.texts import CorpusTexts, MixtureTexts
from halflife.models.hooks import tapped
from halflife.models.ladder import Rung
from halflife.models.model import Model
from halflife.models.sites import Site
from halflife.prompts.prefixed import Prefixed
from halflife.stages.activations import Activations
from halflife.stages.recording import passes
from halflife.stages.subject import Subject
from halflife.store import files
from halflife.store.attempt import Attempt
from halflife.store.difference import record_of
from halflife.store.run import run_stage
from halflife.store.stage import Stage
from halflife.store.store import Store
from tests.data.samples import sample_corpus, sample_file
from tests.plugin.added import Silenced
from tests.prompts.test_blocked import LANGUAGE, UNREACHED
from tests.training.fakes import Host

ROOT = Path(__file__).parents[2]
SITES = (Site(layer=0), Site(layer=1, part="attention"), Site(layer=2))
SUBJECT = Subject(model=Rung(size="20k"), tokenizer=Bytes())
TEXTS = CorpusTexts(corpus=Corpus(digest="none"), count=60, length=16)
STAGE = Activations(subject=SUBJECT, texts=TEXTS, sites=SITES, held_out=0.2)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "SHARD_BYTES", 40_000)


def on_sample(results: Path, stage: Activations = STAGE) -> Activations:
    """`stage` on texts that there are."""
    return replace(stage, texts=replace(TEXTS, corpus=sample_corpus(results)))


def stored(store: Store, stage: Activations) -> Path:
    run_stage(stage, store, checkpoint_seconds=0.0)
    folder = store.verified(stage)
    assert folder
    return folder


def fresh(model: Model, rows: np.ndarray) -> dict[str, Tensor]:
    with torch.no_grad(), tapped(model, SITES) as taps:
        model.hidden(model.embed(torch.from_numpy(rows)))
        return {site.name: taps[site] for site in SITES}


@pytest.mark.parametrize(
    ("kind", "tolerance", "edits", "precision"),
    [
        ("fp32", 1e-6, (), "fp32"),
        ("fp16", 1e-3, (Silenced(directions=3),), "fp32"),
        ("bf16", 8e-3, (), "fp32"),
        ("bf16", 8e-3, (), "bf16"),
    ],
)
def test_stored_vectors_are_those_of_a_fresh_forward_pass(
    store: Store, kind: Stored, tolerance: float, edits: Any, precision: Any
) -> None:
    stage = replace(on_sample(store.root), stored=kind, subject=replace(SUBJECT, edits=edits), precision=precision)
    found = stage.open(stored(store, stage))
    assert found.layout.shards > 3
    every = found.read(np.arange(60 * 16))
    rows = every.tokens.reshape(60, 16)
    for site, expected in fresh(stage.subject.load(Host(store.root), precision), rows).items():
        got = torch.from_numpy(every.values[site])
        torch.testing.assert_close(got, expected.flatten(0, 1).float(), rtol=tolerance, atol=tolerance)
    texts = stage.texts.rows(Bytes(), store.root)
    assert sorted(map(tuple, rows)) == sorted(map(tuple, texts))
    assert np.array_equal(every.positions, np.tile(np.arange(16), 60))


def test_held_out_texts_never_meet_training(store: Store) -> None:
    """Nor do equal texts, of which a small task has many."""
    mixture = Mixture(sources=(Source(corpus=LANGUAGE, examples=5),), sequence=16)
    stage = replace(STAGE, texts=MixtureTexts(mixture=mixture, count=400, batch_rows=8))
    assert len(np.unique(stage.texts.rows(Bytes(), store.root), axis=0)) < 300
    found = stage.open(stored(store, stage))
    parts = []
    for part in ("train", "held-out"):
        stream = ActivationBatches(found, rows=len(found.layout.part(part)), key=(0,), part=part)
        texts = np.unique(stream.batch(0).texts)
        every = found.read((texts[:, None] * 16 + np.arange(16)).ravel())
        parts.append({tuple(row) for row in every.tokens.reshape(-1, 16).tolist()})
    assert parts[0]
    assert parts[1]
    assert not parts[0] & parts[1]


def test_texts_of_a_mixture_are_what_training_on_it_reads(tmp_path: Path) -> None:
    mixture = Mixture(sources=(Source(corpus=sample_corpus(tmp_path)),), sequence=16)
    texts = MixtureTexts(mixture=mixture, count=20, batch_rows=8, seed=3)
    rows = texts.rows(Bytes(), tmp_path)
    batches = Batches(mixture, tmp_path, batch_tokens=8 * 16, steps=3, key=(3, "texts"))
    assert np.array_equal(rows[8:16], batches.batch(1)[:, :16])
    assert rows.shape == (texts.count, texts.length)
    with pytest.raises(UserError, match="expected the same"):
        texts.rows(Lexicon(pieces=("a",)), tmp_path)


def test_scales_are_points_and_of_the_training_texts(store: Store) -> None:
    stage = on_sample(store.root)
    found = stage.open(stored(store, stage))
    points = dict(store.points(stage).select("name", "value").iter_rows())
    assert set(points) == {f"{site.name}/rms" for site in SITES}
    train = found.read(np.arange(len(found.layout.part("train")))).values["residual-2"]
    assert points["residual-2/rms"] == pytest.approx(float(np.sqrt((train.astype(float) ** 2).mean())), rel=1e-5)
    np.testing.assert_allclose(found.index.mean("residual-2"), train.mean(0), atol=1e-5)


def test_the_disk_that_it_takes_is_what_the_plan_says(store: Store) -> None:
    stage = on_sample(store.root)
    folder = stored(store, stage)
    index = (folder / "final" / activations.INDEX).stat().st_size
    headers = 128 * len(list(folder.glob("final/*.npy")))
    assert files.size(folder / "final") - index - headers == stage.cost.disk_bytes == stage.bytes


def test_behind_a_prompt_of_the_subjects_own_only_the_texts_tokens_are_stored() -> None:
    model = SUBJECT.load(Host(Path()))
    prefix = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    rows = np.random.default_rng(0).integers(0, 256, (60, 16))
    layout = replace(STAGE.layout(60), first_position=3)
    prefixed = Prefixed(model, prefix)
    found = [each.arrays["residual-2"] for each in passes(prefixed, torch.from_numpy(rows), layout, SITES)]
    with torch.no_grad(), tapped(model, SITES) as taps:
        model.hidden(torch.cat([prefix.expand(60, -1, -1), model.embed(torch.from_numpy(rows))], dim=1))
    expected = taps[Site(layer=2)][:, 3:]
    torch.testing.assert_close(torch.from_numpy(np.concatenate(found)), expected, rtol=1e-4, atol=1e-4)


def test_numbers_beyond_fp16_are_refused_and_those_that_are_not_finite_are_a_result() -> None:
    model = SUBJECT.load(Host(Path()))
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (60, 16)))
    model.embed.weight.mul_(1e6)
    with pytest.raises(UserError, match=r"at residual-0 given: fp16 holds numbers up to 65,504; use stored='bf16'"):
        next(passes(model, rows, replace(STAGE, stored="fp16").layout(60), SITES))
    next(passes(model, rows, replace(STAGE, stored="bf16").layout(60), SITES))
    model.embed.weight[rows[30, 3]] = float("nan")
    with pytest.raises(Diverged, match=r"activations at residual-0 are not finite, in text \d+ or soon after"):
        list(passes(model, rows, STAGE.layout(60), SITES))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": ()}, "activations at no site given"),
        ({"sites": (Site(layer=1), Site(layer=1))}, "residual-1 given several times"),
        ({"sites": (Site(layer=9),)}, "layer 9 of 20k given: it has 2 blocks"),
        ({"held_out": 1.0}, "held_out 1.0 given"),
        ({"stored": "fp64"}, "type of stored activations 'fp64' given"),
        ({"subject": Subject(model=UNREACHED), "texts": replace(TEXTS, length=65)}, "texts of 65 tokens given"),
        (
            {"max_bytes": 300_000},
            r"activations of 0\.000372 GB given \(960 tokens at 3 sites in fp32\): at most 0\.0003 GB are allowed; "
            r"store fewer texts or sites, use stored='fp16', or raise max_bytes",
        ),
    ],
)
def test_what_cannot_be_stored_is_refused_in_one_line_before_it_runs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        replace(STAGE, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"count": 0}, {"batch_rows": 0}])
def test_texts_of_a_mixture_without_a_row_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"texts in batches of .* given: expected at least 1 of each"):
        MixtureTexts(mixture=Mixture(sources=(Source(corpus=Corpus(digest="d")),)), **changes)


def test_the_quota_is_no_part_of_the_key() -> None:
    assert replace(STAGE, max_bytes=1e12).key == STAGE.key != replace(STAGE, held_out=0.1).key


def test_a_flipped_byte_is_found_by_name_and_the_stage_computed_again(store: Store) -> None:
    stage = on_sample(store.root)
    folder = stored(store, stage)
    path = folder / "final" / "shard-00002.residual-2.npy"
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptActivations, match=r"shard-00002\.residual-2\.npy does not match its checksum"):
        stage.open(folder)
    stage.open(folder, SITES[0])  # its own files are whole
    with pytest.warns(UserWarning, match=r"shard-00002\.residual-2\.npy fails its checksum"):
        assert Store(store.root).verified(stage) is None
    stage.open(stored(Store(store.root), stage))


# Interrupted and resumed.


def checksums(attempt: Path) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in files.manifest(attempt / "final").items()}


def interrupted(stage: Stage, attempt: Attempt) -> dict[str, Any]:
    """The stage's run, up to its first checkpoint."""
    checkpointed = attempt.checkpointed

    def then_stop(step: int, folder: Path) -> None:
        checkpointed(step, folder)
        raise KeyboardInterrupt

    attempt.checkpointed = then_stop
    return stage.run(attempt)


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty results folder, in a bucket or not."""
    if request.param == "disk":
        return str(tmp_path / "shared")
    name = uuid.uuid4().hex
    return f"memory://laboratory/{name}" if request.param == "memory" else f"{request.getfixturevalue('bucket')}/{name}"


def test_an_interrupted_pass_resumes_at_its_shards_on_another_machine_and_ends_with_the_same_bits(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(machine: str) -> Store:
        monkeypatch.setenv("HALFLIFE_CACHE", str(tmp_path / machine))
        store = Store(address)
        store.root.mkdir(parents=True, exist_ok=True)
        sample_corpus(store.root)
        return store

    undisturbed = Store(tmp_path / "undisturbed")
    expected = checksums(stored(undisturbed, on_sample(undisturbed.root)))
    here = at("here")
    stage = on_sample(here.root)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, here, checkpoint_seconds=0.0, compute=interrupted)
    there = at("there")
    assert checksums(stored(there, stage)) == expected
    record = record_of(there.home(stage))
    assert 0 < record["resumed"]["step"] < stage.tokens
    assert there.outcome(stage).summary["training_texts"] == 48  # pyright: ignore[reportOptionalMemberAccess]


def test_shards_of_another_layout_are_not_resumed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = on_sample(store.root)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, store, checkpoint_seconds=0.0, compute=interrupted)
    monkeypatch.setattr(activations, "SHARD_BYTES", 80_000)
    with pytest.warns(UserWarning, match="activations are computed from the start: .* has another layout"):
        folder = stored(store, stage)
    assert stage.open(folder).layout.shards == len(list(folder.glob("final/*.tokens.npy")))


@pytest.mark.slow
def test_a_pass_that_was_killed_ends_with_the_bits_of_one_that_was_not(tmp_path: Path) -> None:
    text = sample_file(tmp_path)

    def worker(results: Path, *how: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.stages.activations_worker", str(results), str(text), *how]
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)

    def completed(results: Path) -> Path:
        return Path(worker(results).stdout.splitlines()[-1])

    assert worker(tmp_path / "killed", "killed").returncode == -signal.SIGKILL
    killed, whole = completed(tmp_path / "killed"), completed(tmp_path / "whole")
    record = files.read_json(killed / "stage.json") or {}
    assert record["resumed"]["step"] > 0
    assert checksums(killed) == checksums(whole)
    assert len(checksums(whole)) > 20
