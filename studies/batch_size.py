"""Does a larger batch after the drop protect a backdoor, at equal tokens? An example of your own study."""

from dataclasses import replace

from halflife.data.corpus import prepare_corpus
from halflife.kits.backdoor import Settings, Treatment, cells, check_settings, declare
from halflife.kits.settings import check_stages
from halflife.results import study_report
from halflife.stages.train import Checkpoint
from halflife.sweep.cli import Preset, main
from halflife.sweep.study import Study, Trial
from halflife.tracking.schema import Axis

QUESTION = "Does a larger batch after the drop protect a backdoor, at equal tokens?"
BATCHES = (1024, 2048, 8192)
PRESETS = {"quick": Preset(summary="Four minutes on 2 CPU cores.", settings=Settings(sizes=("60k",), seeds=3))}


def build(preset, settings, site):
    check_settings(settings)
    corpus = prepare_corpus(settings.corpus, site.results)
    trials = []
    for cell in cells(settings, corpus):
        for role in ("treatment", "positive", "extinction", "absent"):
            trunk = cell.trunk(Treatment(), poisoned=role != "absent")
            branch = cell.branch(Checkpoint(stage=trunk), Treatment(), role)
            for batch in BATCHES:
                stages = {"trunk": trunk, "branch": replace(branch, batch_tokens=batch)}
                check_stages(stages.values(), site.results)
                size, seed = cell.size, cell.seed
                axes = {"size": size, "parameters": trunk.architecture.parameters, "seed": seed, "batch": batch}
                name = f"{size} · seed {seed} · {batch} tokens a step · {role}"
                trials.append(Trial(name=name, parameters=axes, stages=stages, role=role))
    axis = Axis(name="batch", label="Batch after the drop", values=BATCHES, unit="tokens", scale="log")
    texts = {"study": "batch_size", "title": "Batch size", "question": QUESTION, "preset": preset}
    return Study(declaration=declare(settings, corpus.label, axes=(axis,), **texts), trials=tuple(trials))


if __name__ == "__main__":
    main(build, PRESETS, report=study_report, description=__doc__)
