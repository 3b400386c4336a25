"""The gRPC side of the service: translation, health, limits and figures; no decision is made here."""

from sampler_service.rpc.limits import RpcSettings
from sampler_service.rpc.listener import PortTakenError, RpcServer

__all__ = ["PortTakenError", "RpcServer", "RpcSettings"]
