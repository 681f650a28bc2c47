"""I/O that the service and the worker both need: settings, records, queue, storage, events, outbound HTTP, logging."""
