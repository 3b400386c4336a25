"""What a caller may do: three roles, each with all that the one before it may."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Role"]


class Role(StrEnum):
    """`read` looks, `train` makes curricula, draws, reports and checkpoints, `admin` changes and deletes."""

    READ = "read"
    TRAIN = "train"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether who has this role may do what needs the other one."""
        order = tuple(Role)
        return order.index(self) >= order.index(other)
