from __future__ import annotations

import json
import time

import pytest

from halflife.sweep.machine import gpus
from tests.benchmarks import gpu
from tests.benchmarks.gpu import Settings, answer, main, markdown, measured, peak_of, rows, write_text


@pytest.mark.skipif(bool(gpus().count), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys):
    assert main(Settings()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H200", 989), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA L4", 121), ("NVIDIA L40S", 362),
    ],
)  # fmt: skip
def test_a_device_is_known_by_the_words_of_its_name(name, teraflops):
    assert peak_of(name) == teraflops * 1e12


@pytest.mark.parametrize("name", ["NVIDIA A1000", "NVIDIA GeForce RTX 4090", "cpu"])
def test_an_unknown_device_has_no_peak(name):
    assert peak_of(name) is None


def test_utilisation_is_flops_over_the_peak():
    row = {
        "size": "1b", "compile": True, "batch_tokens": 131072, "sequence": 1024, "tokens_per_second": 5e4,
        "flops_per_token": 6e9, "peak_memory_bytes": 3e10,
    }  # fmt: skip
    table = markdown("H", 600e12, [row, {**row, "error": "out of memory"}], [])
    assert "| 1b | yes | 131,072 | 1024 | 50,000 | 300 | 50.0% | 30.0 GB |" in table
    assert "| 1b | yes | 131,072 | 1024 | out of memory | | | |" in table
    assert "unknown" in markdown("H", None, [row], [])


def test_a_row_out_of_memory_says_so():
    error = "Traceback\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.\n"
    assert answer("", error) == {"error": "out of memory"}
    assert answer('{"row": {"a": 1}}\n', "warning") == {"a": 1}


def test_sizes_are_measured_as_the_product_would_choose_before_the_other_way():
    made = rows(Settings(), "text")
    assert [(row.size, row.compile) for row in made[:4]] == [
        ("100k", False),
        ("10m", True),
        ("100m", True),
        ("1b", True),
    ]
    assert [(row.size, row.compile) for row in made[4:]] == [(row.size, not row.compile) for row in made[:4]]


@pytest.mark.nightly
def test_the_script_measures_and_leaves_a_failed_row_standing(tmp_path, monkeypatch, capsys):
    """On a CPU: the same rows, processes and table."""
    settings = Settings(
        sizes=("30k",), trials=(1, 2), seconds=0.5, batch_tokens=2048, trial_batch_tokens=1024, device="cpu",
        json=tmp_path / "figures.json",
    )  # fmt: skip
    assert main(settings) == 0
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["sizes"][0]["tokens_per_second"] > 1000
    assert [row["trials"] for row in found["trials"] if row["tokens_per_second"] > 100] == [1, 2]
    (row,) = rows(settings, str(write_text(tmp_path)))
    monkeypatch.setattr(
        gpu, "asdict", lambda row: {"size": "no size", **{k: v for k, v in vars(row).items() if k != "size"}}
    )
    assert "unknown size 'no size'" in measured(row, time.monotonic() + 60)["error"]
