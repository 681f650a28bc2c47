"""The API: what callers talk to. Never imports torch or the worker."""
