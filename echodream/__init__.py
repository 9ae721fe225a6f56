"""echodream: private echocardiograms in, shareable synthetic ones out."""

__version__ = "0.1.0"
