"""Deterministic simulation: the real engine over a simulated world, thousands of rollouts a minute, with every fault.

One seed drives the platform, the balancer, the users, the clock, the ledger, the people and the faults. Phase one lets
everything go wrong and checks the promises after every step; phase two heals the world and demands that every rollout
ends. `python -m rebake.testing.simulation --seeds 1+1000` runs it; see `scenario` for what can happen, `watch` for what
must never happen, and `run` for how both meet.
"""

from rebake.testing.simulation.run import Outcome, simulate
from rebake.testing.simulation.scenario import Happening, Scenario, draw
from rebake.testing.simulation.shrink import shrink

__all__ = ["Happening", "Outcome", "Scenario", "draw", "shrink", "simulate"]
