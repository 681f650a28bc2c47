"""Requests made from the OpenAPI document, against the whole service: `make fuzz`."""
