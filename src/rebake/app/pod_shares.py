"""Whether the steps of a plan can be had beside the fleet that serves, where shares are those of instances."""

from __future__ import annotations

from rebake.core.units import FULL, format_share
from rebake.errors import UsageError
from rebake.rollout.plan import Plan
from rebake.rollout.world import Fleet
from rebake.traffic.pods import fits, neighbours


def refuse_shares(plan: Plan, stable: Fleet | None) -> None:
    """The file was read for two fleets of one size; the one that serves may have another.

    Raises: UsageError `share-not-had`.
    """
    if not plan.strategy.by_instances or stable is None or stable.plan.instances == plan.instances:
        return
    count, beside = plan.instances, stable.plan.instances
    shares = [*plan.strategy.steps, *([FULL - plan.hold_back_basis_points] if plan.hold_back_basis_points else [])]
    for share in shares:
        if not fits(share, beside, count):
            near = " or ".join(format_share(one) for one in neighbours(share, beside, count))
            raise UsageError(
                "share-not-had",
                f"expected a share that {count} instances beside the {beside} that serve can have ({near}), found "
                f"{format_share(share)}",
                where=f"environments.{plan.environment}.strategy",
                remedy=f"first deploy the release that serves with instances: {count}, which only adds or takes away, "
                "then this one",
            )
