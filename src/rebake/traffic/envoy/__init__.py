"""The route on real Envoy: `EnvoyRouter` and the helper `url`. See `router` for the order of every change."""

from rebake.traffic.envoy.names import url
from rebake.traffic.envoy.process import EdgeSettings
from rebake.traffic.envoy.router import EnvoyRouter

__all__ = ["EdgeSettings", "EnvoyRouter", "url"]
