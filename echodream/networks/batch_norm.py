"""Batch normalisation with the statistics of the whole batch, also where several processes share it."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """The sum over all processes, of values and of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation over all processes, each of which has as many samples.

    As torch's SyncBatchNorm, which does not work on CPUs; trainer.sync_batchnorm=true replaces this by that.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same; with one process, and in ``eval`` mode, as any batch normalisation."""
        world = _world()
        if not self.training or world == 1:
            found: Tensor = super().forward(x)
            return found
        over, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        count = x.numel() // x.shape[1] * world
        mean: Tensor = _Sum.apply(x.sum(dim=over)) / count
        apart = x - mean.view(shape)
        variance: Tensor = _Sum.apply(apart.square().sum(dim=over)) / count
        self._follow(mean.detach(), variance.detach() * count / max(1, count - 1))
        scale = (variance + self.eps).rsqrt() * self.weight
        return apart * scale.view(shape) + self.bias.view(shape)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (B, C, ...), got {tuple(input.shape)}")

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Let the running statistics follow."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        part = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, part)
        self.running_var.lerp_(variance, part)


def share(network: nn.Module) -> nn.Module:
    """``network`` with each batch normalisation replaced by a shared one, whose weights have the same names."""
    for name, part in network.named_children():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            made: Any = SharedBatchNorm(part.num_features, part.eps, part.momentum)
            for key in ("weight", "bias"):
                setattr(made, key, getattr(part, key))
            made.load_state_dict(part.state_dict())
            setattr(network, name, made.train(part.training))
        else:
            share(part)
    return network


def _world() -> int:
    """The number of processes."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1
