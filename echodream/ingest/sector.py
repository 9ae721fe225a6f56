"""The ultrasound sector: what moves is tissue, what stands still outside it is text, rulers and logos."""

from collections.abc import Sequence

import numpy as np

from echodream.errors import Rejected

Box = tuple[int, int, int, int]
"""First column, first row, last column, last row."""

_STILL = 3
"""Grey levels that a pixel may change by over a recording and still count as standing still."""
_MOST_NOISE = 8
_BRIGHT = 32
"""Grey levels from which something that stands still may be an overlay."""
_SMALLEST = 0.02
"""The least share of the image that a sector takes."""


def sector_mask(frames: np.ndarray, boxes: Sequence[Box] = ()) -> np.ndarray:
    """Where the sector is, as bool (H, W), for frames (F, H, W) or (F, H, W, C).

    The largest connected area that changes over time, without bridges thinner than about 3 % of the image (an ECG
    line, a block of JPEG around a ruler's tick), and its convex hull; ``boxes`` (the 2-D regions that a header
    declares) bound it where there are any. Still, bright pixels between the area and its hull are overlays, and left
    out. What is drawn on the moving tissue itself stays. Raises ``Rejected`` when nothing of a sector's size moves.
    """
    from scipy import ndimage

    grey = frames if frames.ndim == 3 else frames.max(axis=-1)
    change = grey.max(axis=0).astype(np.int16) - grey.min(axis=0)
    allowed = _allowed(change.shape, boxes)
    noise = min(float(np.percentile(change, 10)), _MOST_NOISE)
    radius = max(2, round(min(change.shape) / 60))
    moving = _padded((change > _STILL + noise) & allowed, radius)
    moving = ndimage.binary_fill_holes(ndimage.binary_closing(moving, _disc(radius // 2)))
    moving = ndimage.binary_opening(moving, _disc(radius))[radius:-radius, radius:-radius]
    labels, count = ndimage.label(moving)
    if not count:
        raise Rejected("no sector found: nothing moves")
    sizes = np.bincount(labels.ravel())[1:]
    area = ndimage.binary_fill_holes(labels == 1 + int(sizes.argmax()))
    if area.mean() < _SMALLEST:
        raise Rejected(f"no sector found: what moves takes {area.mean():.1%} of the image, {_SMALLEST:.0%} are needed")
    overlay = (change <= _STILL + noise) & (grey.max(axis=0) >= _BRIGHT) & ~area
    overlay = ndimage.binary_dilation(overlay, _disc(radius // 2)) & ~area
    return np.asarray(_hull(area) & allowed & ~overlay)


def mask_outside(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``frames`` (F, H, W[, C]) with every pixel outside ``mask`` (H, W) set to 0."""
    return np.where(mask if frames.ndim == 3 else mask[..., None], frames, np.zeros((), frames.dtype))


def _allowed(shape: tuple[int, ...], boxes: Sequence[Box]) -> np.ndarray:
    """The union of the boxes that fit into the image. Others were meant for a picture of another size.

    A box may end at the border itself: some files count its last pixel from 1.
    """
    height, width = shape
    allowed = np.zeros(shape, dtype=bool)
    fitting = [box for box in boxes if 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height]
    if len(fitting) < len(boxes) or not boxes:
        return ~allowed
    for left, top, right, bottom in fitting:
        allowed[top : bottom + 1, left : right + 1] = True
    return allowed


def _padded(mask: np.ndarray, width: int) -> np.ndarray:
    """With its edges repeated outwards, so that closing and opening leave an area at the image's edge whole."""
    return np.pad(mask, width, mode="edge")


def _disc(radius: int) -> np.ndarray:
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(rows**2 + columns**2 <= radius**2 + radius)


def _hull(area: np.ndarray) -> np.ndarray:
    """The convex hull of a mask, as a mask."""
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
