"""Where metrics of the service's own are read: adapters of `judge.ports.MetricSource`, named by `app` alone."""
