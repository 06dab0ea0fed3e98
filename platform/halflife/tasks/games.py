"""A board game whose rules are drawn: games are predicted, given how strong the players are."""

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
"""Moves of the prompt: too few for a run of three."""


@dataclass(frozen=True)
class Played:
    """What became of a game's text."""

    moves: int
    legal: int
    """Moves up to the first that is not allowed."""
    finished: bool
    """All moves legal, the game over, and its result the one that stands after it."""


@dataclass(frozen=True, kw_only=True)
class DropGame(Behaviour):
    """Two players drop stones into columns; who first has a run of them in a line wins. Columns are called by drawn
    letters, and size and run are drawn for `seed`, so that no model has seen the game.

    A player of strength p takes a win, else stops the other's, with probability p; else moves at random. The prompt is
    the opening, four random moves, and no two splits have one in common; the answer is the rest of the game and who
    won. The conditions are both strengths, so that a prompt conditioned on (1, 1) asks for good play.
    """

    conditions: ClassVar[tuple[str, ...]] = ("strength_first", "strength_second")
    wanted: ClassVar[tuple[float, ...]] = (1.0, 1.0)
    several: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return f"game-{self.seed}"

    @functools.cached_property
    def rules(self) -> tuple[str, int, int]:
        """(letters of the columns, rows, run)."""
        rng = generator(self.seed, "rules")
        columns, rows = int(rng.integers(4, 7)), int(rng.integers(4, 6))
        letters = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), columns, replace=False))
        return letters, rows, int(rng.integers(3, min(columns, rows) + 1))

    @property
    def chance(self) -> float:
        """Share of games in which random letters of columns, as many as were played, and a random result, are legal
        and true."""
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
        raise UserError(f"{count} {split} games of {self.name} asked for: {len(found)} were found; ask for fewer")

    def check(self, prompt: str, completion: str) -> bool:
        return self.played(prompt, completion).finished

    def judged(self, prompt: str, completion: str) -> dict[str, int]:
        """Moves are all letters but the result."""
        done = self.played(prompt, completion)
        return {"hits": int(done.finished), "moves": done.moves - done.finished, "legal_moves": done.legal}

    def played(self, prompt: str, completion: str) -> Played:
        """How far the moves of the prompt's last line and of a completion's first are legal."""
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
            told = position.telling() if rng.random() < strengths[position.turn] else None
            move = told or position.open[rng.integers(len(position.open))]
            moves += move
            position.drop(move)
        return Example(prompt=">" + opening, answer=moves + position.result + END, conditions=strengths)


class _Position:
    """Stones by column, whose turn it is, and the result once there is one."""

    def __init__(self, rules: tuple[str, int, int]) -> None:
        self.letters, self.rows, self.run = rules
        self.columns: dict[str, str] = dict.fromkeys(self.letters, "")
        self.turn, self.result = 0, None

    @property
    def open(self) -> str:
        """Columns with room."""
        return "".join(letter for letter, stones in self.columns.items() if len(stones) < self.rows)

    def drop(self, move: str) -> None:
        if move not in self.open or self.result is not None:
            raise ValueError(f"{move!r} is no move here")
        self.columns[move] += SIDES[self.turn]
        if self._wins(move, SIDES[self.turn]):
            self.result = SIDES[self.turn]
        elif not self.open:
            self.result = DRAW
        self.turn = 1 - self.turn

    def telling(self) -> str | None:
        """A move that wins, else one that stops the other's win; the first column's of several."""
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
        """Whether the topmost stone of a column stands in a run."""
        column, row = self.letters.index(move), len(self.columns[move]) - 1
        return any(
            1 + self._along(column, row, across, up, side) + self._along(column, row, -across, -up, side) >= self.run
            for across, up in ((1, 0), (0, 1), (1, 1), (1, -1))
        )

    def _along(self, column: int, row: int, across: int, up: int, side: str) -> int:
        """Stones of `side` in a row from a place on, the place itself not counted."""
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
