"""Shipped for tests of rebake and of adapters for it: a simulated world, a manual clock, conformance suites."""
