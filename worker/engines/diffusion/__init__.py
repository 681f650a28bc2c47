"""Stable Diffusion inpainting with continuous batching. ``card`` needs no torch; ``engine`` does."""
