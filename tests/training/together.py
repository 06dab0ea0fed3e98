"""Training in processes of its own, one or several ranks: python -m tests.training.together OUT TASKS.

Run by `together`, which starts the ranks and reads what rank 0 has written.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
STEPS = 20


def together(out: Path, workers: int, tasks: dict[str, dict[str, Any]], *, timeout: float = 600.0) -> dict[str, Any]:
    """Runs the tasks one after another in one process group of so many ranks, since starting it takes seconds.

    A task is `{"task": NAME, **options}`. Returns rank 0's answer to each, by its name; where one raised, its type
    and message.
    """
    out.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": str(out / "extensions"),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(workers),
    }
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.together", str(out), json.dumps(tasks)]
    ranks = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(workers)
    ]
    try:
        outputs = [rank.communicate(timeout=timeout)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * workers, "\n".join(outputs)
    return json.loads((out / "answers.json").read_text())


def losses(
    out: Path,
    zero: int,
    micro_rows: int | None = None,
    stage: str = "adamw",
    workers: int = 1,
    rounding: bool = True,
) -> Any:
    """Per step (loss, gradient norm), the displacement and an evaluation in between, and the weights at the end.

    Without `rounding`, conversions to bf16 have no effect."""
    import torch

    from halflife.store.execution import Execution
    from halflife.training.deepspeed_engine import DeepSpeedEngine
    from tests.training.fakes import terms_of
    from tests.training.test_deepspeed_engine import STAGES, follow

    execution = Execution(engine="deepspeed", workers=workers, zero=zero)

    def make(model: Any, of: Any) -> DeepSpeedEngine:
        return DeepSpeedEngine(model, of, execution, terms_of(of, model), micro_rows=micro_rows)

    with contextlib.nullcontext() if rounding else mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone):
        return follow(STAGES[stage], make)


def several(out: Path, calls: list[dict[str, Any]], workers: int) -> list[Any]:
    """`losses` of each call."""
    return [losses(out, workers=workers, **call) for call in calls]


def loop(
    out: Path,
    folder: str,
    workers: int,
    zero: int,
    stage: str = "loop",
    engine: str = "deepspeed",
    resume: str | None = None,
    end_at: int | None = None,
    start: str | None = None,
) -> Any:
    """The training loop; `end_at`: every rank breaks off after the checkpoint at that step, which is its newest."""
    from halflife.store.execution import Execution
    from tests.training.fakes import Host, Interrupted, Stream, Ticking, run
    from tests.training.test_deepspeed_engine import STAGES

    class Ending(Stream):
        def batch(self, step: int) -> Any:
            if step == end_at:
                raise Interrupted
            return super().batch(step)

    host = Host(out / folder, resume=Path(resume) if resume else None)
    host.execution = Execution(engine=engine, workers=workers, zero=zero)  # pyright: ignore[reportArgumentType]
    often = {"checkpoint_seconds": 0.5, "clock": Ticking(), "batches": Ending()} if end_at is not None else {}
    summary = run(STAGES[stage], host, start=Path(start) if start else None, **often)
    return {"summary": summary, "points": {str(step): values for step, values in host.points.items()}}


def held(out: Path, zero: int, engines: int, workers: int) -> list[float]:
    """Bytes of this process's tensors after each of several engines has trained a step and been closed."""
    import gc

    import torch

    from halflife.models.decoder import Decoder
    from halflife.models.ladder import Rung
    from halflife.store.execution import Execution
    from halflife.training.deepspeed_engine import DeepSpeedEngine
    from tests.training.fakes import VOCABULARY, Stream, recipe, terms_of

    def alive() -> int:
        gc.collect()
        tensors = [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]
        return sum({found.untyped_storage().data_ptr(): found.untyped_storage().nbytes() for found in tensors}.values())

    found = []
    rung = Rung(size="300k")
    stage = recipe(start=rung)
    for _ in range(engines):
        model = Decoder(rung, VOCABULARY)
        model.initialise(torch.Generator().manual_seed(0))
        execution = Execution(engine="deepspeed", workers=workers, zero=zero)
        engine = DeepSpeedEngine(model, stage, execution, terms_of(stage, model))
        engine.gradients(Stream().batch(0), 0)
        engine.step(1.0)
        engine.close()
        del engine, model
        found.append(float(alive()))
    return found


def released(out: Path, sources: list[str], results: str, zeros: list[int], workers: int) -> dict[str, Any]:
    """Points by model folder and ZeRO stage; each run's folder is FAMILY-ZERO."""
    from halflife.store.execution import Execution
    from tests.stages.test_released_on_deepspeed import points, short

    found = {}
    for source in sources:
        for zero in zeros:
            execution = Execution(engine="deepspeed", workers=workers, zero=zero)
            name = f"{Path(source).name}-{zero}"
            found[name] = points(short(Path(source), Path(results)), out / name, Path(results), execution)
    return found


TASKS: dict[str, Callable[..., Any]] = {"several": several, "loop": loop, "held": held, "released": released}


def main(out: Path, tasks: dict[str, dict[str, Any]]) -> None:
    import torch

    torch.set_num_threads(1)
    workers, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    if workers > 1:
        torch.distributed.init_process_group("gloo")
    answers = {}
    for name, options in tasks.items():
        try:
            answers[name] = TASKS[options.pop("task")](out, workers=workers, **options)
        except Exception as error:  # the test that asks for this answer shows it
            answers[name] = f"{type(error).__name__}: {error}"
    if rank == 0:
        (out / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
