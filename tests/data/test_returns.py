"""Documents with their return: levels are equally frequent, and order documents by the exact posterior."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halflife.data.attributes import AttributeText
from halflife.data.returns import Returns
from halflife.data.transforms import Tags
from halflife.errors import UserError
from halflife.tasks.attributes import UNTOLD, AttributeGrammar

TEXT = AttributeText(grammar=AttributeGrammar(attributes=2, values=2, strength=1.0))


def test_levels_are_equally_frequent_and_rise_with_the_posterior(tmp_path: Path) -> None:
    returns = Returns(text=TEXT, told=(1, UNTOLD), levels=4)
    tokenizer = TEXT.tokenizer()
    drawn = returns.prepare(tokenizer, tmp_path)(np.random.default_rng(0), 4000, 12)
    level = drawn.values[:, 0]
    assert drawn.choices == (4,)
    np.testing.assert_allclose(np.bincount(level, minlength=4) / 4000, 0.25, atol=0.03)
    score = TEXT.classifier((1, UNTOLD), tokenizer, tmp_path)(drawn.tokens)
    for one in range(3):
        assert score[level == one].max() <= score[level == one + 1].min()


def test_a_tag_tells_the_return_before_the_document(tmp_path: Path) -> None:
    from halflife.data.sources import Source, row_filler
    from halflife.data.tokenizers import special_ids
    from halflife.data.transforms import special_tokens, tag

    returns, tags = Returns(text=TEXT, told=(1, UNTOLD), levels=4), Tags()
    tokenizer = TEXT.tokenizer()
    tokenizer = type(tokenizer)(alphabet=tokenizer.alphabet, special=special_tokens((tags,), returns.choices))
    batch = np.empty((500, 13), np.int64)
    fill = row_filler(Source(corpus=returns, transforms=(tags,)), tokenizer, tmp_path, 12)
    fill(batch, list(range(500)), [0.0] * 500, ("test",))
    top = special_ids(tokenizer)[tag(0, 3)]
    score = TEXT.classifier((1, UNTOLD), tokenizer, tmp_path)(batch[:, 1:])
    behind = ~batch[:, 0] == top  # not predicted
    assert 60 < behind.sum() < 190
    assert score[behind].min() >= score[~behind].max() - 1e-9


def test_fewer_than_two_levels_are_refused() -> None:
    with pytest.raises(UserError, match="at least 2"):
        Returns(text=TEXT, told=(1, UNTOLD), levels=1)
