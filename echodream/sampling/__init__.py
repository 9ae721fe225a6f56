"""Sampling from a trained diffusion model, and the Store that samples are written to."""
