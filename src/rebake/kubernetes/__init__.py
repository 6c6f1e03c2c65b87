"""What the platform and the route of a cluster share: signing in, speaking to its API, watching, and how things are
called. It decides nothing."""
