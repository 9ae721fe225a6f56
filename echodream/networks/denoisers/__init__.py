"""Denoisers of the diffusion models. A new one is an entry of ``registry.DENOISERS`` and a yaml in conf/denoiser/."""
