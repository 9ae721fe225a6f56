"""Rendered phantom frames agree with the columns of the table, the marks (ED, ES) and the label maps."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from echodream.phantom.anatomy import CLASSES
from echodream.phantom.motion import CardiacCycle
from echodream.phantom.render import render, render_labels
from echodream.phantom.scene import HALF_PROBE_WIDTH, Scene, key_frame_times, sample_scene
from echodream.phantom.shape import LA, LV, MYOCARDIUM, OTHER, RA, RV
from echodream.phantom.tissue import material_grid, tissue_labels
from tests.support.hearts import label_areas


def scene_of(class_id: int, patient: int = 1, number: int = 1, size: int = 112, seconds: float = 2.0) -> Scene:
    return sample_scene((5, class_id, patient, number), size, 32.0, (seconds, seconds))


def at_extremes(scene: Scene) -> np.ndarray:
    """Label maps at the first end-diastolic and the first end-systolic frame, (2, H, W)."""
    moments = key_frame_times(scene)
    frames = [round(moments[name][0] * scene.fps) for name in ("ED", "ES")]
    return render_labels(scene)[frames]


def touching(labels: np.ndarray, a: int, b: int) -> int:
    """Number of pairs of neighboring pixels in which one pixel has label ``a`` and the other pixel has label ``b``."""
    pairs = ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]))
    return sum(int(((p == a) & (q == b)).sum() + ((p == b) & (q == a)).sum()) for p, q in pairs)


def disk_volume(scene: Scene, mask: np.ndarray) -> float:
    """Volume of ``mask`` by Simpson's method of disks (single plane): sum of 2 mm thick disks along the long axis."""
    row, column = np.nonzero(mask)
    _, v = scene.to_heart(column.astype(float), row.astype(float))
    width = np.bincount(np.floor((v - v.min()) / 2.0).astype(int)) * scene.pixel_spacing**2 / 2.0
    return float((np.pi / 4 * width**2 * 2.0).sum())


@pytest.mark.parametrize("class_id", range(4))
def test_ejection_fraction_of_the_label_map_is_the_column(class_id: int) -> None:
    for patient in (1, 2, 3):
        scene = replace(scene_of(class_id, patient, size=192), start_phase=0.0, frame_count=20)
        end_diastole, end_systole = at_extremes(scene) == LV
        measured = 1 - disk_volume(scene, end_systole) / disk_volume(scene, end_diastole)
        assert measured == pytest.approx(scene.ef, abs=0.025)


@pytest.mark.parametrize("class_id", range(4))
def test_left_ventricular_area_is_the_column(class_id: int) -> None:
    scene = scene_of(class_id)
    area = label_areas(scene)[:, LV]
    assert area.max() == pytest.approx(scene.lv_area[0], rel=0.03)
    assert area.min() == pytest.approx(scene.lv_area[1], rel=0.03)


@pytest.mark.parametrize("class_id", range(4))
def test_heart_rate_of_the_area_curve_is_the_column(class_id: int) -> None:
    scene = scene_of(class_id, patient=2, size=48, seconds=6.0)
    area = label_areas(scene)[:, LV]
    area = area - area.mean()
    shared = np.correlate(area, area, "full")[len(area) - 1 :] / np.arange(len(area), 0, -1)
    lags = np.arange(round(32 * 60 / 130), round(32 * 60 / 45))
    lag = lags[np.argmax(shared[lags])]
    before, at, after = shared[lag - 1 : lag + 2]
    lag = lag + 0.5 * (before - after) / (before - 2 * at + after)
    assert 60 * 32 / lag == pytest.approx(scene.heart_rate, rel=0.05)


