"""From measurements to a verdict: the rule, and the sentence that proves it.

Answers: given slope, curvature and probes, which kind is this point, and why?
Does not answer: how they are measured (``classifying``).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.critical.curvature import Curvature
from unstick.critical.point import Kind
from unstick.critical.probing import Search
from unstick.record import number

__all__ = ["FLAT", "Descent", "Evidence", "is_critical", "judge", "zero_tolerance"]

NEGLIGIBLE = (
    0.1  # a slope that pays less than this fraction of the curvature is not what matters here
)
SHALLOW = 0.2  # measured: ‖g‖ over the mean slope along ±v was ≤ 0.07 beside saddles, ≥ 1.0 in healthy training
FLAT = 1e-3  # ‖Hg‖ below this fraction of ‖H‖‖g‖: the gradient lies in the Hessian's kernel


@dataclass(frozen=True, slots=True, eq=False)
class Descent:
    """A way down that was measured."""

    direction: Tensor  # [n] unit
    step: float  # distance along it
    decrease: float
    curvature: float | None  # vᵀHv, of an eigenvector of negative curvature
    search: Search | None  # the probes along it, where it was a full search
    noise: float  # of the loss at its end

    @property
    def real(self) -> bool:
        """Whether the decrease is beyond the noise."""
        return self.decrease > 2 * self.noise


@dataclass(slots=True)
class Evidence:
    """What has been measured at a point so far."""

    loss: float
    gradient: Tensor  # [n]
    theta: Tensor  # [n]
    loss_noise: float = 0.0
    standard_error: float | None = None
    slope: Search | None = None  # along −g
    flatness: float = math.nan  # ‖Hg‖ / (‖H‖‖g‖)
    curvature: Curvature | None = None
    bent: Descent | None = None  # the best ±v of negative curvature
    tried: bool = False  # all ±v have been gone along
    valley: Descent | None = None  # along a Newton step, where no curvature is negative
    scanned: int = 0  # directions of finite scans
    scan: Descent | None = None
    blind: bool = False  # kinks: second derivatives do not see all curvature
    attained: bool = False  # the loss is at its known lower bound
    single: bool = False  # computed in float32
    outcome: str = "complete"

    @property
    def way_down(self) -> Descent | None:
        """The best measured descent by curvature or finite steps, if one is beyond its noise."""
        ways = [way for way in (self.bent, self.scan) if way is not None and way.real]
        return max(ways, key=lambda way: way.decrease, default=None)

    @property
    def gradient_norm(self) -> float:
        """‖g‖."""
        return float(torch.linalg.vector_norm(self.gradient.double()))

    @property
    def size(self) -> float:
        """The scale of the parameters, max(1, ‖θ‖)."""
        return max(1.0, float(torch.linalg.vector_norm(self.theta.double())))


def is_critical(evidence: Evidence, tolerance: float) -> bool | None:
    """Whether the slope is used up: what it pays is noise, or it is shallow beside what the curvature makes.

    The decrease along −g is credited to the slope only as far as slope times distance explains it: beside a saddle
    −g turns into the direction of negative curvature, and a long step along it pays by curvature. What ±v pays is
    credited to the curvature only beyond what the slope along v explains. The slope is shallow when it pays less than
    a tenth of the curvature and ‖g‖, the steepest slope here, is below a fifth of the mean slope of the way along ±v.
    In a narrow valley −g pays little and a Newton step much: then it is not critical either.

    Returns:
        None where an interruption leaves it open.
    """
    if evidence.slope is None:
        return None
    paid, noise = evidence.slope.by_slope, evidence.loss_noise
    enough = noise + tolerance * abs(evidence.loss)
    if evidence.valley is not None and evidence.valley.decrease > enough:
        return False
    if paid <= enough:
        return True
    along = None if evidence.bent is None else evidence.bent.search
    if along is None or along.beyond_slope <= 2 * noise:
        interrupted = evidence.outcome == "interrupted" and not evidence.tried
        return None if interrupted else False
    return (
        paid < NEGLIGIBLE * along.beyond_slope
        and evidence.gradient_norm < SHALLOW * along.steepness
    )


def zero_tolerance(evidence: Evidence, critical: bool | None) -> float:
    """τ: an eigenvalue within ±τ counts as zero.

    Beside the noise of the arithmetic, at a point taken as critical an eigenvalue below ‖g‖/max(1, ‖θ‖) has no sign
    of its own: along symmetries of the network the remaining gradient alone makes curvature of that size.
    """
    floor = evidence.curvature.noise_floor if evidence.curvature is not None else 0.0
    return max(floor, evidence.gradient_norm / evidence.size) if critical else floor


def judge(evidence: Evidence, tolerance: float) -> tuple[Kind, str]:
    """The kind of a point and one sentence that a reader can check."""
    critical = is_critical(evidence, tolerance)
    if critical is None:
        return (
            Kind.UNDECIDED,
            "slope and curvature were not both measured; give it more time",
        )
    if not critical:
        return Kind.NOT_CRITICAL, _pays(evidence, tolerance)
    used_up = _used_up(evidence, tolerance)
    curvature = evidence.curvature
    if curvature is None:
        return (
            Kind.UNDECIDED,
            f"{used_up}, but no curvature was measured; give it more time or budget",
        )
    tau = zero_tolerance(evidence, critical)
    if float(curvature.lowest.values[0]) < -tau:
        return _bent_down(evidence, curvature, tau, used_up)
    if curvature.counts is not None:
        return _exact(evidence, curvature, tau, used_up)
    return _estimated(evidence, curvature, tau, used_up)


def _pays(evidence: Evidence, tolerance: float) -> str:
    slope = evidence.slope
    assert slope is not None
    share = slope.decrease / abs(evidence.loss) if evidence.loss else math.inf
    text = (
        f"going {number(slope.step)} along −g lowers the loss by {number(slope.decrease)} "
        f"({100 * share:.2g} % of it, noise {number(evidence.loss_noise)})"
    )
    if evidence.bent is not None:
        gain = number(evidence.bent.decrease)
        text += f"; the best of the negative-curvature directions lowers it by {gain}"
    valley = evidence.valley
    if valley is not None and valley.decrease > evidence.loss_noise + tolerance * abs(
        evidence.loss
    ):
        text += (
            f"; going {number(valley.step)} along the Newton step lowers it by {number(valley.decrease)}: a narrow valley, "
            "steep across and sloping along"
        )
    if evidence.flatness < FLAT:
        text += (
            f". Gradient-flat: Hg ≈ 0 (‖Hg‖/(‖H‖‖g‖) = {number(evidence.flatness)}) though g ≠ 0, "
            "where methods that minimize ‖g‖ get caught; it is not critical"
        )
    return text


def _used_up(evidence: Evidence, tolerance: float) -> str:
    slope = evidence.slope
    assert slope is not None
    text = f"the slope pays at most {number(slope.by_slope)} along −g (noise of the loss {number(evidence.loss_noise)}"
    if evidence.loss_noise < slope.by_slope <= evidence.loss_noise + tolerance * abs(evidence.loss):
        text += f", tolerance {number(tolerance)} of it"
    return text + ")"


def _bent_down(
    evidence: Evidence, curvature: Curvature, tau: float, used_up: str
) -> tuple[Kind, str]:
    """At least one eigenvalue is below −τ."""
    value = float(curvature.lowest.values[0])
    residual = float(curvature.lowest.residuals[0])
    text = f"{used_up}, and vᵀHv = {number(value)} < −{number(tau)} for a unit vector v (residual {number(residual)})"
    way = evidence.way_down
    if way is not None:
        bent = "" if way.curvature is None else f", where vᵀHv = {number(way.curvature)},"
        text += f"; going {number(way.step)} along escape_direction{bent} lowers the loss by {number(way.decrease)}"
    top = curvature.lambda_max
    if top.low > tau:
        return Kind.SADDLE, f"{text}; λmax ≥ {number(top.low)} > 0"
    if top.high <= tau:
        sure = "" if top.high_confidence == 1 else f" with probability {top.high_confidence:.6g}"
        return Kind.MAXIMUM, f"{text}; no eigenvalue is above {number(top.high)}{sure}"
    return Kind.UNDECIDED, (
        f"{text}: a saddle or a maximum, no positive curvature was found but some up to {number(top.high)} may be "
        "hidden; a larger budget would tell"
    )


def _exact(evidence: Evidence, curvature: Curvature, tau: float, used_up: str) -> tuple[Kind, str]:
    """All eigenvalues are known and none is below −τ."""
    zero = int((curvature.eigenvalues.abs() <= tau).sum())
    n = len(curvature.eigenvalues)
    lowest = number(float(curvature.eigenvalues[0]))
    assert curvature.counts is not None
    if not curvature.counts.agreed and zero:
        return Kind.UNDECIDED, (
            f"{used_up}; eigenvalues lie so close to ±{number(tau)} that eigvalsh and LDLᵀ count them differently; "
            "another precision or τ would tell"
        )
    if evidence.way_down is not None and (zero or evidence.blind):
        return Kind.DEGENERATE, _descends(evidence, zero, tau, used_up)
    if evidence.attained:
        return (
            Kind.MINIMUM,
            f"{used_up}, and the loss {number(evidence.loss)} is at its lower bound: nothing lies below",
        )
    if zero == 0:
        every = f"all {n} eigenvalues are" if n > 1 else "the only eigenvalue is"
        smallest = f", the smallest {lowest}" if n > 1 else f": {lowest}"
        return Kind.MINIMUM, f"{used_up}, and {every} positive{smallest}"
    counted = (
        f"{used_up}; {zero} of {n} eigenvalues are within ±{number(tau)} of zero and none is below"
    )
    if evidence.single and float(curvature.eigenvalues.abs().max()) > 0:
        return Kind.UNDECIDED, (
            f"{counted}: in float32 their sign cannot be told; float64 (dtype=torch.float64) would tell"
        )
    return Kind.DEGENERATE, (
        f"{counted}; finite steps along {evidence.scanned} such directions found no descent, which is no proof: "
        "symmetries of a network give such zeros at minima too"
    )


def _descends(evidence: Evidence, zero: int, tau: float, used_up: str) -> str:
    way = evidence.way_down
    assert way is not None
    why = (
        "second derivatives are blind here (the loss has kinks)"
        if evidence.blind
        else f"{zero} eigenvalues are within ±{number(tau)} of zero and none is below"
    )
    return (
        f"{used_up}; {why}, but a finite step of {number(way.step)} along escape_direction lowers the loss by "
        f"{number(way.decrease)}"
    )


def _estimated(
    evidence: Evidence, curvature: Curvature, tau: float, used_up: str
) -> tuple[Kind, str]:
    """No eigenvalue below −τ was found, and not all are known."""
    low = curvature.lambda_min
    sure = f"with probability {low.low_confidence:.6g}"
    if evidence.attained:
        return (
            Kind.MINIMUM,
            f"{used_up}, and the loss {number(evidence.loss)} is at its lower bound: nothing lies below",
        )
    if low.low > tau:
        return Kind.MINIMUM, f"{used_up}, and every eigenvalue is above {number(low.low)} {sure}"
    found = (
        f"{used_up}; no negative curvature was found, and none below {number(low.low)} exists {sure} "
        f"(the smallest Ritz value is {number(low.value)})"
    )
    way = evidence.way_down
    if way is not None:
        found += f"; yet a finite step of {number(way.step)} along escape_direction lowers the loss by {number(way.decrease)}"
        if evidence.blind:
            return (
                Kind.DEGENERATE,
                f"{found}: the loss has kinks here that second derivatives do not see",
            )
    return (
        Kind.UNDECIDED,
        f"{found}; a larger budget narrows this, a dense Hessian (fewer parameters) would tell",
    )
