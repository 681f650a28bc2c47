"""Routes parse, make one call, and return."""
