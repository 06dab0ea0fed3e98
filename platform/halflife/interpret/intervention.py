"""FitIntervention: vectors that do to the predictions what a condition does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from halflife.data.tokenizers import vocabulary_of
from halflife.errors import UserError, check_choice
from halflife.evaluation import SCORED_TOKENS
from halflife.interpret.pairs import Pairs
from halflife.models.edit import Edit, Parents
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.models.sites import Site
from halflife.stages.subject import Subject
from halflife.store.stage import Context, Cost, Stage

if TYPE_CHECKING:
    from halflife.models.model import Model

Method = Literal["mean", "gradient"]
FILE = "interventions.safetensors"


@dataclass(frozen=True, kw_only=True)
class FitIntervention(Stage):
    """Vectors to add at sites of `subject`, on the shared part of neutral texts, so that it predicts what it predicts
    behind the condition.

    `mean` is the difference of mean activations over the paired texts (arXiv 2312.06681). `gradient` minimises
    KL(behind the condition || neutral with the vector) by Adam: the most that one vector can do there. All sites are
    fitted together and do not affect one another.

    Points, on held-out pairs: `neutral/kl` is the condition's effect, in nats per token, and `<site>.<method>/kl` what
    is left of it with the vector, with `/tv` the total variation, `/norm` the vector's length and `/control` the KL
    with a random vector of that length.
    """

    kind: ClassVar[str] = "fit-intervention"

    subject: Subject
    pairs: Pairs
    sites: tuple[Site, ...]
    methods: tuple[Method, ...] = ("mean", "gradient")
    first_only: bool = False
    """Add the vector at the first shared token only, in place of all of them."""
    steps: int = 200
    batch: int = 16
    """Pairs per step"""
    learning_rate: float = 0.1
    """Of Adam, falling to 0, in units of the root mean square of the site's neutral activations"""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        for name, least in (("steps", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} = {getattr(self, name)} of an intervention given: expected at least {least}")
        if not self.sites or not self.methods:
            raise UserError("an intervention without a site or without a method given: expected at least one of each")
        for method in self.methods:
            check_choice("method of an intervention", method, get_args(Method))
        again = [site for site, count in Counter(self.sites).items() if count > 1]
        if again:
            raise UserError(f"{again[0]} given several times: expected each site once")
        for site in self.sites:
            site.check(self.subject.architecture)
        longest = self.subject.context_length
        if longest is not None and self.pairs.shared > longest:
            raise UserError(
                f"pairs of {self.pairs.shared} shared tokens given: {self.subject.size} reads at most {longest}; "
                "shorten them"
            )

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return ("neutral", *(name_of(site, method) for site in self.sites for method in self.methods))

    @property
    def label(self) -> str:
        return f"interventions at {len(self.sites)} sites"

    @property
    def cost(self) -> Cost:
        """Forward and backward passes of the frozen model, two thirds of training's, for each site; and evaluations."""
        model, length = self.subject.architecture, self.pairs.shared
        fitted = len(self.sites) * self.steps * self.batch * length * ("gradient" in self.methods)
        read = self.pairs.count * length * (2 + len(self.sites) * len(self.methods) * 2)
        vocabulary = vocabulary_of(self.subject.codec)
        whole = self.subject.reading(2 * fitted + read, length)
        at_once = max(self.batch * length, min(len(self.sites) * self.batch * length, SCORED_TOKENS))
        return Cost(
            tokens=fitted,
            flops=whole.flops,
            memory_bytes=whole.memory_bytes + at_once * model.activation_bytes(vocabulary),
            disk_bytes=4.0 * len(self.sites) * len(self.methods) * model.width,
            steps=self.steps,
        )

    def run(self, context: Context) -> dict[str, Any]:
        # torch is imported only where a stage runs
        from safetensors.torch import save_file

        from halflife.interpret import steering

        started = time.perf_counter()
        model = self.subject.load(context)
        shared, codec, before = self.pairs.shared, self.subject.codec, self.subject.tokens_before
        train, held_out = (
            steering.Paired.of(self.pairs.rows(part, codec, context.results), shared, context.device, before)
            for part in ("train", "held-out")
        )
        each = self.batch * shared

        def report(done: int) -> None:
            context.progress(done * each, self.steps * each, done * each / (time.perf_counter() - started))

        found = {}
        if "mean" in self.methods:
            found["mean"] = steering.differences(model, train, self.sites, first_only=self.first_only)
        if "gradient" in self.methods:
            found["gradient"] = steering.fitted(
                model,
                train,
                self.sites,
                steps=self.steps,
                batch=self.batch,
                learning_rate=self.learning_rate,
                first_only=self.first_only,
                seed=self.seed,
                on_step=report,
            )
        vectors = {
            name_of(site, method): (site, vector) for method, fits in found.items() for site, vector in fits.items()
        }
        (context.folder / "final").mkdir(parents=True, exist_ok=True)
        tensors = {name: vector.cpu().contiguous() for name, (_, vector) in vectors.items()}
        save_file(tensors, context.folder / "final" / FILE)
        points = steering.scores(model, held_out, vectors, first_only=self.first_only, seed=self.seed)
        context.record(0, points)
        seconds = time.perf_counter() - started
        context.computing(seconds)
        return {"tokens": self.cost.tokens, "seconds_training": seconds, "scores": points}


def name_of(site: Site, method: str) -> str:
    """Of a vector, in points and files, such as `residual-2.mean`."""
    return f"{site.name}.{method}"


@dataclass(frozen=True, kw_only=True)
class Steer(Edit):
    """A vector of a FitIntervention, added at its site from the position `first` on."""

    fit: FitIntervention
    site: Site
    method: Method = "mean"
    strength: float = 1.0
    first: int = 0
    """Of a text, from 0"""

    def __post_init__(self) -> None:
        if self.site not in self.fit.sites or self.method not in self.fit.methods:
            known = ", ".join(name_of(site, method) for site in self.fit.sites for method in self.fit.methods)
            raise UserError(f"vector {name_of(self.site, self.method)} given: the stage fits {known}")

    def check(self, architecture: Rung | Released) -> None:
        self.site.check(architecture)
        if architecture.width != self.fit.subject.architecture.width:
            raise UserError(
                f"a vector of {self.fit.subject.size} added to {architecture.size} given: they are "
                f"{self.fit.subject.architecture.width} and {architecture.width} wide; expected the same"
            )

    def prepare(self, parents: Parents) -> Callable[[Model], Model]:
        from safetensors.torch import load_file  # torch only where a stage runs

        from halflife.models.changes import Add, From
        from halflife.models.hooks import install

        vector = load_file(parents.parent(self.fit) / "final" / FILE)[name_of(self.site, self.method)]

        def edit(model: Model) -> Model:
            install(model, [(self.site, From(self.first, Add(vector.to(model.embed.weight), self.strength)))])
            return model

        return edit
