"""Synchronized batch normalization for CPUs and GPUs."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SynchronizedBatchNorm(_BatchNorm):
    """Batch normalization over the batches of all processes, on CPUs and GPUs. All processes need equal batch sizes."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``, (B, C, ...). With one process or in ``eval`` mode, this is ordinary batch normalization."""
        is_distributed = distributed.is_available() and distributed.is_initialized()
        processes = distributed.get_world_size() if is_distributed else 1
        if not self.training or processes == 1:
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce  # differentiable

        dims, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        count = x.numel() // x.shape[1] * processes
        mean: Tensor = all_reduce(x.sum(dim=dims)) / count
        centered = x - mean.view(shape)
        variance: Tensor = all_reduce(centered.square().sum(dim=dims)) / count
        with torch.no_grad():
            self.get_buffer("num_batches_tracked").add_(1)
            momentum = self.momentum if self.momentum is not None else 1 / float(self.get_buffer("num_batches_tracked"))
            self.get_buffer("running_mean").lerp_(mean, momentum)
            self.get_buffer("running_var").lerp_(variance * count / max(1, count - 1), momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        return centered * scale.view(shape) + self.bias.view(shape)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (B, C, ...), got {tuple(input.shape)}")


def convert_to_synchronized_batch_norm(network: nn.Module) -> nn.Module:
    """Replace each BatchNorm1d and BatchNorm2d of ``network`` by ``SynchronizedBatchNorm``, in place."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            layer: Any = SynchronizedBatchNorm(child.num_features, child.eps, child.momentum)
            for key in ("weight", "bias"):
                setattr(layer, key, getattr(child, key))
            layer.load_state_dict(child.state_dict())
            setattr(network, name, layer.train(child.training))
        else:
            convert_to_synchronized_batch_norm(child)
    return network
