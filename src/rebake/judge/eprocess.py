"""The one primitive of the judge: bets on which cohort an event falls on.

Requests are sent to the candidate at random, with a share `weight` that we set ourselves and therefore know. If the
candidate is no worse than the margins allow, nobody can expect to win money by betting that failures fall on it more
often than the share says, however the traffic, the error rate or the weight move in time. So the wealth of a gambler
who starts with 1 is evidence: it exceeds 1/alpha with probability at most alpha, at whatever moment one looks.

The rules that keep it valid (edit with care):
- what a bet is made of (`center`, `weight`, the bets, new wealth put at stake) is fixed before the tick it is used for;
- wealth only moves between accounts, it is never added; clamps may only lose wealth;
- metrics are averaged with weights fixed in advance, never maximised.

Everything here works on arrays whose last axes are (metric, bet), with any number of axes before them, so that the
live judge and the benchmark's thousands of simulated rollouts run the same lines.

Source: Grünwald, Henzi, Lardy 2023, "Anytime-valid tests of conditional independence under model-X", section 2;
Waudby-Smith, Ramdas 2024, "Estimating means of bounded random variables by betting", section 4; Ville 1939.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CAP = 0.9
"""Largest part of the wealth that one request may lose."""
LARGEST = 1e280
"""Wealth is clamped here; the clamp can only lose wealth, so it keeps the bound."""
SMALLEST = 1e-280
"""Wealth below this is dropped, for the same reason (and because denormal numbers are slow)."""
FIRST_HOUR_SECONDS = 3600.0
SMALLEST_SHARE = 1e-6
"""Nearer to 0 or 1 there is nothing to compare."""
MOST_LOST, MOST_WON = 600.0, 60.0
"""One tick's factor is clamped to these logarithms; 60 decides any rollout, and keeps the product finite."""
AT_ONCE, WITHIN_FIRST_HOUR, LATER = 0.5, 0.47, 0.03


@dataclass(frozen=True, slots=True)
class Counts:
    """What one tick saw, by metric. Arrays of shape (..., metrics), whole numbers >= 0.

    Attributes:
        candidate_n, stable_n: requests of each cohort (of one endpoint, for an endpoint's metric).
        candidate_hits, stable_hits: those with the event (failed, or slower than the threshold).
        candidate_partial: those whose event counts as `partial` between 0 and 1 (the latency bucket that the
            candidate's own threshold cuts).
        partial: the value such an event counts as, shape (..., metrics) or a number.
    """

    candidate_n: Floats
    candidate_hits: Floats
    stable_n: Floats
    stable_hits: Floats
    candidate_partial: Floats | float = 0.0
    partial: Floats | float = 0.0


def odds(weight: Any) -> Any:
    """w / (1 - w), for 0 < w < 1."""
    return weight / (1.0 - weight)


def capped_bets(bets: Floats, center: Floats, extra: Floats, ratio: Floats, odd: Any) -> Floats:
    """Lower the bets so that no single request can lose more than `CAP` of the wealth.

    Args:
        bets: (..., metrics, bets), > 0. center, extra, ratio: (..., metrics). odd: w / (1 - w), broadcastable.
    Returns: (..., metrics, bets).
    Source: Waudby-Smith, Ramdas 2024, section 4.1: bets in the interval that keeps every factor positive.
    """
    limit = CAP / np.maximum(np.maximum(center + extra, odd * (ratio - center)), 1e-12)
    capped: Floats = np.minimum(bets, limit[..., None])
    return capped


