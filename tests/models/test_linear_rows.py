"""Rows on a line: training them is training two vectors, w0 + s w1, and every row is where they put it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from halflife.data.attributes import AttributeText
from halflife.data.mixture import Batches, Mixture
from halflife.data.sources import Source
from halflife.data.transforms import Tags
from halflife.errors import UserError
from halflife.models.linear_rows import on_a_line
from halflife.store.execution import Execution
from halflife.tasks.attributes import AttributeGrammar
from halflife.training import checkpoints
from tests.training.fakes import Host, Interrupted, recipe, run

ROWS = [2, 3, 5, 6, 7]


def test_the_ends_are_trained_as_if_the_others_were_computed_from_them() -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(9, 4)
    ends = embedding.weight[[2, 7]].detach().clone().requires_grad_()
    place = on_a_line(embedding, ROWS)
    one, other = torch.optim.Adam([embedding.weight], lr=0.1), torch.optim.Adam([ends], lr=0.1)
    for _ in range(5):
        tokens, goals = torch.randint(0, 5, (20,)), torch.randn(20, 4)
        share = (tokens / 4)[:, None]
        for optimizer, rows in ((one, embedding(torch.tensor(ROWS)[tokens])), (other, ends[0].lerp(ends[1], share))):
            optimizer.zero_grad()
            (rows - goals).square().mean().backward()
            optimizer.step()
        place()
        torch.testing.assert_close(embedding.weight[ROWS], ends[0].lerp(ends[1], torch.linspace(0, 1, 5)[:, None]))
    assert (embedding.weight[ROWS] - ends[0]).abs().max() > 0.1


TEXT = AttributeText(grammar=AttributeGrammar(symbols=4, attributes=1, values=5, scalar=True))
TAGS = Tags(scalar=True, told=0.9)
TRAIN = recipe(
    mixture=Mixture(sources=(Source(corpus=TEXT, transforms=(TAGS,)),), tokenizer=TEXT.tokenizer([TAGS]), sequence=16)
)
BATCHES = Batches(TRAIN.mixture, Path(), batch_tokens=TRAIN.batch_tokens, steps=TRAIN.steps, key=(0,))


def test_after_training_scalar_tags_are_on_a_line_and_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    def train(host: Host, **arguments: Any) -> None:
        run(TRAIN, host, batches=BATCHES, measures={"clean": lambda model: {"tokens": 0.0}}, **arguments)

    with pytest.raises(Interrupted):
        train(Host(tmp_path / "broken", interrupt_at=5), checkpoint_seconds=0.0)
    train(Host(tmp_path / "whole"))
    train(Host(tmp_path / "again", resume=next((tmp_path / "broken").glob("resume-*"))))
    whole, again = (checkpoints.read_weights(tmp_path / name / "final") for name in ("whole", "again"))
    assert all((whole[name] == again[name]).all() for name in whole)
    (line,) = TRAIN.mixture.lines
    rows = whole["embed.weight"][list(line)]
    torch.testing.assert_close(rows, rows[0].lerp(rows[-1], torch.linspace(0, 1, 5)[:, None]), rtol=0, atol=1e-6)
    assert (rows[-1] - rows[0]).norm() > 1


def test_an_engine_that_cannot_keep_rows_on_a_line_is_refused_in_the_plan() -> None:
    with pytest.raises(UserError, match="a scalar tag is not supported by the engine 'deepspeed': use --engine torch"):
        TRAIN.check_execution(Execution(engine="deepspeed"))
    plain = replace(TRAIN.mixture, sources=(Source(corpus=TEXT, transforms=(Tags(),)),))
    replace(TRAIN, mixture=plain).check_execution(Execution(engine="deepspeed"))