@pytest.mark.parametrize("class_id", range(4))
def test_marks_are_the_extremes_of_the_area(class_id: int) -> None:
    scene = scene_of(class_id, patient=3, seconds=3.0)
    area, moments = label_areas(scene)[:, LV], key_frame_times(scene)
    assert len(moments["ED"]) >= 2
    assert len(moments["ES"]) >= 2
    for name, sign in (("ED", 1), ("ES", -1)):
        for moment in moments[name]:
            frame = round(moment * scene.fps)
            near = slice(max(frame - 8, 0), frame + 9)
            assert sign * area[frame] >= (sign * area[near]).max() - 0.01 * area.max()
            contraction = -sign * scene.cycle.contraction[near]
            assert abs(int(np.argmax(contraction)) + near.start - frame) <= 1


def test_contraction_is_bounded_and_reaches_both_ends() -> None:
    scene = scene_of(1, seconds=8.0)
    dense = replace(scene, fps=400.0, frame_count=3000).cycle
    for curve in (dense.contraction, dense.filling, dense.opening):
        assert curve.min() >= -1e-6
        assert curve.max() == pytest.approx(1.0, abs=1e-3)


def test_valves_are_closed_while_the_ventricle_contracts() -> None:
    scene = scene_of(2, seconds=3.0)
    for moment in key_frame_times(scene)["ES"]:
        assert scene.cycle.opening[max(round(moment * scene.fps) - 6, 0) : round(moment * scene.fps)].max() < 0.05
    assert scene.cycle.opening.max() > 0.9


@pytest.mark.parametrize("class_id", range(4))
def test_only_an_atrial_septal_defect_joins_the_atria(class_id: int) -> None:
    for patient in range(1, 5):
        for labels in at_extremes(scene_of(class_id, patient)):
            joined = touching(labels, LA, RA)
            assert joined >= 4 if CLASSES[class_id] == "ASD" else joined == 0


@pytest.mark.parametrize("class_id", range(4))
def test_chambers_lie_as_in_an_apical_view(class_id: int) -> None:
    labels = at_extremes(scene_of(class_id))
    for frame in labels:
        centre = {k: np.argwhere(frame == k).mean(axis=0) for k in (LV, RV, LA, RA)}
        assert centre[LV][0] < centre[LA][0]
        assert centre[RV][0] < centre[RA][0]
        assert centre[RV][1] < centre[LV][1]
        assert centre[RA][1] < centre[LA][1]
        assert touching(frame, LV, RV) == 0
        assert touching(frame, LV, LA) > 0
        assert touching(frame, RV, RA) > 0
        assert (frame == MYOCARDIUM).sum() > 500


@pytest.mark.slow
def test_sizes_tell_the_classes() -> None:
    ratio = np.zeros((4, 6))
    atria = np.zeros((4, 6))
    for class_id in range(4):
        for patient in range(6):
            counts = np.bincount(at_extremes(scene_of(class_id, patient + 1))[0].ravel(), minlength=6)
            ratio[class_id, patient] = counts[RV] / counts[LV]
            atria[class_id, patient] = counts[RA] / counts[LA]
    normal = ratio[1:3]
    assert normal.max() < 0.75
    assert ratio[3].min() > normal.max()
    assert ratio[3].mean() > 1.0
    assert ratio[0].mean() > 1.25 * normal.mean()
    assert atria[[0, 3]].mean() > 1.25 * atria[1:3].mean()


def test_ventricles_empty_and_atria_fill_in_systole() -> None:
    for class_id in range(4):
        diastole, systole = (np.bincount(f.ravel(), minlength=6) for f in at_extremes(scene_of(class_id)))
        assert systole[LV] < 0.75 * diastole[LV]
        assert systole[RV] < 0.90 * diastole[RV]
        assert systole[LA] > 1.10 * diastole[LA]
        assert systole[RA] > 1.10 * diastole[RA]


