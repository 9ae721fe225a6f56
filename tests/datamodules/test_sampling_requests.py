"""Batches of sampling requests: which rows form a batch, and which values the batch contains."""

import torch
from torch import Tensor

from echodream.datamodules.sampling_requests import SamplingRequests

NAMES = [f"n{row}" for row in range(7)]
VALUES = {"class_id": torch.arange(7) * 10, "text": torch.arange(14).view(7, 2)}


def test_rows_come_in_order_each_with_its_values() -> None:
    draws = SamplingRequests(NAMES, VALUES, 3)
    found = [draws[number] for number in range(len(draws))]
    assert [draw.rows for draw in found] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [draw.names for draw in found] == [("n0", "n1", "n2"), ("n3", "n4", "n5"), ("n6",)]
    assert torch.equal(torch.cat([draw.values["class_id"] for draw in found]), VALUES["class_id"])
    assert torch.equal(torch.cat([draw.values["text"] for draw in found]), VALUES["text"])


def test_batches_that_are_done_are_left_out_and_the_others_stay_as_they_are() -> None:
    draws = SamplingRequests(NAMES, VALUES, 3, {"n0", "n1", "n2", "n4", "n6"})
    assert [draws[number].rows for number in range(len(draws))] == [[3, 4, 5]]
    assert len(SamplingRequests(NAMES, VALUES, 3, NAMES)) == 0


def test_references_are_those_of_the_rows() -> None:
    def references(row: int) -> tuple[Tensor, Tensor]:
        return torch.full((4, 2, 5, 7), float(row)), torch.tensor([row, row + 0.5])

    draw = SamplingRequests(NAMES, VALUES, 3, (), references)[1]
    assert draw.values["reference"].shape == (3, 4, 2, 5, 7)
    assert draw.values["reference"][:, 0, 0, 0, 0].tolist() == [3.0, 4.0, 5.0]
    assert draw.values["reference_time"].tolist() == [[3.0, 3.5], [4.0, 4.5], [5.0, 5.5]]


def test_a_draw_moves_with_all_its_values() -> None:
    moved = SamplingRequests(NAMES, VALUES, 3)[0].to(torch.device("meta"))
    assert {value.device.type for value in moved.values.values()} == {"meta"}
    assert (moved.names, moved.rows) == (("n0", "n1", "n2"), [0, 1, 2])
