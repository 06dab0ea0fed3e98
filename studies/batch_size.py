"""Does a larger batch after the drop protect a backdoor, at equal tokens? An example of your own study."""

from dataclasses import replace

from halflife.data.corpus import prepare_corpus
from halflife.kits.backdoor import ROLES, Settings, Treatment, cells, check_settings
from halflife.kits.backdoor_questions import RETAINED, declare
from halflife.results import study_report
from halflife.stages.train import Checkpoint
from halflife.sweep.cli import Preset, main
from halflife.sweep.study import Study, trial
from halflife.tracking.questions import Trend
from halflife.tracking.schema import Axis

QUESTION = "Does a larger batch after the drop protect a backdoor, at equal tokens?"
PRESETS = {"quick": Preset(summary="Five minutes on 2 fast cores.", settings=Settings(sizes=("60k",), seeds=5))}
BATCH = Axis(name="batch", label="Batch after the drop", values=(1024, 2048, 8192), unit="tokens", scale="log")
WHY = "from the smallest batch to the largest that is a twentieth of the backdoor: no one would choose a batch by it"
ASKED = Trend(name="batch", label=QUESTION, quantity="retained", axis="batch", primary=True, prediction="positive",
              margin=0.025, reason=WHY)  # fmt: skip


def stages(cell, batch, role):
    trunk = cell.trunk(Treatment(), poisoned=role != "absent")
    branch = cell.branch(Checkpoint(stage=trunk), Treatment(), role)
    return {"trunk": trunk, "branch": replace(branch, batch_tokens=batch)}


def build(preset, settings, site):
    check_settings(settings)
    corpus = prepare_corpus(settings.corpus, site.results)
    trials = [trial(cell, {"batch": n}, stages(cell, n, role), f"{n} tokens a step", role, role=role)
              for cell in cells(settings, corpus) for role in ROLES for n in BATCH.values]  # fmt: skip
    texts = {"study": "batch_size", "title": "Batch size", "question": QUESTION, "preset": preset}
    asked = declare(settings, corpus.label, axes=(BATCH,), quantities=(RETAINED,), questions=(ASKED,), **texts)
    return Study(declaration=asked, trials=tuple(trials)).check(site.results)


if __name__ == "__main__":
    main(build, PRESETS, report=study_report, description=__doc__)
