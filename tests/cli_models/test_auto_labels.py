"""Automatic labels keep their promise on data that the model has not seen; the rest waits, most informative first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.stats import binom

from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import AUTO_LABEL, fit
from everlearn.learn.exact.memory import ExactMemory
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis
from tests.cli_models.conftest import Everlearn, digits, scans

TARGET, SPLITS = 0.95, 20


def test_precision_meets_its_target_in_repeated_splits_of_real_digits() -> None:
    """The promise is a lower bound at 95 %: of 20 splits one may fall short, and by chance a few."""
    images, truth = scans()
    rows = [np.ascontiguousarray(one.ravel(), np.float32) for one in images[:1400]]
    basis = Basis(load_backbone("features", base=Path()), dimensions=128)
    phi = basis.phi(rows)  # type: ignore[arg-type]
    kept, covered = [], []
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(phi))
        known, fresh = order[:700], order[700:]
        ids, labels, folds = [f"{n:04d}" for n in known], [str(truth[n]) for n in known], np.arange(700) % 5
        memory = ExactMemory(basis.digest, basis.dimensions, 5, None)
        memory.add(phi[known], labels, folds)
        found = fit(memory, Cached(ids, phi[known], labels, folds), precision=TARGET)
        threshold = found.thresholds[AUTO_LABEL]
        assert threshold is not None
        table = found.head.probabilities(phi[fresh])
        sure = table.max(axis=1) >= threshold.threshold
        said = np.array(found.head.classes)[table.argmax(axis=1)]
        kept.append(float((said == truth[fresh].astype(str))[sure].mean()))
        covered.append(float(sure.mean()))
    assert np.mean(kept) >= TARGET
    assert sum(one < TARGET for one in kept) <= binom.ppf(0.999, SPLITS, 0.05)
    assert np.mean(covered) > 0.3  # the promise is not kept by labelling nothing


def test_what_is_sure_is_labelled_and_the_rest_waits_in_order(taught: Everlearn, tmp_path: Path) -> None:
    folder = digits(tmp_path / "in", (1, 4, 7, 8, 9), 60, first=60, flat=True)
    taught("collect", folder, "--labels-from", "none")
    taught("validate")
    before = taught("data")["counts"]
    done = taught("label", "--auto")
    after = taught("data")["counts"]
    assert set(done) >= {"labelled", "queued"}
    assert done["labelled"] == after["labelled"] + after["learned"] - before["labelled"] - before["learned"]
    assert done["queued"] == after["queued"]
    items = taught("review", "--limit", 1000)["items"]
    urgencies = [one["urgency"] for one in items]
    assert urgencies == sorted(urgencies, reverse=True)
    unsure = [one for one in items if one["reason"] == "unsure"]
    assert len(unsure) + done["labelled"] == before["validated"]
    # what waits is what the model is least sure of
    queued = taught("predict", *[one["path"] for one in unsure])["predictions"]
    confidences = [one["confidence"] for one in queued]
    promise = taught("models", "show")["models"][0]["metrics"]["auto_label"]
    assert promise is None or max(confidences) < promise["threshold"]
    entropies = [-sum(p * np.log(max(p, 1e-12)) for p in one["scores"].values()) for one in queued]
    assert np.all(np.diff(entropies) <= 1e-3)
    assert taught("label", "--auto")["labelled"] == 0  # a second time changes nothing
