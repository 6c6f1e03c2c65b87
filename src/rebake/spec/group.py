"""The file of a release group as values: which services are deployed together, and how.

What a member is, is said by its own rebake.yaml; this file only names members by that file and an environment.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rebake.spec.fields import Filled, Name
from rebake.spec.model import Part


class Member(Part):
    """One environment of one service."""

    file: Filled = "rebake.yaml"
    """Its rebake.yaml, relative to this file."""
    environment: Name
    """Which of its environments."""


class Group(Part):
    """Services, or one service in several environments, that are deployed together."""

    group: Name
    """The group's name."""
    order: Literal["lockstep", "ordered"] = "lockstep"
    """`lockstep`: each step begins in all members together; `ordered`: one member after the other."""
    members: Annotated[tuple[Member, ...], Field(min_length=2, max_length=100)]
    """The members; with `ordered`, in the order in which they are deployed."""
