"""Conditions of the published models, compared with direct calls of the UNets of diffusers."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel
from torch import nn

from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.conditioning.published_checkpoints import PublishedReference, PublishedToken
from echodream.errors import UserError
from echodream.networks.denoisers.unet import ImageUNet, VideoUNet
from tests.support.conditions import REST, C, F, batch, conditioner, keep, tokens


def test_the_published_class_is_the_number_itself() -> None:
    made = conditioner(class_id=PublishedToken("class_id"))
    assert made.width == 1
    assert not list(made.parameters())
    assert tokens(made, {"class_id": [0, 3, None, 1]}).tolist() == [[[0]], [[3]], [[0]], [[1]]]
    assert tokens(made, {"class_id": [3, 1]}, "nothing").tolist() == [[[0]], [[0]]]
    with pytest.raises(UserError, match=r"class_id=2 was not in the training data of the model: give 0, 1, 3"):
        made.encode_request({"class_id": [2]})
    percent = conditioner(EF=PublishedToken("EF", scale=100.0))
    assert torch.equal(tokens(percent, {"EF": [55.5]}), torch.tensor([[[55.5 / 100]]]))
    with pytest.raises(UserError, match=r"EF=0.55 was not in the training data of the model: give 20 to 80"):
        percent.encode_request({"EF": [0.55]})
    unknown = PublishedToken("class_id")
    imported = Conditioner({"class_id": unknown}, 1)
    imported.build(C)
    assert tokens(imported, {"class_id": [7]}).tolist() == [[[7]]]


def test_published_images_are_a_direct_call_of_the_unet() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=C,
        out_channels=C,
        down_block_types=("AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"),
        block_out_channels=(8, 8, 8, 16),
        layers_per_block=1,
        cross_attention_dim=1,
        norm_num_groups=4,
    ).eval()
    made = conditioner(class_id=PublishedToken("class_id"))
    x, t, ids = torch.randn(2, C, 14, 14), torch.tensor([17, 803]), torch.tensor([3, 1])
    condition = made(made.encode_batch(batch(class_id=ids)), keep(made, 2, "class_id"), x.shape[2:])
    assert condition.channels is None
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    with torch.no_grad():
        truth = unet(padded, t, encoder_hidden_states=ids.float()[:, None, None]).sample[:, :, 1:-1, 1:-1]
        assert torch.equal(ImageUNet(unet)(x, t, condition), truth)


def test_published_videos_are_a_direct_call_of_the_unet() -> None:
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        in_channels=2 * C,
        out_channels=C,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",),
        up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3,
        block_out_channels=(32, 32, 32, 64),
        layers_per_block=1,
        cross_attention_dim=1,
        num_attention_heads=(2, 2, 2, 4),
        addition_time_embed_dim=1,
        projection_class_embeddings_input_dim=1,
    ).eval()
    made = conditioner(class_id=PublishedToken("class_id"), reference=PublishedReference())
    assert (made.names, made.extra_channels) == (("reference", "class_id"), C)
    x, t, ids = torch.randn(2, C, F, 14, 14), torch.tensor([17, 803]), torch.tensor([3, 1])
    data = batch(class_id=ids)
    data["reference"], data["reference_time"] = torch.randn(2, C, 1, 14, 14), torch.tensor([[5.0], [1.0]])
    repeated = data["reference"].repeat(1, 1, F, 1, 1)
    for names, token, frame in (
        (("class_id", "reference"), ids.float(), repeated),
        (("reference",), torch.zeros(2), repeated),
        (("class_id",), ids.float(), torch.zeros_like(repeated)),
    ):
        condition = made(made.encode_batch(data), keep(made, 2, *names), x.shape[2:])
        both = nn.functional.pad(torch.cat([x, frame], dim=1), (1, 1, 1, 1, 0, 0), mode="replicate")
        with torch.no_grad():
            truth = unet(both.permute(0, 2, 1, 3, 4), t, token[:, None, None], torch.zeros(2, 1)).sample
            found = VideoUNet(unet)(x, t, condition)
        expected = truth.permute(0, 2, 1, 3, 4)[..., 1:-1, 1:-1]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, msg=str(names))
    with pytest.raises(UserError, match=r"takes one reference frame, not 2: set view.references=1"):
        made(made.encode_batch(batch(class_id=ids)), keep(made, 2), REST)
