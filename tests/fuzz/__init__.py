"""Requests made from the OpenAPI document, against the whole service: `make fuzz`; and files made part by part: `make fuzz-files`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))  # what the tests share, where this does not run under pytest
