"""The gRPC side of the service: translation, health, limits and figures; no decision is made here."""

from sampler_service.rpc.limits import RpcSettings
from sampler_service.rpc.listener import PortTakenError, RpcServer, try_to_listen

__all__ = ["PortTakenError", "RpcServer", "RpcSettings", "try_to_listen"]
