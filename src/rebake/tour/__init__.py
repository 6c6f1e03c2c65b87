"""The tour: everything rebake promises, shown on one machine with a real service and real load."""
