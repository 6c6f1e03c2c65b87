"""One file per kind of source; none knows another."""
