"""Copies of users' requests, judged before the candidate has users: bets on pairs of a copy and its original. Pure.

The rules:
- a pair is compared with itself: the copy that the candidate answered, and the user's request that stable answered. So
  nothing need be known of shares, and an outage of what both use blames nobody;
- failures, failures by endpoint, unanswered and unfinished ones, refusals and redirects are bet on. Latency is not: the
  fleets carry different loads meanwhile, and the copy comes second, when caches are warm;
- the wealth is an account of its own beside the users' requests', and their evidence is averaged with shares that are
  fixed before the first copy: bets that a harmless stage has worn out leave those on users untouched.

Source: Vovk, Wang 2021, "E-values: calibration, combination and applications", section 3; `eprocess.log_pair_factors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rebake.judge import texts
from rebake.judge.eprocess import Floats
from rebake.judge.metrics import OTHERS, REDIRECTS, REFUSALS, UNANSWERED, UNFINISHED
from rebake.judge.rows import MOST_REQUESTS, Rows
from rebake.judge.samples import Arm, Joint, JudgeSettings, Pairs, Tick

SHARE = 0.2
"""Part of the wealth that is bet on copies where users come after them: it costs the users' requests 0.22 nats."""
_HITS = {"errors": "bad answer", **OTHERS}
UNIT = "copied requests"
KINDS = ("errors", "endpoints", UNANSWERED, REFUSALS, REDIRECTS, UNFINISHED)


class Copies:
    """What is known from copies.

    Args:
        settings, history: the judge's.
    """

    def __init__(self, settings: JudgeSettings, history: Arm | None) -> None:
        self.rows = Rows(settings, history, KINDS)

    def update(self, now: float, pairs: Pairs) -> None:
        """Take in the pairs that were completed in the tick that ends at `now`. Absurd counts are clamped."""
        seen = {name: (counts[0], 0) for name, counts in pairs.endpoints.items()}
        self.rows.open_newcomers(Tick(now, 0.0, 0.0, candidate=Arm(endpoints=seen)))
        counts = self._counts(pairs)
        self.rows.book.bet_on_pairs(now, counts)
        n, both, copies, originals = counts
        self.rows.book.totals += np.stack([n, both + copies, n, both + originals], axis=1)

    def _counts(self, pairs: Pairs) -> Floats:
        """By row: pairs, and those with the event on both, on the copy alone, on the original alone."""
        table = np.zeros((4, len(self.rows.book.rows)))
        table[:, 0] = _sane(pairs.n, pairs.failed)
        others = {
            UNANSWERED: pairs.unanswered,
            REFUSALS: pairs.refused,
            REDIRECTS: pairs.redirected,
            UNFINISHED: pairs.unfinished,
        }
        for kind, row in self.rows.others.items():
            table[:, row] = _sane(pairs.n, others[kind])
        for name, (n, *failed) in pairs.endpoints.items():
            if (index := self.rows.endpoints.get(name)) is not None:
                table[:, index] = _sane(n, (failed[0], failed[1], failed[2]))
        return table

    @property
    def evidence(self) -> float:
        """The averaged e-value of all that is bet on copies."""
        return self.rows.evidence()

    @property
    def seen(self) -> tuple[int, int]:
        """Copies so far, and those of them that failed."""
        n, failed, _, _ = self.rows.book.totals[0]
        return int(n), int(failed)

    def compared(self) -> str:
        """ "9 bad answers of 13 copied requests on the candidate (69 %) against 0 of 13 copied requests on stable
        (0 %)": what speaks most against the candidate; and the endpoint where that is."""
        places = {"errors": 0, **self.rows.others}
        own = self.rows.own_evidence()
        name = max(places, key=lambda kind: (own[places[kind]], kind == "errors"))
        n1, k1, n0, k0 = self.rows.book.totals[places[name]]
        text = texts.compared(_HITS[name], (n1, k1), (n0, k0), UNIT)
        endpoint = self.rows.worst_endpoint() if name == "errors" else None
        if endpoint is None:
            return text
        where, n, failures = endpoint
        return f"{text}, most on {where} ({texts.number(failures)} of {texts.number(n)})"

    def state(self) -> dict[str, Any]:
        return self.rows.state()

    @classmethod
    def restore(cls, settings: JudgeSettings, state: Mapping[str, Any]) -> Copies:
        copies = cls(settings, None)
        copies.rows = Rows.restore(settings, state)
        return copies


def _sane(n: int, events: Joint) -> tuple[float, float, float, float]:
    pairs = float(min(max(n, 0), MOST_REQUESTS))
    left, found = pairs, []
    for event in events:
        found.append(min(max(float(event), 0.0), left))
        left -= found[-1]
    return pairs, found[0], found[1], found[2]
