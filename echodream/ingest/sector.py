"""Detects the ultrasound sector: moving pixels show tissue; static pixels around them show text, rulers and logos."""

from collections.abc import Sequence

import numpy as np

from echodream.errors import Rejected

Box = tuple[int, int, int, int]
"""Box in pixels: first column, first row, last column, last row."""

_MAX_STATIC_CHANGE = 3
"""Largest change of a static pixel over a recording, in gray levels above the noise."""
_MAX_NOISE = 8
"""Largest noise level in gray levels; the noise level is the 10th percentile of the change of pixels."""
_MIN_OVERLAY_LEVEL = 32
"""Smallest gray level of an overlay."""
_MIN_SECTOR_AREA = 0.02
"""Smallest accepted area of a sector, as a fraction of the image."""
_MIN_SECOND_SECTOR_AREA = 0.5
"""Smallest area of a second sector, as a fraction of the area of the first sector."""
_MIN_BOX_OVERLAP = 0.1
"""Smallest overlap of two boxes of one image, as a fraction of the area of the smaller box."""


def sector_mask(frames: np.ndarray, boxes: Sequence[Box] = ()) -> np.ndarray:
    """Compute the mask of the sector, bool (H, W), from frames (F, H, W) or (F, H, W, C).

    The mask is the convex hull of the largest connected area that changes over time. Structures thinner than about 3 %
    of the image (an ECG line, JPEG blocks around a ruler) do not connect areas. ``boxes``, the 2-D regions of the DICOM
    header, limit the mask. Static bright pixels of the hull are excluded as overlays, except on moving tissue. Raises
    ``Rejected`` if no moving area, or more than one, is large enough.
    """
    from scipy import ndimage

    gray = frames if frames.ndim == 3 else frames.max(axis=-1)
    change = gray.max(axis=0).astype(np.int16) - gray.min(axis=0)
    allowed = _region_mask(change.shape, boxes)
    noise = min(float(np.percentile(change, 10)), _MAX_NOISE)
    radius = max(2, round(min(change.shape) / 60))
    # without padding, closing and opening would remove areas at the edge of the image
    moving = np.pad((change > _MAX_STATIC_CHANGE + noise) & allowed, radius, mode="edge")
    moving = ndimage.binary_fill_holes(ndimage.binary_closing(moving, _disk_mask(radius // 2)))
    moving = ndimage.binary_opening(moving, _disk_mask(radius))[radius:-radius, radius:-radius]
    labels, count = ndimage.label(moving)
    if not count:
        raise Rejected("no sector found: nothing moves")
    sizes = np.bincount(labels.ravel())[1:]
    if count > 1 and np.sort(sizes)[-2] >= max(_MIN_SECOND_SECTOR_AREA * sizes.max(), _MIN_SECTOR_AREA * labels.size):
        remedy = "set data.source.keep=all for files without text in their pixels"
        raise Rejected(f"two separate areas of similar size move, and the header has no regions: {remedy}")
    area = ndimage.binary_fill_holes(labels == 1 + int(sizes.argmax()))
    if area.mean() < _MIN_SECTOR_AREA:
        raise Rejected(f"no sector found: {area.mean():.1%} of the image moves, {_MIN_SECTOR_AREA:.0%} are needed")
    overlay = (change <= _MAX_STATIC_CHANGE + noise) & (gray.max(axis=0) >= _MIN_OVERLAY_LEVEL) & ~area
    overlay = ndimage.binary_dilation(overlay, _disk_mask(radius // 2)) & ~area
    return np.asarray(_convex_hull(area) & allowed & ~overlay)


def group_overlapping_boxes(boxes: Sequence[Box]) -> list[list[Box]]:
    """Group ``boxes`` by image: overlapping boxes, such as B-mode and its color Doppler box, show one image."""
    groups: list[list[Box]] = []
    for box in boxes:
        same = [group for group in groups if any(overlap_fraction(box, other) >= _MIN_BOX_OVERLAP for other in group)]
        joined = [other for group in same for other in group]
        groups = [*(group for group in groups if group not in same), [*joined, box]]
    return groups


def overlap_fraction(first: Box, second: Box) -> float:
    """Compute the area of the intersection of two boxes, as a fraction of the area of the smaller box."""
    sides = [min(first[axis + 2], second[axis + 2]) - max(first[axis], second[axis]) + 1 for axis in (0, 1)]
    smaller = min((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (first, second))
    return max(0, sides[0]) * max(0, sides[1]) / max(1, smaller)


def mask_outside(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Set the pixels of ``frames``, (F, H, W[, C]), outside ``mask``, (H, W), to 0."""
    return np.where(mask if frames.ndim == 3 else mask[..., None], frames, np.zeros((), frames.dtype))


def _region_mask(shape: tuple[int, ...], boxes: Sequence[Box]) -> np.ndarray:
    """Compute the mask of the union of ``boxes``, or of the whole image if no box is given or a box exceeds it.

    A box may end one pixel outside the image, because some files count pixels from 1.
    """
    height, width = shape
    allowed = np.zeros(shape, dtype=bool)
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            return np.ones_like(allowed)
        allowed[top : bottom + 1, left : right + 1] = True
    return allowed if boxes else ~allowed


def _disk_mask(radius: int) -> np.ndarray:
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(rows**2 + columns**2 <= radius**2 + radius)


def _convex_hull(area: np.ndarray) -> np.ndarray:
    """Compute the convex hull of a mask, bool (H, W)."""
    from scipy.spatial import ConvexHull

    rows = np.flatnonzero(area.any(axis=1))
    first = area.argmax(axis=1)[rows]
    last = area.shape[1] - 1 - area[:, ::-1].argmax(axis=1)[rows]
    points = np.concatenate([np.stack([rows, first], axis=1), np.stack([rows, last], axis=1)]).astype(np.float64)
    grid_rows, grid_columns = np.ogrid[: area.shape[0], : area.shape[1]]
    hull = np.ones(area.shape, dtype=bool)
    for down, across, offset in ConvexHull(points).equations:
        hull &= down * grid_rows + across * grid_columns + offset <= 1e-6
    return hull
