"""A function called in a second process, so that a report's fits and its figures each have a core."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any


class SecondProcess:
    """Calls `function(*arguments)` in a new Python at once; `result()` waits for what it returned or raised.

    Function, arguments and result are pickled. A new interpreter, neither forked (polars has threads) nor spawned by
    multiprocessing, which runs the caller's script again.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        path = os.pathsep.join(part for part in sys.path if part)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert self._process.stdin is not None
        pickle.dump((function, arguments), self._process.stdin)
        self._process.stdin.close()
        self._process.stdin = None

    def result(self) -> Any:
        """Raises what the function raised; RuntimeError when its process ended otherwise."""
        written, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"the report's second process ended with code {self._process.returncode}")
        returned, raised = pickle.loads(written)
        if raised is not None:
            raise raised
        return returned

    def __enter__(self) -> SecondProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # nothing once it has ended
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _answer() -> None:
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the function prints is no part of the answer
    given = sys.stdin.buffer.read()  # at once: the sender need not wait for what unpickling imports
    function, arguments = pickle.loads(given)
    try:
        answer = function(*arguments), None
    except Exception as error:
        answer = None, error
    with out:
        pickle.dump(answer, out)


if __name__ == "__main__":
    _answer()
