"""Who calls, whether they may, and how often: asked before a method begins, and again during streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from sampler_service.access import Gate, Principal, RateLimiter, Role, Throttled, current_principal

__all__ = ["Admission"]

# grpc.aio's contexts have no useful static types.
_Context = Any


class Admission:
    """Lets a call of one method in, or raises.

    Args:
        calls_per_second: of one caller; 0 sets no limit.
        most_calls: of one token at once, so that others have room.
    """

    def __init__(self, gate: Gate, calls_per_second: float, most_calls: int) -> None:
        self._gate = gate
        self._rate = RateLimiter(calls_per_second, 2 * calls_per_second) if calls_per_second > 0 else None
        self._most_calls = most_calls
        self._calls_of: Counter[str] = Counter()

    def may_be_known(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
        """Whether it is worth reading the request of a call that begins with this; `admit` decides."""
        return not self._gate.enabled or self._gate.may_know(_bearer(metadata))

    def admit(self, context: _Context, role: Role, method: str) -> Principal:
        """Who calls; also in `current_principal` from here on. `leave` ends it.

        Raises:
            CurriculumError: UNAUTHENTICATED, PERMISSION_DENIED or RESOURCE_EXHAUSTED.
        """
        address = _address(context.peer()) if self._gate.enabled or self._rate else ""
        if self._gate.enabled:
            principal = self._gate.authenticate(
                _bearer(context.invocation_metadata()), _identities(context), address
            )
            principal.require(role, method)
        else:
            principal = self._gate.authenticate("", (), "")
        current_principal.set(principal)
        if self._rate is not None:
            caller = principal.name if principal.credential is not None else address
            wait = self._rate.wait_seconds(caller)
            if wait > 0:
                raise Throttled(
                    "TOO_MANY_CALLS",
                    "This caller exceeds rpc.max_calls_per_second. Send more in one call, or ask for a higher limit.",
                    retry_after_seconds=wait,
                )
        if principal.credential is not None:
            if self._calls_of[principal.name] >= self._most_calls:
                raise Throttled(
                    "TOO_MANY_CALLS",
                    f"{self._most_calls} calls of {principal.name!r} are open, streams included: half of "
                    "rpc.max_concurrent_calls, the most that one token gets. End some first.",
                    retry_after_seconds=1.0,
                )
            self._calls_of[principal.name] += 1
        return principal

    def leave(self, principal: Principal) -> None:
        """A call that was let in has ended."""
        if principal.credential is not None:
            self._calls_of[principal.name] -= 1

    def check_message(self, principal: Principal, role: Role, method: str, request: Any) -> None:
        """Whether the principal may do this to the curriculum that the message names.

        Raises:
            PermissionDenied: it is another's, or none is named and the principal is for some only: what is
                imported without an id, say, takes the one in its file.
        """
        curriculum_id = getattr(request, "curriculum_id", None)
        principal.require(role, method, curriculum_id or "")
        if curriculum_id == "":
            principal.require_all_curricula(f"{method} without a curriculum_id")

    async def check_stream(
        self, principal: Principal, role: Role, method: str, requests: AsyncIterator[Any]
    ) -> AsyncIterator[Any]:
        """The messages, each checked, for as long as the credential stays valid."""
        named = False
        async for request in requests:
            self.check_current(principal)
            # Later messages may leave it out: it is then that of the first.
            if request.curriculum_id or not named:
                self.check_message(principal, role, method, request)
            named = True
            yield request

    def check_current(self, principal: Principal) -> None:
        """Ends a stream whose credential was revoked.

        Raises:
            Unauthenticated: it was.
        """
        if self._gate.enabled:
            self._gate.require_current(principal)


def _bearer(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    for key, value in metadata or ():
        if key == "authorization" and isinstance(value, str):
            return value
    return ""


def _identities(context: _Context) -> Iterator[str]:
    """Lazily: most callers show a token, and then nobody looks at the certificate."""
    for identity in context.peer_identities() or ():
        yield identity.decode(errors="replace")


def _address(peer: str) -> str:
    """`ipv4:10.0.0.1:5000` without the port, which differs from connection to connection."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
