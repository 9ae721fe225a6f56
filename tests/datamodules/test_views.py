from pathlib import Path

import numpy as np
import pytest
import torch

from echodream.datamodules.recordings import Recordings
from echodream.datamodules.views import Clips, Frames, Pairs, Sample, View
from echodream.errors import UserError
from tests.support.stores import HEIGHT, STATISTICS, WIDTH, Row, make_latent_store, make_video_store, row, study


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return Recordings(make_video_store(tmp_path_factory.mktemp("store") / "videos"), "TRAIN")


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return Recordings(make_latent_store(tmp_path_factory.mktemp("store") / "latents"), "TRAIN")


def recordings(tmp_path: Path, rows: list[Row]) -> Recordings:
    return Recordings(make_video_store(tmp_path / "videos", rows), "TRAIN")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def shown(x: torch.Tensor) -> tuple[list[int], set[int]]:
    """The frame numbers that the sample x, (1, F, H, W), contains, and the recordings of these frames."""
    pixels = ((x + 1) * 127.5).round().int()
    return pixels[0, :, 0, 0].tolist(), set(pixels[0, :, 0, 1].tolist())


def several(view: View, rows: Recordings, epochs: int = 1) -> list[Sample]:
    return [view.sample(rows, i, rng(1000 * e + i)) for e in range(epochs) for i in range(view.number_of_samples(rows))]


