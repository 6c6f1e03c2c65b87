"""Asking over HTTP for what is measured: shared by sources of a service's own metrics, and by routes whose records a
Prometheus server keeps. It decides nothing."""
