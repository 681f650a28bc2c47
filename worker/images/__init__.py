"""Pure functions on arrays (numpy, OpenCV, Pillow): no I/O, no torch.

Conventions: pixels are ``uint8 (H, W, 3)`` RGB; masks and alphas are ``uint8 (H, W)``, 255 = edit (opaque), 0 = keep.
"""
