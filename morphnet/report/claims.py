"""Claims of the paper as data: networks that are compared, the number of runs, and the test that decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from morphnet.report.comparison import CONFIDENCE

Verdict = Literal["confirmed", "refuted", "undecided"]
TESTS = ("paired", "unpaired", "one_sample")


@dataclass(frozen=True)
class Network:
    """A network that a preset trains.

    Attributes:
        experiment: the preset, a file of ``configs/experiment``.
        phase: the name of one of its phases.
        control: of the controls of that phase the one that is meant, as ``controls=`` names it; None for the phase
            itself. One that the preset does not train has to be asked for.
    """

    experiment: str
    phase: str
    control: str | None = None


@dataclass(frozen=True)
class Claim:
    """One claim, fixed before the runs that decide it.

    What is tested is the *gain*: the error of ``against`` minus that of ``network``, in points of per cent, so that
    above zero ``network`` is the better one. Errors are those of the last epoch on the test images. The claim is that
    the gain exceeds ``margin - tolerance``; an interval for the gain that lies entirely above confirms it, one entirely
    below refutes it, any other leaves it undecided.

    Attributes:
        claim: a sentence.
        source: where the paper says so, such as ``Table 1``.
        against: what ``network`` is compared with: another network, or a published error in per cent.
        test: ``paired``, a t interval over the differences seed by seed, for networks that begin with the same parent;
            ``unpaired``, Welch's; ``one_sample``, a t interval of the difference to a published error.
        seeds: how many runs decide it: those of the seeds from 0 to ``seeds - 1``.
        margin: the gain that is claimed, in points; 0 for any.
        tolerance: by how much the gain may fall short of it, in points.
        views: of each image over which errors are counted: 1, or 10 in Table 3.
        level: of the interval.

    Raises:
        ValueError: a value is missing or cannot be.
    """

    claim: str
    source: str
    network: Network
    against: Network | float
    test: str
    seeds: int
    margin: float = 0.0
    tolerance: float = 0.0
    views: int = 1
    level: float = CONFIDENCE

    def __post_init__(self) -> None:
        for key in ("claim", "source"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key).strip():
                raise ValueError(f"{key}={getattr(self, key)!r}: a sentence or a place in the paper is needed")
        if self.test not in TESTS:
            raise ValueError(f"test={self.test!r}; expected one of {', '.join(TESTS)}")
        published = not isinstance(self.against, Network)
        if published != (self.test == "one_sample"):
            raise ValueError(
                f"test={self.test} against {self.against!r}: one_sample goes with a published error in per cent, "
                "paired and unpaired with a network"
            )
        if published and not _is_number(self.against, 0, 100):
            raise ValueError(f"against={self.against!r}: a network, or a published error from 0 to 100 %, is needed")
        if isinstance(self.seeds, bool) or not isinstance(self.seeds, int) or self.seeds < 2:
            raise ValueError(f"seeds={self.seeds!r}: a whole number from 2 is needed, or there is no interval")
        for key, low, high in (("margin", -100, 100), ("tolerance", 0, 100)):
            if not _is_number(getattr(self, key), low, high):
                raise ValueError(f"{key}={getattr(self, key)!r}: points from {low} to {high} are needed")
        if self.views not in (1, 10):
            raise ValueError(f"views={self.views!r}: errors are counted over 1 view or over 10")
        if not _is_number(self.level, 0.5, 0.9999):
            raise ValueError(f"level={self.level!r}: a number from 0.5 to below 1 is needed, such as {CONFIDENCE}")
        if self.network == self.against:
            raise ValueError(f"{self.network} is compared with itself")

    @property
    def threshold(self) -> float:
        """The gain that has to be exceeded, in points."""
        return self.margin - self.tolerance

    def verdict(self, low: float, high: float) -> Verdict:
        """The verdict of an interval for the gain.

        Args:
            low, high: its ends, in points.
        """
        if low > self.threshold:
            return "confirmed"
        return "refuted" if high < self.threshold else "undecided"


def read_claims(configs: Path) -> tuple[Claim, ...]:
    """Every claim of ``configs/claims``, file by file in the order of their names.

    Args:
        configs: the folder of the configuration, as :func:`~morphnet.cli.compose.configs_dir` finds it.

    Raises:
        ValueError: a claim is wrong, is repeated, or names an unknown preset or phase; file and claim are named.
    """
    claims: dict[str, Claim] = {}
    presets: dict[str, dict[str, Any]] = {}
    for path in sorted((configs / "claims").glob("*.yaml")):
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(listed, dict) or listed.keys() != {"claims"} or not isinstance(listed["claims"], list):
            raise ValueError(f"{path}: `claims:` with a list is needed, and nothing else")
        for number, values in enumerate(listed["claims"], 1):
            sentence = values.get("claim") if isinstance(values, dict) else None
            try:
                claim = _claim(values)
                _check_networks(claim, configs / "experiment", presets)
                if claim.claim in claims:
                    raise ValueError("the claim is repeated")
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, claim {number} ({sentence}): {error}") from error
            claims[claim.claim] = claim
    return tuple(claims.values())


def _claim(values: Any) -> Claim:
    if not isinstance(values, dict):
        raise ValueError(f"a mapping is needed, not {values!r}")
    made: dict[str, Any] = {
        key: Network(**value) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    if not isinstance(made.get("network"), Network):
        raise ValueError("network: {experiment: ..., phase: ...} is needed")
    return Claim(**made)


def _check_networks(claim: Claim, folder: Path, presets: dict[str, dict[str, Any]]) -> None:
    """Refuses networks that no preset trains, and pairs that do not begin with the same parent."""
    networks = [network for network in (claim.network, claim.against) if isinstance(network, Network)]
    for network in networks:
        path = folder / f"{network.experiment}.yaml"
        if network.experiment not in presets:
            if not path.is_file():
                raise ValueError(f"experiment={network.experiment}: {path} does not exist")
            presets[network.experiment] = yaml.safe_load(path.read_text(encoding="utf-8"))
        phases = [phase.get("name") or phase.get("morph") for phase in presets[network.experiment].get("phases", ())]
        if network.phase not in phases:
            raise ValueError(f"phase={network.phase}: {network.experiment} has {', '.join(map(str, phases))}")
        if network.control is not None and network.phase == phases[0]:
            raise ValueError(f"control={network.control}: {network.phase} is the parent, which has no controls")
    parents = [(presets[n.experiment].get("defaults"), presets[n.experiment]["phases"][0]) for n in networks]
    if claim.test == "paired" and parents[0] != parents[1]:
        raise ValueError(f"test=paired: {networks[0].experiment} and {networks[1].experiment} have other parents")


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high  # NaN is not
