"""A Gateway implementation for tests: the emulator's controller as a client of any API server, with a real Envoy."""

from rebake.testing.gateway.standin import GatewayStandIn

__all__ = ["GatewayStandIn"]
