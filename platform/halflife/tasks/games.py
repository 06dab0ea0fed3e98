"""A board game with random rules: games are predicted, conditioned on the strengths of the players."""

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

DRAW = "="
SIDES = "XO"
OPENING = 4
"""Number of moves in the prompt: too few for a win."""


@dataclass(frozen=True)
class Played:
    """The outcome of a game's text."""

    moves: int
    legal: int
    """Moves before the first illegal one."""
    finished: bool
    """Whether all moves are legal, the game is over, and the stated result is correct."""


@dataclass(frozen=True, kw_only=True)
class DropGame(Behaviour):
    """Two players drop stones into columns; the first to get a run of them in a line wins. The letters that name the
    columns, the board size and the length of the run are drawn from `seed`, so that no model has seen the game.

    With probability p, its strength, a player makes a winning move, else blocks one of the opponent's; otherwise it
    moves at random. The prompt is the opening, four random moves; no opening is in two splits. The answer is the rest
    of the game and its result. The conditions are both strengths, so a prompt conditioned on (1, 1) requests good play.
    """

    best_conditions: ClassVar[tuple[float, ...]] = (1.0, 1.0)
    open_ended: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return f"game-{self.seed}"

    @functools.cached_property
    def rules(self) -> tuple[str, int, int]:
        """(letters of the columns, number of rows, length of a winning run)."""
        rng = generator(self.seed, "rules")
        columns, rows = int(rng.integers(4, 7)), int(rng.integers(4, 6))
        letters = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), columns, replace=False))
        return letters, rows, int(rng.integers(3, min(columns, rows) + 1))

    @property
    def chance(self) -> float:
        """Fraction of games that random moves, as many as were played, and a random result complete correctly."""
        return _chance(self)

    def examples(self, split: Split, count: int, carriers: Sequence[str] = ()) -> tuple[Example, ...]:
        rng = generator(self.seed, "games", split)
        found: dict[str, Example] = {}
        for _ in range(100 * count):
            position = _Position(self.rules)
            opening = "".join(rng.choice(list(position.letters), OPENING))
            if split_of(opening, self.seed) != split:
                continue
            game = self._played_on(position, opening, rng)
            found.setdefault(game.prompt + game.answer, game)
            if len(found) == count:
                return tuple(found.values())
        raise UserError(f"{count} {split} games of {self.name} requested: only {len(found)} found; request fewer")

    def check(self, prompt: str, completion: str) -> bool:
        return self.played(prompt, completion).finished

    def judged(self, prompt: str, completion: str) -> dict[str, int]:
        """`moves` counts all letters except the result."""
        done = self.played(prompt, completion)
        return {"hits": int(done.finished), "moves": done.moves - done.finished, "legal_moves": done.legal}

    def played(self, prompt: str, completion: str) -> Played:
        """Plays the moves of the prompt's last line, then those of the completion's first line."""
        line = completion.split(END)[0]
        opening = prompt.rsplit(END, 1)[-1].removeprefix(">")
        position = _Position(self.rules)
        for move in opening:
            position.drop(move)
        for at, move in enumerate(line):
            if position.result is not None or move not in position.open:
                over = position.result is not None and line[at:] == position.result
                return Played(moves=len(line), legal=at, finished=over)
            position.drop(move)
        return Played(moves=len(line), legal=len(line), finished=False)

    def _played_on(self, position: _Position, opening: str, rng: np.random.Generator) -> Example:
        strengths = tuple(float(x) for x in rng.choice([0.0, 0.5, 1.0], size=2))
        for move in opening:
            position.drop(move)
        moves = ""
        while position.result is None:
            best = position.best_move() if rng.random() < strengths[position.turn] else None
            move = best or position.open[rng.integers(len(position.open))]
            moves += move
            position.drop(move)
        return Example(prompt=">" + opening, answer=moves + position.result + END, conditions=strengths)


class _Position:
    """The stones in each column, whose turn it is, and the result once the game is over."""

    def __init__(self, rules: tuple[str, int, int]) -> None:
        self.letters, self.rows, self.run = rules
        self.columns: dict[str, str] = dict.fromkeys(self.letters, "")
        self.turn, self.result = 0, None

    @property
    def open(self) -> str:
        """The columns that are not full."""
        return "".join(letter for letter, stones in self.columns.items() if len(stones) < self.rows)

    def drop(self, move: str) -> None:
        if move not in self.open or self.result is not None:
            raise ValueError(f"{move!r} is not a legal move")
        self.columns[move] += SIDES[self.turn]
        if self._wins(move, SIDES[self.turn]):
            self.result = SIDES[self.turn]
        elif not self.open:
            self.result = DRAW
        self.turn = 1 - self.turn

    def best_move(self) -> str | None:
        """A winning move, else one that blocks the opponent's win, else None; the first column if there are several."""
        for side in (SIDES[self.turn], SIDES[1 - self.turn]):
            for move in self.open:
                stones = self.columns[move]
                self.columns[move] = stones + side
                wins = self._wins(move, side)
                self.columns[move] = stones
                if wins:
                    return move
        return None

    def _wins(self, move: str, side: str) -> bool:
        """Whether the topmost stone of a column is part of a winning run."""
        column, row = self.letters.index(move), len(self.columns[move]) - 1
        return any(
            1 + self._along(column, row, across, up, side) + self._along(column, row, -across, -up, side) >= self.run
            for across, up in ((1, 0), (0, 1), (1, 1), (1, -1))
        )

    def _along(self, column: int, row: int, across: int, up: int, side: str) -> int:
        """Number of consecutive stones of `side` from a position in one direction, without the position itself."""
        length = 0
        while True:
            column, row = column + across, row + up
            inside = 0 <= column < len(self.letters) and row >= 0
            if not inside or self.columns[self.letters[column]][row : row + 1] != side:
                return length
            length += 1


@functools.cache
def _chance(task: DropGame) -> float:
    letters = task.rules[0]
    right, games = 0, task.examples("validation", 200)
    for at, game in enumerate(games):
        rng = generator(task.seed, "chance", at)
        moves = "".join(rng.choice(list(letters), len(game.answer) - 2))
        right += task.check(game.prompt, moves + str(rng.choice(list(SIDES + DRAW))))
    return right / len(games)
