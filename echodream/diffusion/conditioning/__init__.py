"""Conditions of a denoiser, each with its own null embedding and dropout."""
