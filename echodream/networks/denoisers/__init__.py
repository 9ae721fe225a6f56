"""Denoisers of the diffusion models. To add one: an entry of ``registry.DENOISERS`` and a yaml in conf/denoiser/."""
