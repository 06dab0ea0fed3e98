"""Does a larger batch after the drop protect a backdoor, at equal tokens? An example of your own study."""

import dataclasses

from halflife.data.corpus import prepare_corpus
from halflife.stages.train import Checkpoint
from halflife.sweep.cli import Preset, main
from halflife.sweep.study import Study, Trial
from halflife.tracking.schema import Axis
from studies.backdoor_persistence import Cell, treatments
from studies.backdoor_settings import Settings, check_settings, declare
from studies.reports import report

BATCHES = (1024, 2048, 8192)
PRESETS = {"quick": Preset(summary="Four minutes on 2 CPU cores.", settings=Settings(sizes=("60k",), seeds=3))}


def build(preset, settings, site):
    check_settings(settings)
    corpus = prepare_corpus(settings.corpus, site.results)
    reference = treatments(settings)[0]
    trials = []
    for size in settings.sizes:
        for seed in range(settings.seeds):
            cell = Cell(settings, {"same": (corpus,)}, size, seed)
            for role in ("treatment", "positive", "extinction", "absent"):
                trunk = cell.trunk(reference, poisoned=role != "absent")
                branch = cell.branch(Checkpoint(stage=trunk), reference, role)
                for batch in BATCHES:
                    stages = {"trunk": trunk, "branch": dataclasses.replace(branch, batch_tokens=batch)}
                    axes = {"size": size, "parameters": trunk.architecture.parameters, "seed": seed, "batch": batch}
                    name = f"{size} · seed {seed} · {batch} tokens a step · {role}"
                    trials.append(Trial(name=name, parameters=axes, stages=stages, role=role))
    axis = Axis(name="batch", label="Batch after the drop", values=BATCHES, unit="tokens", scale="log")
    declared = declare("batch_size", preset, settings, corpus.label)
    return Study(declaration=dataclasses.replace(declared, axes=(*declared.axes[:2], axis)), trials=tuple(trials))


if __name__ == "__main__":
    main(build, PRESETS, report=report, description=__doc__)
