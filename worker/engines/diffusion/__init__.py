"""Stable Diffusion inpainting with continuous batching. ``card`` needs no torch; ``engine`` does."""

from worker.engines.probes import load_xformers_libraries

load_xformers_libraries()  # before diffusers, which imports xformers where that is installed
