"""echodream: synthetic medical images and videos that can be shared, generated from private studies."""

import os

__version__ = "0.1.0"

# Idle threads of libgomp spin while they wait for work. If other programs use the cores, this makes a training step ten
# times slower. A small spin count has no measurable cost otherwise. libgomp reads it once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
