"""The probes that come with halflife, and what else an evaluation is described by."""

from __future__ import annotations

from halflife.evaluation.backdoor import BackdoorProbe
from halflife.evaluation.behaviours import BehaviourProbe
from halflife.evaluation.cadence import Cadence, Ends, Every, Geometric, due
from halflife.evaluation.layer_probe import LayerProbe
from halflife.evaluation.loss import LossProbe
from halflife.evaluation.probe import Evaluation, Probe, Setting, Threshold
from halflife.evaluation.tasks import TaskProbe

__all__ = [
    "BackdoorProbe",
    "BehaviourProbe",
    "Cadence",
    "Ends",
    "Evaluation",
    "Every",
    "Geometric",
    "LayerProbe",
    "LossProbe",
    "Probe",
    "Setting",
    "TaskProbe",
    "Threshold",
    "due",
]
