from __future__ import annotations

import pytest
import torch

from halflife.training.checkpoints import (
    OPTIMIZER,
    STATE,
    WEIGHTS,
    CorruptCheckpoint,
    read_optimizer,
    read_state,
    read_weights,
    write,
)


def save(folder):
    weights = {"a": torch.randn(3, 4), "b": torch.randn(4, 3).t()}
    optimizer = {"exp_avg.a": torch.randn(3, 4), "step.a": torch.tensor(7.0)}
    write(folder, weights=weights, optimizer=optimizer, state={"size": "20k", "rate": 0.1 + 0.2})
    return weights, optimizer


def test_tensors_and_state_come_back_bit_for_bit(tmp_path):
    weights, optimizer = save(tmp_path / "final")
    state = read_state(tmp_path / "final")
    assert state["size"] == "20k"
    assert state["rate"] == 0.1 + 0.2
    for given, read in ((weights, read_weights(tmp_path / "final")), (optimizer, read_optimizer(tmp_path / "final"))):
        assert given.keys() == read.keys()
        assert all(torch.equal(given[name], read[name]) for name in given)


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE])
@pytest.mark.parametrize("harm", ["missing", "truncated", "flipped"])
def test_a_damaged_file_is_detected(tmp_path, name, harm):
    save(tmp_path)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(content[:-5])
    else:
        content[0 if name == STATE else -1] ^= 1
        path.write_bytes(content)
    with pytest.raises(CorruptCheckpoint):
        read_state(tmp_path)


def test_a_folder_is_not_a_checkpoint_until_its_state_is_written(tmp_path, monkeypatch):
    save(tmp_path)
    monkeypatch.setattr("halflife.training.checkpoints.sha256", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(CorruptCheckpoint):
        read_state(tmp_path)
