"""Profiles of places where product pictures are published: data with sources, and checks of a picture against them.

A package of its own because both sides need it: the worker reports on what it made, and ``outfill profiles`` on any file, where there is no
worker installed. The core knows no pixels and the service no numpy, so pixels are read here with Pillow alone; nothing here does I/O but reading
the data files, which are part of the package.
"""
