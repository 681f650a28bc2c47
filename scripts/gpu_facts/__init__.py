"""Questions to a real GPU: thirteen in twelve minutes, answered as JSON lines as they come. See README.md beside this."""
