"""Noise processes, samplers, conditions, guidance and sliding windows on tensors (B, C, *rest)."""