def test_walls_thicken_in_systole() -> None:
    scene = scene_of(1)
    a, shape = scene.anatomy, scene.shape
    row = int(np.argmax(shape.lv_free_wall_radius))
    x = np.array([shape.lv_free_wall_radius[row], shape.lv_free_wall_radius[row] + a.free_wall_thickness])
    v = np.full(2, 0.25 * row - 35.0)
    ends = CardiacCycle(*(np.array(c, dtype=np.float32) for c in ([0.0, 1.0], [0.0, 0.9], [0.0, 0.0])))
    now, _ = scene.motion.spatial_coordinates(x, v, ends)
    diastole, systole = np.diff(now, axis=1)[:, 0]
    assert diastole == pytest.approx(a.free_wall_thickness)
    assert 1.25 < systole / diastole < 1.8


@pytest.mark.parametrize("class_id", range(4))
def test_inverse_undoes_forward(class_id: int) -> None:
    scene = scene_of(class_id)
    x, v = material_grid()
    rows, columns = np.nonzero(tissue_labels(scene) == MYOCARDIUM)
    x, v = x[columns[::23]], v[rows[::23]]
    back_x, back_v = scene.motion.material_coordinates(
        *scene.motion.spatial_coordinates(x, v, scene.cycle), scene.cycle
    )
    assert np.abs(back_v - v).max() < 0.05
    assert np.abs(back_x - x).max() < 0.3


def test_outside_of_the_sector_is_black_and_unlabelled() -> None:
    scene = scene_of(3)
    frames, labels = render(scene), render_labels(scene)
    angle, depth = scene.polar_coordinates
    aside = (np.abs(angle) - np.radians(scene.settings.half_angle)) * depth
    outside = (aside > HALF_PROBE_WIDTH + scene.pixel_spacing) | (depth > scene.depth + scene.pixel_spacing)
    assert outside.mean() > 0.2
    assert frames[:, outside].max() == 0
    assert (labels[:, outside] == OTHER).all()
    assert frames[:, scene.sector == 1].mean() > 20


@pytest.mark.parametrize("class_id", range(4))
def test_chambers_are_dark_and_walls_bright(class_id: int) -> None:
    scene = scene_of(class_id, patient=4)
    frames, labels = render(scene).astype(float), render_labels(scene)
    lit = scene.sector == 1
    level = {k: frames[(labels == k) & lit].mean() for k in (LV, RV, LA, RA, MYOCARDIUM)}
    assert level[MYOCARDIUM] > 2 * max(level[k] for k in (LV, RV, LA, RA))


@pytest.mark.slow
def test_cohorts_differ_in_gain() -> None:
    level = [np.mean([render(scene_of(c, p, size=64, seconds=0.1)).mean() for p in range(1, 6)]) for c in range(4)]
    assert min(level[2:]) > 1.15 * max(level[:2])


def test_speckle_moves_with_the_tissue() -> None:
    scene = replace(scene_of(1, patient=2, seconds=1.0), start_phase=0.0)
    frames = render(scene).astype(float)
    x, v = np.meshgrid(np.linspace(-6, 6, 13), np.linspace(-9, 9, 19))
    a, shape = scene.anatomy, scene.shape
    middle = float(np.interp(0.75 * a.lv_length, np.arange(len(shape.septum_middle)) * 0.25 - 35, shape.septum_middle))
    x, v = x.ravel() * 0.5 + middle, v.ravel() + 0.75 * a.lv_length
    column, row = scene.to_pixel(*scene.motion.spatial_coordinates(x, v, scene.cycle))

    def likeness(columns: np.ndarray, rows: np.ndarray) -> float:
        """Mean correlation of a tissue patch in the first frame with the patch in frames 6 to 10 (systole)."""
        patches = [map_coordinates(f, [r, c], order=1) for f, r, c in zip(frames, rows, columns, strict=True)]
        return float(np.mean([np.corrcoef(patches[0], patch)[0, 1] for patch in patches[6:11]]))

    tracked = likeness(column, row)
    fixed = likeness(np.repeat(column[:1], len(column), 0), np.repeat(row[:1], len(row), 0))
    assert np.hypot(column[8] - column[0], row[8] - row[0]).mean() > 3
    assert tracked > 0.5
    assert tracked > fixed + 0.3
