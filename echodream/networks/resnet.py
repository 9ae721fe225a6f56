"""Construction of MONAI's residual networks for identity networks and classifiers."""

from collections.abc import Mapping
from typing import Any


def build_resnet(settings: Mapping[str, Any], **options: Any) -> Any:
    """Build MONAI's ResNet with the architecture ``settings`` of config.json; ``options`` are keywords of MONAI."""
    from monai.networks.nets.resnet import ResNet

    return ResNet(
        settings["block"],
        list(settings["layers"]),
        list(settings["widths"]),
        n_input_channels=settings["channels"],
        conv1_t_size=settings["stem"],
        conv1_t_stride=settings["stride"],
        no_max_pool=not settings["max_pool"],
        bias_downsample=False,
        **options,
    )
