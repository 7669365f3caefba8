import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.augment.landmarks import TEMPLATE, Bend, Finder, align, similarity
from everlearn.augment.transforms import Brightness, Flip, Rotate, apply
from everlearn.errors import BadInput, Missing
from everlearn.image import decode

SHARES = st.floats(0.0, 0.12)


def dots(points, height, width):
    """(H, W, 3) uint8: a soft dot at each point."""
    rows, columns = np.mgrid[:height, :width]
    grey = sum(255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.0**2)) for x, y in points)
    return np.repeat(np.clip(grey, 0, 255)[..., None], 3, 2).round().astype(np.uint8)


def near(image, point, reach=8):
    """Where the light around a point has its centre of mass."""
    x, y = np.rint(point).astype(int)
    part = image[y - reach : y + reach + 1, x - reach : x + reach + 1].sum(2).astype(float)
    rows, columns = np.mgrid[y - reach : y + reach + 1, x - reach : x + reach + 1]
    return (part * columns).sum() / part.sum(), (part * rows).sum() / part.sum()


@given(st.floats(-3, 3), st.floats(0.2, 5), st.floats(-50, 50), st.floats(-50, 50))
def test_a_similarity_is_found_again(angle, size, x, y):
    turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = similarity(TEMPLATE, TEMPLATE @ turn.T + (x, y))
    assert matrix == pytest.approx(np.column_stack([turn, (x, y)]), abs=1e-6 * (1 + size))


@given(st.integers(0, 2**32))
def test_a_similarity_is_the_nearest_there_is(seed):
    rng = np.random.default_rng(seed)
    source, target = TEMPLATE, TEMPLATE + rng.normal(0, 8, (5, 2))
    matrix = similarity(source, target)
    assert np.linalg.det(matrix[:, :2]) > 0
    a, b = matrix[0, 0], matrix[1, 0]
    assert matrix[:, :2] == pytest.approx(np.array([[a, -b], [b, a]]))  # no shear
    # the same by a plain least-squares solver: [x -y 1 0; y x 0 1] (a, b, tx, ty) = target
    rows = [row for x, y in source for row in ((x, -y, 1, 0), (y, x, 0, 1))]
    solved = np.linalg.lstsq(np.array(rows), target.reshape(-1), rcond=None)[0]
    assert (a, b, *matrix[:, 2]) == pytest.approx(solved, abs=1e-6)


def test_mirrored_landmarks_are_never_matched_by_mirroring():
    assert np.linalg.det(similarity(TEMPLATE, TEMPLATE * (-1, 1))[:, :2]) > 0


@pytest.mark.parametrize("side", [112, 224])
def test_a_turned_small_face_is_aligned(side):
    turn = 1.4 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    landmarks = (TEMPLATE - 56) @ turn.T + (120, 110)
    face, moved = align(dots(landmarks, 220, 240), landmarks, side)
    assert face.shape == (side, side, 3)
    assert moved == pytest.approx((TEMPLATE + 0.5) * side / 112 - 0.5, abs=1e-6)
    for point in moved:
        assert near(face, point) == pytest.approx(point, abs=0.4)


@settings(deadline=None, max_examples=25)
@given(SHARES, st.integers(0, 2**32))
def test_bent_landmarks_lie_where_their_pixels_do(share, seed):
    image = dots(TEMPLATE, 112, 112)
    others = np.array([(56.0, 40), (30, 70), (56, 105)])
    bent, moved = Bend(share)(image, np.concatenate([TEMPLATE, others]), np.random.default_rng(seed))
    assert bent.shape == image.shape and bent.dtype == np.uint8
    assert np.abs(moved[:5] - TEMPLATE).max() <= share * np.hypot(*(TEMPLATE[1] - TEMPLATE[0])) + 1e-9
    for point in moved[:5]:
        assert near(bent, point) == pytest.approx(point, abs=0.7)
    marked, _ = Bend(share)(dots(others, 112, 112), TEMPLATE, np.random.default_rng(seed))
    for point in moved[5:7]:
        assert near(marked, point) == pytest.approx(point, abs=0.7)
    again, _ = Bend(share)(image, TEMPLATE, np.random.default_rng(seed))
    assert np.array_equal(again, bent)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32))