def log_factors(bets: Floats, counts: Counts, *, center: Floats, extra: Floats, ratio: Floats, odd: Any) -> Floats:
    """Logarithm of what one tick multiplies the wealth by.

    A candidate request with event y has the factor 1 + l (y - c - delta), a stable one 1 - l o (rho y - c), with
    o = w / (1 - w). Their mean over the routing draw is 1 + l w (p_candidate - rho p_stable - delta) <= 1 under the
    hypothesis p_candidate <= rho p_stable + delta, whatever the rates are. All requests of a tick share c, so the
    product over requests is a power: exact, not an approximation.

    Args:
        bets: l, (..., metrics, bets), already capped by `capped_bets`.
        center, extra, ratio: c, delta, rho, (..., metrics).
        odd: o, broadcastable to (..., metrics).
    Returns: (..., metrics, bets).
    Source: Grünwald, Henzi, Lardy 2023, section 2 (model-X e-variables); Waudby-Smith, Ramdas 2024, section 4.
    """
    up = (1.0 - center - extra)[..., None]
    down = (center + extra)[..., None]
    misses = counts.candidate_n - counts.candidate_hits - counts.candidate_partial
    log_wealth = counts.candidate_hits[..., None] * np.log1p(bets * up)
    log_wealth += misses[..., None] * np.log1p(-bets * down)
    if not np.isscalar(counts.candidate_partial):
        middle = np.asarray(counts.partial - center - extra)[..., None]
        log_wealth += np.asarray(counts.candidate_partial)[..., None] * np.log1p(bets * middle)
    log_wealth += counts.stable_hits[..., None] * np.log1p(-bets * (odd * (ratio - center))[..., None])
    log_wealth += (counts.stable_n - counts.stable_hits)[..., None] * np.log1p(bets * (odd * center)[..., None])
    return log_wealth


def capped_pair_bets(bets: Floats, extra: Floats, ratio: Floats) -> Floats:
    """Lower the bets so that no pair can lose more than `CAP` of the wealth. Shapes as in `capped_bets`."""
    capped: Floats = np.minimum(bets, (CAP / np.maximum(ratio + extra, 1e-12))[..., None])
    return capped


def log_pair_factors(bets: Floats, pairs: Floats, *, extra: Floats, ratio: Floats) -> Floats:
    """Logarithm of what pairs multiply the wealth by: a user's request that stable answered, and its copy.

    A pair of events y (of the copy, on the candidate) and z (of the original, on stable) has the factor
    1 + l (y - rho z - delta), mean 1 + l (p_candidate - rho p_stable - delta) <= 1 under the hypothesis, whatever the
    rates do in time and however alike y and z are.

    Args:
        bets: l, (..., metrics, bets), already capped by `capped_pair_bets`.
        pairs: (4, ..., metrics): all pairs; those with the event on both, on the copy alone, on the original alone.
        extra, ratio: delta, rho, (..., metrics).
    Returns: (..., metrics, bets).
    Source: Waudby-Smith, Ramdas 2024, section 4 (bets on differences of bounded variables).
    """
    n, both, copies, originals = pairs[..., None]
    delta, rho = extra[..., None], ratio[..., None]
    log_wealth: Floats = both * np.log1p(bets * (1.0 - rho - delta)) + copies * np.log1p(bets * (1.0 - delta))
    log_wealth += originals * np.log1p(-bets * (rho + delta))
    log_wealth += (n - both - copies - originals) * np.log1p(-bets * delta)
    return log_wealth


def staked_by(clock: float) -> float:
    """Share of the wealth that is at stake after `clock` seconds: the mixture over start times.

    Half is bet from the first request on, nearly half enters evenly over the first hour (leaks, late bombs), and a
    little keeps entering for ever, so that the judge never goes blind.

    Source: Shiryaev's recursion with a proper prior; Shin, Ramdas, Rinaldo 2024, "E-detectors", section 2.
    """
    within = min(max(clock, 0.0) / FIRST_HOUR_SECONDS, 1.0)
    later = 1.0 - FIRST_HOUR_SECONDS / max(clock, FIRST_HOUR_SECONDS)
    return AT_ONCE + WITHIN_FIRST_HOUR * within + LATER * later


def advance(wealth: Floats, new_stake: Any, log_factor: Floats) -> Floats:
    """One step of the wealth: S <- (S + pi) x factor.

    The tick's factor is formed as a logarithm, so that 10^10 requests in a tick are no problem; wealth itself is kept
    plain, because what is smaller than `SMALLEST` is worth less than the stake that enters with the next tick.
    Source: Shin, Ramdas, Rinaldo 2024, section 2 (Shiryaev-Roberts e-process with a prior on the start).
    """
    grown: Floats = (wealth + new_stake) * np.exp(np.clip(log_factor, -MOST_LOST, MOST_WON))
    grown[grown < SMALLEST] = 0.0
    return np.minimum(grown, LARGEST, out=grown)
