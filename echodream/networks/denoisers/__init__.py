"""Denoiser networks of the diffusion models. ``registry.DENOISERS`` lists all denoisers."""
