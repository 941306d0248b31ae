"""Where specs, filters and networks meet: plan, apply, measure, prove."""

from morphnet.morph.collapsing import CollapseReport, collapse
from morphnet.morph.layer import InexactError, morph_conv
from morphnet.morph.named import find_targets
from morphnet.morph.network import morph_network
from morphnet.morph.operations import Deepen, Enlarge, Operation, Widen, words
from morphnet.morph.plan import LAYER_BN_SETTINGS, MorphPlan, plan_morph
from morphnet.morph.report import LayerReport, MorphError, MorphReport
from morphnet.morph.statistics import BN_SETTINGS

__all__ = [
    "BN_SETTINGS",
    "LAYER_BN_SETTINGS",
    "CollapseReport",
    "Deepen",
    "Enlarge",
    "InexactError",
    "LayerReport",
    "MorphError",
    "MorphPlan",
    "MorphReport",
    "Operation",
    "Widen",
    "collapse",
    "find_targets",
    "morph_conv",
    "morph_network",
    "plan_morph",
    "words",
]
