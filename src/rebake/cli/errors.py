"""One way to print every error, and the exit code it ends with. Nothing else prints errors."""

from __future__ import annotations

import os
import sys

from rebake.cli.output import emit_json, notice, paint
from rebake.errors import BrokenInvariant, RebakeError


def lines_of(error: RebakeError) -> list[str]:
    """The error as people read it: what, where, what was seen, what to do."""
    text = [f"{paint(f'error[{error.code}]', 'red', 'bold', stream=sys.stderr)}: {error.problem}"]
    if error.where:
        text.append(f"  at: {error.where}")
    text += [f"    {part}" for seen in error.evidence for part in (seen.splitlines() or [""])]
    if error.remedy:
        text.append(f"  {paint('next', 'bold', stream=sys.stderr)}: {error.remedy}")
    return text


def show(error: RebakeError, *, as_json: bool) -> int:
    """Print the error, with `--json` also as the one document on standard output. Returns the exit code."""
    for text in lines_of(error):
        notice(text)
    if as_json:
        emit_json(error.to_json())
    return error.exit_code


def defect(error: BaseException) -> BrokenInvariant:
    """What is told about an exception that nobody expected. `REBAKE_DEBUG=1` shows where it came from."""
    if os.environ.get("REBAKE_DEBUG") == "1":
        import traceback

        trace = "".join(traceback.format_exception(error))
        return BrokenInvariant(f"{type(error).__name__}: {error}", evidence=trace.splitlines())
    hint = "REBAKE_DEBUG=1 before the same command shows where it happened"
    return BrokenInvariant(f"{type(error).__name__}: {error}", evidence=[hint])
