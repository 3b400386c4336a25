"""What the dashboard needs from the layer below, and how that layer refuses."""

from collections.abc import Mapping
from typing import Protocol

from curriculum.v1 import curriculum_pb2 as pb


class ReadError(Exception):
    """A read, or a write, that was refused or could not be answered.

    `code` is a google.rpc.Code number (3 INVALID_ARGUMENT, 5 NOT_FOUND, 14 UNAVAILABLE, ...), `reason` the
    upper-case reason clients branch on, `message` what was wrong and what to do about it, `field` the path of the
    offending field if there is one.
    """

    def __init__(self, code: int, reason: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field

    def __repr__(self) -> str:
        return f"ReadError(code={self.code}, reason={self.reason!r}, message={self.message!r})"


class CurriculumReader(Protocol):
    """Read access to the curricula of one replica. Every method may raise `ReadError`."""

    async def list_curricula(self, page_size: int, page_token: str) -> pb.ListCurriculaResponse:
        """One page of curricula ordered by id; an empty `page_token` starts at the first."""
        ...

    async def curriculum(self, curriculum_id: str) -> pb.Curriculum:
        """One curriculum, its strategy spelt out."""
        ...

    async def summary(self, curriculum_id: str, bins: int) -> pb.Summary:
        """The aggregates of one curriculum; `bins` 0 means the service's default."""
        ...

    async def prompt_states(self, request: pb.ListPromptStatesRequest) -> pb.ListPromptStatesResponse:
        """One page of prompt states that pass the request's filter."""
        ...

    async def prompt_history(
        self, curriculum_id: str, prompt_id: str, most_visits: int
    ) -> pb.GetPromptHistoryResponse:
        """One prompt's visits, the newest `most_visits` of them; 0 means the service's default."""
        ...

    async def ready(self) -> tuple[bool, str]:
        """Whether this replica answers from current state, and why not if it does not."""
        ...


class StrategyWriter(Protocol):
    """The one thing that the dashboard changes. The guard has seen to it that the caller may."""

    async def update_strategy(self, request: pb.UpdateCurriculumRequest) -> pb.Curriculum:
        """Puts a strategy in force; the curriculum as it then is, or would be. May raise `ReadError`."""
        ...

    def presets(self) -> Mapping[str, pb.Strategy]:
        """Named strategies, every part spelt out."""
        ...
