"""Command-line scripts for developers."""
