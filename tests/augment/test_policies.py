import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from everlearn.augment.draws import Column, draws
from everlearn.augment.policies import GEOMETRY, OPERATIONS, POLICIES, SIGNED, matrix, recoloured
from everlearn.augment.training import augmenter
from everlearn.learn.network.recipe import Augmentation

THEIRS = {"randaugment": v2.RandAugment(), "trivialaugment": v2.TrivialAugmentWide()}


def picture():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 24, 24), dtype=np.uint8))


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_and_strengths_are_torchvisions(name, operation):
    theirs = THEIRS[name]._AUGMENTATION_SPACE
    assert set(theirs) == set(OPERATIONS)
    values, signed = theirs[operation]
    found = values(31, 40, 60)
    assert signed == (operation in SIGNED)
    for bin in range(31):
        expected = 0.0 if found is None else float(found[bin])
        assert POLICIES[name].magnitude(operation, bin, 40, 60) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one not in GEOMETRY])
@pytest.mark.parametrize("bin", [0, 9, 30])
def test_colours_are_changed_as_torchvision_does(operation, bin):
    policy = POLICIES["trivialaugment"]
    magnitude = policy.magnitude(operation, bin, 24, 24)
    expected = THEIRS["trivialaugment"]._apply_image_or_video_transform(
        picture(), operation, magnitude, v2.InterpolationMode.NEAREST, {}
    )
    assert torch.equal(recoloured(picture(), (operation, magnitude)), expected)
    assert np.array_equal(matrix((operation, magnitude), 24, 24), np.eye(3))


@pytest.mark.parametrize("step", [("ShearX", 0.4), ("ShearY", -0.4), ("TranslateX", 7.6), ("Rotate", 33.0)])
def test_geometry_moves_a_dot_where_torchvision_moves_it(step):
    name, value = step
    rows, columns = np.mgrid[:41, :41]
    dot = torch.from_numpy((255 * np.exp(-((columns - 17) ** 2 + (rows - 22) ** 2) / 4)).astype(np.uint8))[None]
    shear = {"ShearX": [math.degrees(math.atan(value)), 0.0], "ShearY": [0.0, math.degrees(math.atan(value))]}
    moved = F.affine(
        dot, angle=-value if name == "Rotate" else 0.0, translate=[int(value) if name == "TranslateX" else 0, 0],
        scale=1.0, shear=shear.get(name, [0.0, 0.0]), center=[0, 0] if name in shear else None,
        interpolation=v2.InterpolationMode.BILINEAR,
    )[0].double()  # fmt: skip
    centre = [float((moved * torch.from_numpy(axis)).sum() / moved.sum()) for axis in (columns, rows)]
    assert matrix(step, 41, 41)[:2] @ (17, 22, 1) == pytest.approx(centre, abs=0.6)  # theirs shears about an edge


@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_mirrors_and_every_operation_comes(name):
    drawn = draws(np.arange(2000))
    plan = augmenter(Augmentation(policy=name)).plan(drawn, 64, 64)
    assert (np.linalg.det(plan.matrices[:, :2, :2]) > 0).all()
    assert not plan.mirrored.any()
    chosen = [step for steps in plan.steps for step in steps]
    assert len(chosen) == 2000 * POLICIES[name].operations
    counts = {one: sum(step[0] == one for step in chosen) for one in OPERATIONS}
    assert min(counts.values()) > 0.7 * len(chosen) / len(OPERATIONS)
    turns = [value for one, value in chosen if one == "Rotate"]
    assert min(turns) < 0 < max(turns)
    assert Column.POLICY + 3 * POLICIES[name].operations <= drawn.shape[1]