class TestReading:
    def test_pixels_are_from_minus_one_to_one(self, videos: Recordings) -> None:
        x = videos.read(1, [3, 2], rng())
        assert x.shape == (1, 2, HEIGHT, WIDTH)
        assert x.dtype == torch.float32
        pixels = videos.store.frames("a2", [3, 2])
        np.testing.assert_allclose(x[0].numpy(), pixels[..., 0] / 127.5 - 1, atol=1e-6)

    def test_colour_comes_first(self, tmp_path: Path) -> None:
        store = make_video_store(tmp_path / "rgb", [row("a", "A", 4)], channels=3)
        x = Recordings(store, "TRAIN").read(0, [2], rng())
        np.testing.assert_allclose(x[:, 0].numpy(), store.frames("a", [2])[0].transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)

    @pytest.mark.parametrize("indices", [[0], [4, 5, 6], [9, 1], [0, 12], [3, 3, 0]])
    def test_near_and_far_frames_come_in_the_order_asked(
        self, videos: Recordings, latents: Recordings, indices: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for seek in (1, 100):
            monkeypatch.setattr("echodream.datamodules.recordings.SEEK_FRAMES", seek)
            assert shown(videos.read(2, indices, rng())) == (indices, {2})
            x = latents.read(2, indices, rng(), "mean")
            assert torch.equal(x[0, :, 0, 0] * 2 + 1, torch.tensor(indices).float())

    def test_the_mean_of_the_posterior_is_whitened(self, latents: Recordings) -> None:
        x = latents.read(2, range(4), rng(), "mean")
        assert x.shape == (4, 4, HEIGHT, WIDTH)
        mean = latents.store.latents("b1", 0, 4)[0].float().transpose(0, 1)
        for c in range(4):
            torch.testing.assert_close(x[c], (mean[c] - STATISTICS.mean[c]) / STATISTICS.std[c])

    def test_a_draw_has_the_spread_of_the_posterior(self, latents: Recordings) -> None:
        mean = latents.read(0, range(11), rng(), "mean")
        draws = torch.stack([latents.read(0, range(11), rng(seed)) - mean for seed in range(40)])
        for c in range(4):
            assert abs(draws[:, c].std().item() * STATISTICS.std[c] / 0.25 - 1) < 0.03
        assert draws.mean().abs() < 0.01
        assert not torch.equal(draws[0], draws[1])

    def test_latents_without_statistics_are_refused(self, tmp_path: Path) -> None:
        store = make_latent_store(tmp_path / "latents", statistics=None)
        with pytest.raises(UserError, match="no statistics"):
            Recordings(store, "TRAIN")


class TestFrames:
    def test_every_frame_once(self, videos: Recordings) -> None:
        samples = several(Frames(), videos)
        found = [(s.row, *shown(s.x)[0]) for s in samples]
        assert found == [(r, f) for r, length in enumerate([11, 12, 13, 9]) for f in range(length)]

    def test_random_ones_of_each(self, videos: Recordings) -> None:
        samples = several(Frames(per_recording=2), videos, epochs=25)
        assert [s.row for s in samples[:8]] == [0, 0, 1, 1, 2, 2, 3, 3]
        assert {shown(s.x)[0][0] for s in samples if s.row == 3} == set(range(9))


class TestClips:
    @pytest.mark.parametrize(
        ("frames", "stride", "real"),
        [
            (13, 1, 13),
            (14, 1, 13),
            (12, 1, 12),
            (7, 2, 7),
            (8, 2, 7),
            (5, 3, 5),
            (6, 3, 5),
            (20, 1, 13),
            (2, 13, 1),
            (2, 12, 2),
        ],
    )
    def test_the_mask_is_exact(self, videos: Recordings, frames: int, stride: int, real: int) -> None:
        """For a recording of 13 frames: a clip is padded only if its last frame would lie beyond the last frame."""
        sample = Clips(frames=frames, stride=stride).sample(videos, 2, rng())
        assert sample.mask is not None
        assert sample.mask.tolist() == [True] * real + [False] * (frames - real)
        seen = shown(sample.x)[0]
        start = seen[0]
        assert seen == [start + stride * min(i, real - 1) for i in range(frames)]
        assert start + stride * (real - 1) < 13
        if real < frames:
            assert start == 0
            assert stride * real >= 13

    def test_random_starts_reach_both_ends_and_no_further(self, videos: Recordings) -> None:
        samples = [Clips(frames=4, stride=3).sample(videos, 2, rng(seed)) for seed in range(60)]
        assert {shown(s.x)[0][0] for s in samples} == {0, 1, 2, 3}
        assert all(s.mask is not None and s.mask.all() for s in samples)

    @pytest.mark.parametrize(("start", "begin"), [("first", 0), ("centre", 4)])
    def test_fixed_starts(self, videos: Recordings, start: str, begin: int) -> None:
        sample = Clips(frames=5, start=start).sample(videos, 2, rng())
        assert shown(sample.x) == ([begin + i for i in range(5)], {2})

    def test_several_of_each_recording(self, videos: Recordings) -> None:
        view = Clips(frames=3, per_recording=2)
        assert [s.row for s in several(view, videos)] == [0, 0, 1, 1, 2, 2, 3, 3]

    def test_validation_takes_the_centre(self) -> None:
        assert Clips(frames=3).for_evaluation().start == "centre"
        assert Clips(frames=3, start="first").for_evaluation().start == "first"

    def test_latents_of_a_padded_clip(self, latents: Recordings) -> None:
        sample = Clips(frames=15, posterior="mean").sample(latents, 2, rng())
        assert (sample.x[0, :, 0, 0] * 2 + 1).tolist() == [*range(13), 12, 12]
        assert sample.mask is not None
        assert sample.mask.sum() == 13


class TestReferences:
    def check(self, sample: Sample, stride: int = 1) -> list[int]:
        """Compare the reference times with the frame numbers of the references; return these frame numbers."""
        assert sample.reference is not None
        assert sample.reference_time is not None
        assert sample.reference_time.dtype == np.float32
        frames, start = shown(sample.reference)[0], shown(sample.x)[0][0]
        np.testing.assert_allclose(sample.reference_time, (np.array(frames) - start) / stride)
        return frames

    def test_none(self, videos: Recordings) -> None:
        sample = Clips(frames=3).sample(videos, 0, rng())
        assert sample.reference is None
        assert sample.reference_time is None

    def test_random_ones_are_any_of_the_recording_and_differ(self, videos: Recordings) -> None:
        view = Clips(frames=3, stride=2, reference="random", references=2)
        found = [self.check(view.sample(videos, 3, rng(seed)), 2) for seed in range(60)]
        assert {frame for pair in found for frame in pair} == set(range(9))
        assert all(first != second for first, second in found)

    def test_more_random_ones_than_frames(self, tmp_path: Path) -> None:
        rows = recordings(tmp_path, [row("a", "A", 2)])
        view = Clips(frames=3, reference="random", references=4)
        assert len(self.check(view.sample(rows, 0, rng()))) == 4

    def test_first_is_the_clips(self, videos: Recordings) -> None:
        sample = Clips(frames=3, start="centre", reference="first").sample(videos, 2, rng())
        assert self.check(sample) == [5]
        assert sample.reference_time is not None
        assert sample.reference_time.tolist() == [0]

    @pytest.mark.parametrize(
        ("count", "stride", "expected"), [(1, 1, [6]), (2, 1, [4, 8]), (3, 2, [2, 6, 10]), (5, 2, [2, 4, 6, 8, 10])]
    )
    def test_evenly_spaced_ones(self, videos: Recordings, count: int, stride: int, expected: list[int]) -> None:
        view = Clips(frames=5, stride=stride, start="centre", reference="even", references=count)
        assert self.check(view.sample(videos, 2, rng()), stride) == expected

    def test_evenly_spaced_ones_are_real_frames(self, videos: Recordings) -> None:
        view = Clips(frames=30, reference="even", references=2)
        assert self.check(view.sample(videos, 2, rng())) == [0, 12]

    def test_key_frames_are_three_in_a_row_nearest_the_clip(self, tmp_path: Path) -> None:
        rows = recordings(tmp_path, [row("a", "A", 40, ED="2 14 26 38", ES="7 19 31")])
        view = Clips(frames=5, reference="keyframes", references=3)
        assert view.select_recordings(rows) is rows
        for seed in range(40):
            sample = view.sample(rows, 0, rng(seed))
            middle = shown(sample.x)[0][2]
            expected = min([(2, 7, 14), (14, 19, 26), (26, 31, 38)], key=lambda triple: abs(triple[1] - middle))
            assert self.check(sample) == list(expected)

    def test_a_beat_with_a_missing_mark_is_no_triple(self, tmp_path: Path) -> None:
        rows = recordings(tmp_path, [row("a", "A", 40, ED="2 14 26", ES="1 19 37")])
        view = Clips(frames=3, start="first", reference="keyframes", references=3)
        assert self.check(view.sample(rows, 0, rng())) == [14, 19, 26]

    @pytest.mark.parametrize(("ed", "es"), [("2 14", ""), ("2", "7"), ("2 7", "7"), ("7 14", "7")])
    def test_a_recording_without_a_beat_is_left_out_and_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, ed: str, es: str
    ) -> None:
        marked = [row("a1", "A", 20, ED="2 14", ES="7"), row("b1", "B", 15, ED=ed, ES=es), row("c1", "C", 25)]
        rows = recordings(tmp_path, [*marked[:2], {**marked[2], "ED": "3 20", "ES": "9"}])
        view = Clips(frames=3, reference="keyframes", references=3)
        left = view.select_recordings(rows)
        assert "1 of 3 recordings have no ED-ES-ED key frames and are left out: b1" in caplog.text
        assert (left.names, left.frames.tolist(), left.patient_numbers.tolist()) == (["a1", "c1"], [20, 25], [0, 1])
        assert left.cumulative_frames.tolist() == [20, 45]
        assert len(rows) == 3
        assert self.check(view.sample(left, 1, rng())) == [3, 9, 20]
        with pytest.raises(UserError, match=r"no recording has ED-ES-ED key frames; b1 has .*: mark one beat"):
            view.select_recordings(rows.select([1]))

    @pytest.mark.parametrize(
        ("ed", "es", "message"),
        [
            ("2 20", "7", "a2 has ED '2 20', not frame numbers from 0 to 19"),
            ("2 99", "7", "a2 has ED '2 99', not frame numbers from 0 to 19"),
            ("2 9", "x", "a2 has ES 'x', not frame numbers"),
        ],
    )
    def test_a_mark_that_is_no_frame_is_named(self, tmp_path: Path, ed: str, es: str, message: str) -> None:
        marked = [row("a1", "A", 20, ED="2 14", ES="7"), row("a2", "A", 20, ED=ed, ES=es)]
        rows = recordings(tmp_path, marked)
        with pytest.raises(UserError, match=message):
            Clips(frames=3, reference="keyframes", references=3).select_recordings(rows)

    def test_a_study_without_key_frames_is_one_sentence(self, videos: Recordings) -> None:
        with pytest.raises(UserError, match="no column 'ED'"):
            Clips(frames=3, reference="keyframes", references=3).select_recordings(videos)


