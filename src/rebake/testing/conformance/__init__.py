"""One suite per port; every adapter and every double passes the same one. Needs pytest."""
