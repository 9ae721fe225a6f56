"""Nearest-neighbor search compared with brute force; ties, order, groups, memory and invalid embeddings."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from echodream.errors import UserError
from echodream.privacy import nearest_neighbors
from echodream.privacy.nearest_neighbors import NearestPatients, nearest_patients
from echodream.privacy.similarity import SIMILARITIES, Similarity, normalize, paired_similarity
from tests.support.tensor_sizes import LargestTensor

SAMPLES, REFERENCES, PATIENTS, WIDTH = 23, 211, 37, 7


def normal(rows: int, seed: int, width: int = WIDTH) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) + 0.3


def patients(count: int = REFERENCES) -> list[str]:
    return [f"p{(number * 7) % PATIENTS}" for number in range(count)]


def streamed(rows: Tensor, names: list[str], size: int) -> Iterator[tuple[Tensor, list[str]]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size], names[start : start + size]


def table(x: np.ndarray, y: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Similarities by numpy in double precision: (n, m)."""
    if similarity == "pearson":
        return np.corrcoef(x, y)[: len(x), len(x) :]
    if similarity == "euclidean":
        return -np.linalg.norm(x[:, None] - y[None], axis=2)
    return (x @ y.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize(("stream", "block"), [(1, 50), (64, 16), (1000, 1000)])
def test_the_search_is_the_table(similarity: Similarity, stream: int, block: int) -> None:
    x, y, names = normal(SAMPLES, 0), normal(REFERENCES, 1), patients()
    found = nearest_patients(x, streamed(y, names, stream), similarity, find_second=True, block=block)
    truth = table(x.double().numpy(), y.double().numpy(), similarity)
    known = np.array(sorted(set(names)))
    by_patient = np.stack([truth[:, np.array(names) == name].max(axis=1) for name in known], axis=1)
    order = np.argsort(-by_patient, axis=1)
    assert found.score == pytest.approx(by_patient.max(axis=1), abs=5e-7)
    assert found.patient.tolist() == known[order[:, 0]].tolist()
    assert found.second_patient is not None
    assert found.second_patient.tolist() == known[order[:, 1]].tolist()
    assert found.second_score == pytest.approx(np.sort(by_patient, axis=1)[:, -2], abs=5e-7)
    assert found.reference.tolist() == truth.argmax(axis=1).tolist()
    assert (found.references, found.patients) == (REFERENCES, len(known))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_frames_of_a_sample_count_together(similarity: Similarity) -> None:
    x, y, names = normal(SAMPLES, 0), normal(REFERENCES, 1), patients()
    groups = np.array([number % 5 for number in range(SAMPLES)])
    found = nearest_patients(x, streamed(y, names, 32), similarity, groups=groups, find_second=True)
    truth = table(x.double().numpy(), y.double().numpy(), similarity)
    known = np.array(sorted(set(names)))
    for sample in range(5):
        rows = truth[groups == sample]
        best = np.array([rows[:, np.array(names) == name].max() for name in known])
        first, other = np.argsort(-best)[:2]
        assert found.second_patient is not None
        assert found.second_score is not None
        assert (found.patient[sample], found.second_patient[sample]) == (known[first], known[other])
        assert (found.score[sample], found.second_score[sample]) == pytest.approx((best[first], best[other]), abs=5e-7)


def test_the_second_nearest_is_another_patient() -> None:
    x = torch.tensor([[1.0, 0.0]])
    y = torch.tensor([[1.0, 0.01], [1.0, 0.02], [1.0, 0.5]])
    found = nearest_patients(x, [(y, ["a", "a", "b"])], find_second=True)
    assert (found.patient[0], found.second_patient[0]) == ("a", "b")  # type: ignore[index]


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_order_and_blocks_change_nothing_even_where_float32_cannot_tell(similarity: Similarity) -> None:
    """Some references differ by less than a float32 product resolves; other references tie exactly between patients."""
    x = normal(SAMPLES, 0, width=64)
    near = x[torch.arange(REFERENCES) % SAMPLES] + 3e-7 * normal(REFERENCES, 2, width=64)
    y, names = torch.cat([near, x, x]), [*patients(), *["z"] * SAMPLES, *["m"] * SAMPLES]
    results: list[NearestPatients] = []
    for seed, (stream, block) in enumerate([(300, 300), (7, 19), (64, 128), (1, 5)]):
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
        shuffled = [names[place] for place in order]
        results.append(
            nearest_patients(x, streamed(y[order], shuffled, stream), similarity, find_second=True, block=block)
        )
    for other in results[1:]:
        assert np.array_equal(other.score, results[0].score)
        assert np.array_equal(other.second_score, results[0].second_score)  # type: ignore[arg-type]
        assert other.patient.tolist() == results[0].patient.tolist()


def test_names_are_compared_in_ties_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patient names only break ties, so the cost of a block does not grow with the number of earlier patients."""
    compared: list[int] = []
    rank = nearest_neighbors._name_ranks

    def counted(patients: np.ndarray, names: list[str]) -> np.ndarray:
        compared.append(patients.size)
        return rank(patients, names)

    monkeypatch.setattr(nearest_neighbors, "_name_ranks", counted)
    x, y, names = normal(SAMPLES, 0), normal(REFERENCES, 1), [f"p{number}" for number in range(REFERENCES)]
    nearest_patients(x, streamed(y, names, 8), find_second=True, block=8)
    assert compared == []
    y[-1] = y[0]
    nearest_patients(x[:1], streamed(y, names, 8), find_second=True, block=8)
    nearest = nearest_patients(y[:1], streamed(y, names, 8), find_second=True, block=8)
    assert 0 < sum(compared) <= 8
    assert (nearest.patient[0], nearest.second_patient[0]) == ("p0", names[-1])  # type: ignore[index]


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_rows_are_normalized_the_same_in_any_chunk(similarity: Similarity, monkeypatch: pytest.MonkeyPatch) -> None:
    x = 3 * normal(SAMPLES, 0) + 1
    whole = normalize(x, similarity)
    monkeypatch.setattr("echodream.privacy.similarity.CHUNK_ROWS", 4)
    assert torch.equal(normalize(x, similarity), whole)
    assert whole.dtype == torch.float32
    if similarity != "euclidean":
        x[-1] = 0
        with pytest.raises(UserError, match="constant"):
            normalize(x, similarity)


def test_of_tied_patients_the_first_by_name_is_named() -> None:
    x = normal(3, 0)
    for names in (["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]):
        found = nearest_patients(
            x[:1], [(torch.cat([x[:1], x[1:2]]), [name, "x"]) for name in names], find_second=True, block=2
        )
        assert found.patient.tolist() == ["a"]
        assert found.second_patient is not None
        assert found.second_patient.tolist() == ["b"]


def test_a_copy_of_another_frame_passes_where_only_first_frames_are_references() -> None:
    """Ten patients with six different frames each; each sample is a noisy copy of a patient's fourth frame."""
    frames = normal(60, 3, width=32).reshape(10, 6, 32)
    names = [f"p{number}" for number in range(10)]
    copies = frames[:, 3] + 0.05 * normal(10, 4, width=32)
    every = nearest_patients(copies, [(video, [name] * 6) for video, name in zip(frames, names, strict=True)])
    first = nearest_patients(copies, [(frames[:, 0], names)])
    assert every.patient.tolist() == names
    assert every.score.min() > 0.95
    assert first.score.max() < 0.8


@pytest.mark.parametrize("second", [False, True])
def test_memory_does_not_grow_with_samples_times_references(second: bool) -> None:
    largest = {}
    for references in (512, 4096):
        stream = ((normal(64, seed, width=16), [f"p{seed}"] * 64) for seed in range(references // 64))
        with LargestTensor() as mode:
            found = nearest_patients(normal(600, 99, width=16), stream, find_second=second, block=128)
        assert found.references == references
        largest[references] = mode.elements
    assert largest[512] == largest[4096]
    assert largest[4096] <= max(128 * 128, 600 * 16)  # one block of similarities, or the embeddings of the samples


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_nan_and_infinity_are_refused(similarity: Similarity) -> None:
    for bad in (float("nan"), float("inf")):
        broken = normal(5, 0)
        broken[2, 3] = bad
        with pytest.raises(UserError, match="samples hold NaN or infinite"):
            nearest_patients(broken, [(normal(5, 1), list("abcde"))], similarity)
        with pytest.raises(UserError, match="references hold NaN or infinite"):
            nearest_patients(normal(5, 1), [(broken, list("abcde"))], similarity)


def test_constant_embeddings_are_refused() -> None:
    x = normal(5, 0)
    flat = torch.full((5, WIDTH), 0.7)
    with pytest.raises(UserError, match=r"samples are constant.*pearson"):
        nearest_patients(flat, [(x, list("abcde"))], "pearson")
    with pytest.raises(UserError, match=r"references are constant.*cosine"):
        nearest_patients(x, [(torch.zeros(5, WIDTH), list("abcde"))], "cosine")
    for similarity in ("cosine", "euclidean"):
        with pytest.raises(UserError, match="All references have the same embedding"):
            nearest_patients(x, streamed(x[:1].repeat(5, 1), list("abcde"), 2), similarity, block=2)


def test_what_does_not_fit_is_refused_in_one_sentence() -> None:
    x = normal(5, 0)
    with pytest.raises(UserError, match="no reference"):
        nearest_patients(x, [])
    with pytest.raises(UserError, match="one patient only"):
        nearest_patients(x, [(x, ["a"] * 5)], find_second=True)
    with pytest.raises(UserError, match="8 features and samples 7"):
        nearest_patients(x, [(normal(5, 0, width=8), list("abcde"))])
    with pytest.raises(UserError, match="5 references and 4 patients"):
        nearest_patients(x, [(x, list("abcd"))])
    with pytest.raises(UserError, match="samples have shape"):
        nearest_patients(x[:0], [(x, list("abcde"))])
    with pytest.raises(UserError, match="groups"):
        nearest_patients(x, [(x, list("abcde"))], groups=[0, 1, 3, 3, 1])
    with pytest.raises(UserError, match="similarity='dot'"):
        nearest_patients(x, [(x, list("abcde"))], "dot")  # type: ignore[arg-type]


def test_every_side_is_normalised_alike_whatever_its_scale() -> None:
    x, y = normal(4, 0), normal(4, 1)
    for similarity, moved in (("cosine", 5 * x), ("pearson", 5 * x - 3)):
        pair = [
            paired_similarity(normalize(each, similarity), normalize(y, similarity), similarity)  # type: ignore[arg-type]
            for each in (x, moved)
        ]
        assert pair[0].tolist() == pytest.approx(pair[1].tolist(), abs=1e-6)


def test_precision_set_by_others_is_overruled_and_restored() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = nearest_patients(normal(SAMPLES, 0), [(normal(REFERENCES, 1), patients())])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.array_equal(
        found.score, nearest_patients(normal(SAMPLES, 0), [(normal(REFERENCES, 1), patients())]).score
    )
