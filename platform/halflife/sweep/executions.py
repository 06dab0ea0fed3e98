"""Which engine carries out which stage, and what an engine refuses: all of it before any compute."""

from __future__ import annotations

import importlib.util

from halflife.errors import UserError
from halflife.stages.train import Train
from halflife.store.execution import ENGINES, Execution
from halflife.store.stage import Stage
from halflife.training.parameters import LoRA
from halflife.training.penalties import L2SP

DEFAULT_ZERO = 1
"""Under DeepSpeed: saves the most for the least talk between workers."""


def check(engine: str, workers: int | None, zero: int | None, devices: int) -> None:
    """Raises UserError for what no stage could be trained with at a place that has `devices`."""
    if engine not in ("auto", *ENGINES):
        raise UserError(f"unknown engine {engine!r}: expected auto, {' or '.join(ENGINES)}")
    if engine == "auto" and (workers is not None or zero is not None):
        asked = f"{workers} workers were" if workers is not None else f"ZeRO stage {zero} was"
        raise UserError(f"{asked} asked for, and the engine is left open: add --engine deepspeed")
    execution = _named(engine, workers, zero)
    if execution.engine == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise UserError("engine 'deepspeed' was asked for and is not installed: pip install 'halflife[train]'")
    if execution.workers > devices:
        raise UserError(
            f"{execution.workers} workers were asked for, this machine has {devices} device{'s' * (devices != 1)} "
            f"for them: expected at most {devices}"
        )


def choose(stage: Stage, engine: str, workers: int | None, zero: int | None) -> Execution:
    """How a stage is carried out. Only training is ever spread over workers."""
    return _named(engine, workers, zero) if isinstance(stage, Train) else Execution()


def check_stage(stage: Stage, execution: Execution) -> None:
    """Raises UserError when the engine cannot train the stage."""
    if not isinstance(stage, Train):
        return
    rows = stage.batch_tokens // stage.mixture.sequence
    if rows % execution.workers:
        raise UserError(
            f"batches of {rows} sequences do not divide among {execution.workers} workers: "
            f"choose a number of workers that divides {rows}, or another batch"
        )
    unknown = [type(penalty).__name__ for penalty in stage.penalties if not isinstance(penalty, L2SP)]
    unknown += ["gradient noise"] if stage.gradient_noise else []
    if execution.engine == "deepspeed" and unknown:
        raise UserError(f"{unknown[0]} under the engine 'deepspeed': only the torch engine has it; use --engine torch")
    if execution.zero == 3 and isinstance(stage.parameters, LoRA):
        raise UserError("LoRA under ZeRO stage 3: merging it needs whole weights; use --zero 2")


def _named(engine: str, workers: int | None, zero: int | None) -> Execution:
    workers = 1 if workers is None else workers
    if engine == "deepspeed":
        return Execution(engine="deepspeed", workers=workers, zero=DEFAULT_ZERO if zero is None else zero)
    return Execution(workers=workers, zero=zero or 0)
