"""Image files in bytes: the format, bounds on structure, so that no library is given a file that costs more than its picture, and a sandbox to decode in."""
