"""echodream: private echocardiograms in, shareable synthetic ones out."""

import os

__version__ = "0.1.0"

# An idle thread of libgomp spins for its next task. Where other programs want the cores, that makes a training step ten
# times slower; giving up early costs nothing measurable where they do not. Read once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
