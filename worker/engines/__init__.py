"""Engines turn a canvas and a mask into pixels. They know no Redis, no S3 and no HTTP."""