@pytest.mark.parametrize("view", [Frames(), Frames(per_recording=2), Clips(frames=2, per_recording=3)])
def test_the_numbers_of_the_samples_of_a_recording(videos: Recordings, view: View) -> None:
    for rows in (videos, videos.select([2, 0])):
        for recording in range(len(rows)):
            numbers = view.sample_range(rows, recording)
            assert {view.sample(rows, number, rng(0)).row for number in numbers} == {recording}
        ends = [view.sample_range(rows, recording).stop for recording in range(len(rows))]
        assert ends[-1] == view.number_of_samples(rows)


class TestPairs:
    def pairs(self, view: Pairs, rows: Recordings, epochs: int = 15) -> list[tuple[bool, int, int, int, int]]:
        """Sampled pairs as tuples: same patient, recording of each element, frame of each element."""
        found = []
        for sample in several(view, rows, epochs):
            assert sample.other is not None
            (first,), (recording,) = shown(sample.x)
            (second,), (other,) = shown(sample.other)
            assert (sample.row, sample.other_row) == (recording, other)
            found.append((bool(sample.same), recording, first, other, second))
        return found

    def test_half_are_the_same_and_every_recording_begins_as_many(self, videos: Recordings) -> None:
        view = Pairs(per_recording=3)
        assert view.number_of_samples(videos) == 24
        found = self.pairs(view, videos, 1)
        for recording in range(4):
            assert sorted(same for same, first, *_ in found if first == recording) == [False] * 3 + [True] * 3

    @pytest.mark.slow
    def test_same_is_by_patient_and_from_other_recordings(self, videos: Recordings) -> None:
        for same, first, frame, second, other in self.pairs(Pairs(), videos):
            patients = "AABC"[first], "AABC"[second]
            assert same == (patients[0] == patients[1])
            if same:
                assert (first != second) == (patients[0] == "A")
                assert (first, frame) != (second, other)

    @pytest.mark.parametrize("identity", ["patient", "recording"])
    def test_a_pair_is_a_random_element_of_all_candidates(self, videos: Recordings, identity: str) -> None:
        """A pair is a uniform sample of all candidates, although the code does not list all candidates (for speed)."""
        view, numbers, shown_rows = Pairs(identity=identity), videos.patient_numbers, []
        for index in range(view.number_of_samples(videos)):
            for seed in range(10):
                sample, generator = view.sample(videos, index, rng(seed)), rng(seed)
                generator.integers(videos.frames[sample.row])
                others = np.flatnonzero(numbers != numbers[sample.row])
                if not sample.same:
                    assert sample.other_row == generator.choice(others)
                    shown_rows.append(sample.other_row)
        assert set(shown_rows) == set(range(len(videos)))

    def test_without_preference_either_recording_of_the_patient_serves(self, videos: Recordings) -> None:
        found = self.pairs(Pairs(prefer_other_recording=False), videos)
        ofa = [(first, second) for same, first, _, second, _ in found if same and first < 2]
        assert set(ofa) == {(0, 0), (0, 1), (1, 0), (1, 1)}
        assert all((first, f) != (second, s) for _, first, f, second, s in found)

    def test_same_by_recording(self, videos: Recordings) -> None:
        for same, first, frame, second, other in self.pairs(Pairs(identity="recording"), videos):
            assert same == (first == second)
            assert not same or frame != other
            assert same or {first, second} != {0, 1}  # another recording of the same patient is never a negative

    @pytest.mark.slow
    def test_all_frames_serve_as_the_second_of_one_recording(self, videos: Recordings) -> None:
        found = self.pairs(Pairs(identity="recording"), videos, 100)
        assert {other for same, first, _, _, other in found if same and first == 3} == set(range(9))

    def test_strangers_of_the_same_class(self, tmp_path: Path) -> None:
        rows = recordings(tmp_path, [row(f"r{i}", f"P{i}", 3 + i, class_id=i % 2) for i in range(6)])
        found = self.pairs(Pairs(negatives="same_class"), rows)
        assert {(a, b) for same, a, _, b, _ in found if not same} == {
            (a, b) for a in range(6) for b in range(6) if a != b and (a - b) % 2 == 0
        }

    def test_a_single_frame_begins_no_pair_but_ends_one(self, tmp_path: Path) -> None:
        rows = recordings(tmp_path, [row("a", "A", 1), row("b", "B", 5), row("c", "C", 1), row("d", "C", 1)])
        found = self.pairs(Pairs(), rows)
        assert {first for _, first, *_ in found} == {1, 2, 3}
        assert {second for same, _, _, second, _ in found if not same} == {0, 1, 2, 3}

    def test_no_two_patients(self, tmp_path: Path) -> None:
        rows = recordings(tmp_path, [row("a", "A", 5), row("b", "A", 6)])
        with pytest.raises(UserError, match="only one patient"):
            Pairs().select_recordings(rows)

    def test_no_two_frames(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no patient with two frames"):
            Pairs().select_recordings(recordings(tmp_path, [row("a", "A", 1), row("b", "B", 1)]))

    def test_no_two_patients_of_a_class(self, videos: Recordings) -> None:
        with pytest.raises(UserError, match="no two patients of class_id 1"):
            Pairs(negatives="same_class").select_recordings(videos)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Frames(per_recording=0), "view.per_recording is 0"),
        (lambda: Frames(posterior="mode"), "view.posterior is 'mode': choose one of sample, mean"),
        (lambda: Clips(frames=0), "view.frames is 0"),
        (lambda: Clips(frames=3, stride=-1), "view.stride is -1"),
        (lambda: Clips(frames=3, start="end"), "view.start is 'end': choose one of random, first, centre"),
        (lambda: Clips(frames=3, reference="last"), "view.reference is 'last'"),
        (lambda: Clips(frames=3, reference="keyframes"), "keyframes needs view.references=3, not 1"),
        (lambda: Clips(frames=3, reference="first", references=2), "first needs view.references=1, not 2"),
        (lambda: Pairs(identity="hospital"), "view.identity is 'hospital'"),
        (lambda: Pairs(negatives="hard"), "view.negatives is 'hard'"),
    ],
)
def test_settings_that_cannot_be_are_named(make: type, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_an_empty_split_is_one_sentence(tmp_path: Path) -> None:
    store = make_video_store(tmp_path / "videos", study()[:4])
    with pytest.raises(UserError, match=r"no recording in split VAL.*TRAIN 4"):
        Recordings(store, "VAL")


@pytest.mark.parametrize(
    ("length", "stride", "expected"),
    [
        (11, 1, [0, 5, 10]),
        (12, 1, [0, 5, 10]),
        (14, 1, [0, 6, 12]),  # one spare frame at the end
        (16, 1, [0, 7, 14]),
        (4, 1, [0, 1, 2]),
        (6, 2, [0, 2, 4]),
        (3, 2, [0, 2]),  # the recording is too short: the last frame is repeated
    ],
)
def test_a_clip_is_spread_over_the_recording(length: int, stride: int, expected: list[int]) -> None:
    view = Clips(frames=3, stride=stride, start="spread")
    found = list(view.frame_range(length, np.random.default_rng(0)))
    assert found == expected
    assert view.for_evaluation() == view
