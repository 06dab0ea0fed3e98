"""Pathfinding on random boards: several paths are correct, so a path is followed instead of compared."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from halflife.errors import UserError
from halflife.rng import generator
from halflife.tasks.base import Example
from halflife.tasks.behaviours import Behaviour, Split, split_of
from halflife.tasks.synthetic import END

MOVES = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}
WALL, FREE, START, GOAL = "#", ".", "S", "G"
CHANCE_BOARDS = 400
"""Number of random boards for estimating the chance level."""


@dataclass(frozen=True)
class Walk:
    """The outcome of a path."""

    moves: int
    """Moves up to the goal or the first other letter."""
    legal: int
    """Moves that did not hit a wall or the border."""
    hits: int
    """Moves that did, and so had no effect."""
    reached: bool
    """Whether the path ends on the goal; False if letters follow after the goal was reached."""
    extra: int | None
    """Moves beyond the shortest path; None if the goal was not reached."""


@dataclass(frozen=True, kw_only=True)
class Pathfinding(Behaviour):
    """From S to G around walls, one letter per move (U D L R); a move against a wall has no effect.

    Training paths vary in quality: each path draws a noise level, and each move is random with that probability, else a
    step of a shortest path. The conditions are the outcome: extra moves and wall hits. A prompt conditioned on (0, 0)
    requests a shortest path.
    """

    best_conditions: ClassVar[tuple[float, ...]] = (0.0, 0.0)
    open_ended: ClassVar[bool] = True

    side: int = 8
    walls: float = 0.2
    """Probability that a field is a wall; boards without a path to the goal are redrawn."""
    noise: float = 0.4
    """Largest probability of a random move in a training path."""

    def __post_init__(self) -> None:
        if not 3 <= self.side <= 32:
            raise UserError(f"board of {self.side} x {self.side} given: expected a side of 3 to 32")
        if not 0 <= self.walls <= 0.4 or not 0 <= self.noise < 1:
            raise UserError(
                f"walls {self.walls} and noise {self.noise} given: expected fractions, walls at most 0.4, noise below 1"
            )

    @property
    def name(self) -> str:
        return f"paths-{self.side}"

    @property
    def chance(self) -> float:
        """Fraction of boards on which random moves, as many as a shortest path has, lead to the goal."""
        return _chance(self)

    def examples(self, split: Split, count: int, carriers: Sequence[str] = ()) -> tuple[Example, ...]:
        rng = generator(self.seed, "boards", split)
        found: dict[str, Example] = {}
        for _ in range(100 * count):
            board = self._board(rng)
            prompt = text(board)
            if prompt not in found and split_of(prompt, self.seed) == split:
                found[prompt] = self._solved(board, prompt, rng)
                if len(found) == count:
                    return tuple(found.values())
        raise UserError(
            f"{count} {split} boards of {self.side} x {self.side} requested: only {len(found)} found; "
            "request fewer, or give a larger side"
        )

    def check(self, prompt: str, completion: str) -> bool:
        """Whether the path ends on the goal."""
        return walk(prompt, completion).reached

    def judged(self, prompt: str, completion: str) -> dict[str, int]:
        """`extra_moves` is 0 for paths that did not reach the goal."""
        done = walk(prompt, completion)
        return {
            "hits": int(done.reached),
            "moves": done.moves,
            "legal_moves": done.legal,
            "wall_hits": done.hits,
            "extra_moves": done.extra or 0,
        }

    def _board(self, rng: np.random.Generator) -> np.ndarray:
        """(side, side) characters, with a path from S to G."""
        while True:
            board = np.where(rng.random((self.side, self.side)) < self.walls, WALL, FREE)
            start, goal = rng.choice(self.side**2, size=2, replace=False)
            board.flat[start], board.flat[goal] = START, GOAL
            if _distances(board)[_place(board, START)] >= 0:
                return board

    def _solved(self, board: np.ndarray, prompt: str, rng: np.random.Generator) -> Example:
        """A path with its conditions. After four times the fewest moves, only steps of a shortest path follow."""
        distances, at = _distances(board), _place(board, START)
        fewest, noise = int(distances[at]), self.noise * rng.random()
        moves = ""
        while distances[at]:
            random = len(moves) < 4 * fewest and rng.random() < noise
            shortest = [m for m in MOVES if distances[_moved(board, at, m)] == distances[at] - 1]
            options = list(MOVES) if random else shortest
            move = options[rng.integers(len(options))]
            moves, at = moves + move, _moved(board, at, move)
        done = walk(prompt, moves)
        return Example(prompt=prompt, answer=moves + END, conditions=(float(len(moves) - fewest), float(done.hits)))


def text(board: np.ndarray) -> str:
    """The board as a prompt: its rows and a colon."""
    return "".join("".join(row) + END for row in board) + ":"


def walk(prompt: str, completion: str) -> Walk:
    """Follow a completion's moves, up to the first newline, on the last board of a prompt.

    Raises ValueError when the prompt does not end in a board.
    """
    rows = prompt.removesuffix(":").rstrip(END).split(END)
    rows = [row for row in rows if len(row) == len(rows[-1])][-len(rows[-1]) :]
    board = np.array([list(row) for row in rows])
    if START not in board or GOAL not in board:
        raise ValueError(f"{prompt!r} does not end in a board")
    at, hits, moves, ended = _place(board, START), 0, 0, False
    fewest = int(_distances(board)[at])
    line = completion.split(END)[0]
    for move in line:
        if move not in MOVES:
            break
        after = _moved(board, at, move)
        hits, moves, at = hits + (after == at), moves + 1, after
        if board[at] == GOAL:
            ended = moves == len(line)
            break
    return Walk(moves=moves, legal=moves - hits, hits=hits, reached=ended, extra=moves - fewest if ended else None)


def _place(board: np.ndarray, what: str) -> tuple[int, int]:
    row, column = np.argwhere(board == what)[0]
    return int(row), int(column)


def _moved(board: np.ndarray, at: tuple[int, int], move: str) -> tuple[int, int]:
    row, column = at[0] + MOVES[move][0], at[1] + MOVES[move][1]
    inside = 0 <= row < board.shape[0] and 0 <= column < board.shape[1]
    return (row, column) if inside and board[row, column] != WALL else at


def _distances(board: np.ndarray) -> np.ndarray:
    """Fewest moves from each field to the goal; -1 if there is no path."""
    found = np.full(board.shape, -1)
    edge = [_place(board, GOAL)]
    found[edge[0]] = 0
    while edge:
        here = edge.pop(0)
        for move in MOVES:
            there = _moved(board, here, move)  # moves are reversible, so the distance is the same
            if found[there] < 0:
                found[there] = found[here] + 1
                edge.append(there)
    return found


@functools.cache
def _chance(task: Pathfinding) -> float:
    reached = 0
    for at in range(CHANCE_BOARDS):
        rng = generator(task.seed, "chance", at)
        board = task._board(rng)
        moves = "".join(rng.choice(list(MOVES), size=_distances(board)[_place(board, START)]))
        reached += walk(text(board), moves).reached
    return reached / CHANCE_BOARDS
