"""echodream: synthetic medical images and videos that can be shared, generated from private studies."""

import os

__version__ = "0.1.0"

# Idle threads of libgomp spin, which makes a training step ten times slower if other programs use the cores. A small
# spin count has no measurable cost. libgomp reads this variable when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
