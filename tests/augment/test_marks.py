import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from everlearn.augment.draws import draws
from everlearn.augment.marks import FACE, marked, transform
from everlearn.augment.training import augmenter
from everlearn.errors import BadInput
from everlearn.learn.network.recipe import Augmentation

GEOMETRY = Augmentation(rotation=25, shift=0.05, scale=0.15, flip=True)  # so little that no dot's mirror image comes in
KEYS = st.integers(0, 2**63 - 1)
HEIGHT, WIDTH = 56, 72


def dot(x, y):
    """(3, H, W) uint8: a soft dot on black, whose centre of mass is (x, y)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    grey = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.5**2))
    return torch.from_numpy(np.repeat(grey[None], 3, 0).round().astype(np.uint8))


def centre(image):
    grey = image.double().sum(0)
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return [float((grey * axis).sum() / grey.sum()) for axis in (columns, rows)]


@settings(deadline=None, max_examples=60)
@given(KEYS, st.floats(26, 46), st.floats(20, 36))
def test_a_point_moves_with_its_pixel(key, x, y):
    found = marked(augmenter(GEOMETRY), dot(x, y), key, points=np.array([(x, y)]))
    assert found.points[0] == pytest.approx(centre(found.image), abs=0.15)


@settings(deadline=None, max_examples=30)
@given(KEYS)
def test_a_point_moves_with_its_pixel_in_a_policy(key):
    policy = augmenter(Augmentation(policy="randaugment", rotation=10))
    steps = policy.plan(draws(np.array([key])), HEIGHT, WIDTH).steps[0]
    image = dot(36, 28)
    found = marked(policy, image, key, points=np.array([(36.0, 28.0)]))
    brightest = (found.image.sum(0) == found.image.sum(0).max()).nonzero().double().mean(0).flip(0)
    if not any(name in ("Solarize", "Posterize", "Equalize", "Sharpness") for name, _ in steps):
        assert found.points[0] == pytest.approx(brightest.tolist(), abs=1.5)


@settings(deadline=None, max_examples=60)
@given(KEYS, st.integers(2, 50), st.integers(2, 40), st.integers(2, 20), st.integers(2, 16))
def test_a_box_still_holds_what_it_held_and_no_more_than_it_must(key, left, top, width, height):
    one = augmenter(GEOMETRY)
    right, bottom = min(left + width, WIDTH - 2), min(top + height, HEIGHT - 2)
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    image[:, top:bottom, left:right] = 255
    found = marked(one, image, key, boxes=np.array([(left, top, right, bottom)]))
    matrix = one.plan(draws(np.array([key])), HEIGHT, WIDTH).matrices[0]
    edges = np.array([(x, y, 1) for x in (left - 0.5, right - 0.5) for y in (top - 0.5, bottom - 0.5)]) @ matrix[:2].T
    expected = np.concatenate([edges.min(0), edges.max(0)]) + 0.5
    cut = expected.reshape(2, 2).clip(0, (WIDTH, HEIGHT))
    if (cut[1] <= cut[0]).any():
        assert len(found.boxes) == len(found.kept) == 0
        return
    assert found.boxes[0] == pytest.approx(cut.reshape(4), abs=1e-6)
    rows, columns = (found.image[0] > 127).numpy().nonzero()
    middle = 20 < left < right < WIDTH - 20 and 14 < top < bottom < HEIGHT - 14  # no mirrored part of it at the border
    if middle and len(rows):
        low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
        assert (np.array(low) >= found.boxes[0, :2] - 1).all() and (np.array(high) <= found.boxes[0, 2:] + 1).all()


def test_boxes_are_cut_at_the_border_and_lost_ones_dropped():
    one = augmenter(Augmentation(shift=0.6))
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    boxes = np.array([(0, 0, 6, 6), (30, 20, 40, 30), (WIDTH - 6, HEIGHT - 6, WIDTH, HEIGHT)], np.float32)
    lost = cut = 0
    for key in range(200):
        found = marked(one, image, key, boxes=boxes)
        assert (found.boxes >= 0).all() and (found.boxes <= (WIDTH, HEIGHT) * 2).all()
        size = found.boxes[:, 2:] - found.boxes[:, :2]
        assert (size > 0).all()
        assert len(found.kept) == len(found.boxes)
        lost += 3 - len(found.kept)
        cut += int((size < (boxes[:, 2:] - boxes[:, :2])[found.kept] - 1e-6).any(1).sum())
    assert lost and cut


def test_a_mirrored_face_keeps_its_left_eye():
    one = augmenter(Augmentation(flip=True))
    eyes = np.array([(20.0, 20), (50, 21), (36, 30), (25, 40), (47, 41)])
    seen = set()
    for key in range(20):
        found = marked(one, dot(20, 20), key, points=eyes, pairs=FACE)
        seen.add(bool(one.plan(draws(np.array([key])), HEIGHT, WIDTH).mirrored[0]))
        assert found.points[0, 0] < found.points[1, 0] and found.points[3, 0] < found.points[4, 0]
        assert found.points[2, 1] == 30
    assert seen == {True, False}


def test_as_a_transform_of_torchvision():
    """All that belongs to a sample changes as `marked` says, in every form of box, and an image alone as `one` does."""
    one = augmenter(Augmentation(rotation=25, shift=0.1, scale=0.2, flip=True, brightness=0.3, noise=0.05))
    as_transform = transform(one, FACE)
    image = tv_tensors.Image(dot(30, 20))
    edges = torch.tensor([[10.0, 12, 30, 40], [0, 0, 2, 2], [60, 40, 72, 56]])
    size = (HEIGHT, WIDTH)
    boxes = tv_tensors.BoundingBoxes(edges, format="XYXY", canvas_size=size)
    centred = v2.functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.CXCYWH)
    points = np.array([(20.0, 20), (50, 21), (36, 30), (25, 40), (47, 41)])
    mask = tv_tensors.Mask(torch.from_numpy(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) // 512).bool())
    sample = {"image": image, "boxes": boxes, "centred": centred, "mask": mask, "labels": torch.arange(3), "name": "a"}
    for seed in range(8):
        torch.manual_seed(seed)
        key = int(torch.randint(2**63 - 1, ()))
        torch.manual_seed(seed)
        found = as_transform(sample)
        expected = marked(one, dot(30, 20), key, boxes=edges.numpy(), points=points, pairs=FACE)
        assert isinstance(found["image"], tv_tensors.Image) and isinstance(found["mask"], tv_tensors.Mask)
        assert torch.equal(found["image"], expected.image)
        assert found["boxes"][expected.kept].numpy() == pytest.approx(expected.boxes, abs=1e-3)
        assert found["centred"].format == tv_tensors.BoundingBoxFormat.CXCYWH
        assert found["mask"].shape == mask.shape and found["mask"].dtype == torch.bool
        assert (found["labels"].tolist(), found["name"]) == ([0, 1, 2], "a")
        kept = v2.SanitizeBoundingBoxes(labels_getter=lambda s: s["labels"])(found)
        sides = expected.boxes[:, 2:] - expected.boxes[:, :2]
        assert kept["labels"].tolist() == expected.kept[(sides >= 1).all(1) & (sides.prod(1) >= 1)].tolist()
        torch.manual_seed(seed)
        alone, label = as_transform(dot(30, 20), torch.tensor(3))
        assert torch.equal(alone, expected.image) and label == 3


@pytest.mark.skipif(not hasattr(tv_tensors, "KeyPoints"), reason="this torchvision has no KeyPoints")
def test_key_points_of_torchvision_move_too():
    one = augmenter(GEOMETRY)
    points = np.array([(20.0, 20), (50, 21), (36, 30), (25, 40), (47, 41)])
    theirs = tv_tensors.KeyPoints(points, canvas_size=(HEIGHT, WIDTH))
    torch.manual_seed(1)
    key = int(torch.randint(2**63 - 1, ()))
    torch.manual_seed(1)
    image, found = transform(one, FACE)(tv_tensors.Image(dot(30, 20)), theirs)
    assert isinstance(found, tv_tensors.KeyPoints)
    expected = marked(one, dot(30, 20), key, points=points, pairs=FACE)
    assert found.numpy() == pytest.approx(expected.points)
    assert torch.equal(image, expected.image)


def test_a_mask_moves_with_its_pixels():
    one = augmenter(GEOMETRY)
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    image[:, 20:40, 30:50] = 255
    for kind in (torch.bool, torch.uint8, torch.int64):
        mask = tv_tensors.Mask((image[:1] > 0).to(kind) * torch.ones(1, dtype=kind))
        moved, masked = transform(one)(tv_tensors.Image(image), mask)
        assert masked.dtype == kind and set(masked.unique().tolist()) <= {0, 1}
        assert ((moved[0] > 127) != masked[0].bool()).float().mean() < 0.02


@pytest.mark.parametrize("marks", [{"boxes": np.zeros((2, 3))}, {"points": np.zeros(4)}])
def test_marks_of_another_form_are_refused(marks):
    with pytest.raises(BadInput):
        marked(augmenter(GEOMETRY), dot(3, 3), 1, **marks)


def test_what_cannot_be_altered_is_refused():
    from PIL import Image

    with pytest.raises(BadInput, match="Image"):
        transform(augmenter(GEOMETRY))(Image.new("RGB", (8, 8)))
