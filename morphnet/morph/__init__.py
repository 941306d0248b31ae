"""Where specs, filters and networks meet: plan, apply, measure, prove."""

from morphnet.morph.network import MorphError, MorphReport, morph_network
from morphnet.morph.plan import MorphPlan, plan_morph
from morphnet.morph.statistics import BN_SETTINGS

__all__ = ["BN_SETTINGS", "MorphError", "MorphPlan", "MorphReport", "morph_network", "plan_morph"]
