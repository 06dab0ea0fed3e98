"""A token in the place of the text's own: the model reads it as if it stood there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from halflife.errors import UserError
from halflife.interpret.token_at import TokenAt
from halflife.models.ladder import Rung
from halflife.models.start import freeze, fresh


def test_a_token_in_the_place_of_the_texts_own_is_read_as_if_it_stood_there() -> None:
    def model() -> Any:
        return freeze(fresh(Rung(size="20k"), 12, 0.0, 1), "fp32")

    texts = torch.randint(0, 12, (4, 9), generator=torch.Generator().manual_seed(0))
    wanted = texts.clone()
    wanted[:, 2] = 11
    parents: Any = SimpleNamespace(results=Path(), device="cpu")
    plain, edited = model(), TokenAt(token=11, position=2).prepare(parents)(model())
    with torch.no_grad():
        expected, found = plain.hidden(plain.embed(wanted)), edited.hidden(edited.embed(texts))
        assert torch.equal(expected, found)
        assert not torch.equal(plain.hidden(plain.embed(texts)), found)


def test_a_token_or_a_position_below_zero_is_refused() -> None:
    with pytest.raises(UserError, match="expected 0 or more"):
        TokenAt(token=-1)
