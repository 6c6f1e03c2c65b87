"""The error families, by who must act. Imports nothing of ours.

Every error says what is wrong (`problem`, with expected and found), where (`where`: a file with line, a key path, a
resource), what was seen (`evidence`: log tail, failing check) and what to do next (`remedy`: the command or edit to
try). Errors never print and never exit: the command line does, with `exit_code`. `code` is stable and kebab-case, and
`docs/errors.md` has one entry for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class RebakeError(Exception):
    """What every family shares. Raise a family, never this class."""

    exit_code: ClassVar[int] = 1
    family: ClassVar[str] = "error"

    def __init__(
        self,
        code: str,
        problem: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        evidence: Sequence[str] = (),
    ) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem
        self.where = where
        self.remedy = remedy
        self.evidence = tuple(evidence)

    def told(self) -> str:
        """Cause, place and what to do, on one line."""
        place = f" [{self.where}]" if self.where else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.problem}{place}{remedy}"

    def to_json(self) -> dict[str, Any]:
        """The error as the API and `--json` show it."""
        return {
            "error": self.code,
            "family": self.family,
            "problem": self.problem,
            "where": self.where,
            "remedy": self.remedy,
            "evidence": list(self.evidence),
            "exit_code": self.exit_code,
        }


class UsageError(RebakeError):
    """The command, its arguments or the place it is typed in do not fit. The person at the terminal must act."""

    exit_code = 2
    family = "usage"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in the user's file.

    Attributes:
        code: stable kebab-case name, documented in docs/errors.md.
        key: key path such as `environments.production.strategy`; empty for the file as a whole.
        problem: what was expected and what was found.
        line, column: 1-based place in the file; 0 when the file as a whole is meant.
        remedy: the edit to try, such as "did you mean platform?".
    """

    code: str
    key: str
    problem: str
    line: int = 0
    column: int = 0
    remedy: str | None = None


class SpecError(RebakeError):
    """The user's file is wrong. Carries every mistake at once; the file's author must act."""

    exit_code = 2
    family = "spec"

    def __init__(self, path: str, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        count = len(self.mistakes)
        super().__init__(
            "spec-mistakes",
            f"{count} mistake{'s' if count != 1 else ''} in {path}",
            where=path,
            remedy="correct the lines named and run the same command again",
            evidence=[
                f"{path}:{m.line}:{m.column}: {m.key + ': ' if m.key else ''}{m.problem}"
                + (f" ({m.remedy})" if m.remedy else "")
                for m in self.mistakes
            ],
        )

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {
            "mistakes": [
                {k: getattr(m, k) for k in ("code", "key", "problem", "line", "column", "remedy")}
                for m in self.mistakes
            ]
        }


class BakeError(RebakeError):
    """The source cannot be baked as it is (a secret in the tree, a failing install). The developer must act."""

    exit_code = 2
    family = "bake"


class Refused(RebakeError):
    """A gate, policy or quarantine said no. The person who owns the rule must act."""

    exit_code = 4
    family = "refused"


class PlatformError(RebakeError):
    """The platform or the edge failed. Raise `Transient` or `Permanent`."""

    exit_code = 5
    family = "platform"


class Transient(PlatformError):
    """May succeed when tried again.

    Attributes:
        retry_after_seconds: how long to wait before the next try.
    """

    def __init__(
        self,
        code: str,
        problem: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        evidence: Sequence[str] = (),
        retry_after_seconds: float = 1.0,
    ) -> None:
        super().__init__(code, problem, where=where, remedy=remedy, evidence=evidence)
        self.retry_after_seconds = retry_after_seconds


class Permanent(PlatformError):
    """Will fail again until somebody changes something."""


class LedgerConflict(RebakeError):
    """Another writer came first, or holds the lease of this environment."""

    exit_code = 5
    family = "ledger"


class BrokenInvariant(RebakeError):
    """Our mistake, not the user's."""

    exit_code = 1
    family = "defect"

    def __init__(self, problem: str, *, where: str | None = None, evidence: Sequence[str] = ()) -> None:
        super().__init__(
            "broken-invariant",
            problem,
            where=where,
            remedy="this is a defect of rebake: please report it with the output of `rebake doctor`",
            evidence=evidence,
        )


FAMILIES: Mapping[str, type[RebakeError]] = {
    f.family: f for f in (UsageError, BakeError, Refused, PlatformError, LedgerConflict, RebakeError)
}


def from_json(doc: Mapping[str, Any]) -> RebakeError:
    """Rebuild an error that crossed the API, so that the command line prints and exits as if it were its own."""
    if doc.get("family") == "spec":
        return SpecError(str(doc.get("where") or "rebake.yaml"), [Mistake(**m) for m in doc.get("mistakes", ())])
    if doc.get("family") == "defect":
        return BrokenInvariant(str(doc["problem"]), where=doc.get("where"), evidence=doc.get("evidence", ()))
    family = FAMILIES.get(str(doc.get("family")), RebakeError)
    return family(
        str(doc["error"]),
        str(doc["problem"]),
        where=doc.get("where"),
        remedy=doc.get("remedy"),
        evidence=doc.get("evidence", ()),
    )
