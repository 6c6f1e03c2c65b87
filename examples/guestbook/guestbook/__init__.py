"""A guestbook: a small real service to deploy with rebake."""