def test_a_face_is_bent_without_a_fold_and_its_frame_stays(seed):
    across = np.arange(112, dtype=np.uint8) * 2
    rising = np.stack(
        [np.tile(across, (112, 1)), np.tile(across[:, None], (1, 112)), np.zeros((112, 112), np.uint8)], 2
    )
    bent, _ = Bend(0.12)(rising, TEMPLATE, np.random.default_rng(seed))
    inner = bent[6:-6, 6:-6].astype(int)  # what is bent outward at the very border comes back mirrored
    assert (np.diff(inner[..., 0], axis=1) >= 0).all()  # left stays left of right
    assert (np.diff(inner[..., 1], axis=0) >= 0).all()
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert np.abs(bent[corner].astype(int) - rising[corner]).max() <= 2


def test_a_bend_is_a_transform_among_others():
    chain = (Rotate(10), Bend(0.1), Brightness(0.2))
    image, points = apply(chain, dots(TEMPLATE, 112, 112), TEMPLATE, np.random.default_rng(1))
    assert points.shape == (5, 2)
    assert not np.array_equal(image, apply(chain[::2], dots(TEMPLATE, 112, 112), TEMPLATE, np.random.default_rng(1))[0])


@pytest.mark.parametrize("landmarks", [None, TEMPLATE[:4], np.full((5, 2), np.nan), np.full((5, 2), 3.0)], ids=str)
def test_what_are_no_landmarks_of_a_face_is_refused(landmarks):
    with pytest.raises(BadInput):
        Bend(0.1 if landmarks is None else 0.0)(np.zeros((112, 112, 3), np.uint8), landmarks, np.random.default_rng(0))


def test_a_point_is_no_face():
    with pytest.raises(BadInput, match="one point"):
        align(np.zeros((112, 112, 3), np.uint8), np.full((5, 2), 3.0))


def test_weights_that_are_not_there_or_none(tmp_path):
    with pytest.raises(Missing, match=r"none\.onnx"):
        Finder(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(BadInput, match=r"broken\.onnx"):
        Finder(tmp_path / "broken.onnx")


@pytest.mark.parametrize("weights", ["yunet_n_640_640.onnx", "yunet_n_dynamic.onnx"])
def test_real_faces_are_found_aligned_and_bent(shared, weights):
    path, people = shared / "weights" / weights, shared / "data" / "lfw_10x10" / "images"
    if not path.is_file() or not people.is_dir():
        pytest.skip(f"no YuNet weights ({path}) or no faces ({people})")
    find = Finder(path)
    pictures = [decode(sorted(one.glob("*.jpg"))[0].read_bytes()).pixels for one in sorted(people.iterdir())]
    assert find(np.zeros((120, 160, 3), np.uint8)) is None
    large = cv2.resize(pictures[0], None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    assert np.abs((find(large) + 0.5) / 4 - 0.5 - find(pictures[0])).mean() < 2
    for number, picture in enumerate(pictures):
        landmarks = find(picture)
        assert landmarks is not None and landmarks[0, 0] < landmarks[1, 0]
        face, moved = align(picture, landmarks)
        assert np.abs(moved - TEMPLATE).mean() < 6
        assert np.abs(find(face) - TEMPLATE).mean() < 8  # found again where networks for faces expect them
        bent, bent_to = Bend(0.1)(face, moved, np.random.default_rng(number))
        assert np.abs(find(bent) - bent_to).mean() < 6
        mirrored, swapped = Flip(1)(face, moved, np.random.default_rng(0))
        assert np.abs(find(mirrored) - swapped[[1, 0, 2, 4, 3]]).mean() < 6
