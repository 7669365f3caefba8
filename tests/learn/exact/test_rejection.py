"""`unknown` as an answer of a head, and negatives in the memory."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from everlearn.errors import Corrupt, TooFew
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import fit
from everlearn.learn.exact.head import Head
from everlearn.naming import UNKNOWN, denial
from tests.learn.exact.make import taught

RATE = 0.05


@pytest.fixture(scope="module")
def digits():
    """Random cosine features of real digits: phi, labels, folds."""
    rng = np.random.default_rng(0)
    pixels, names = load_digits(return_X_y=True)
    phi = np.cos((pixels - 8) @ rng.normal(0, 0.03, (64, 256)) + rng.uniform(0, 2 * np.pi, 256))
    return np.rint(127 * phi).astype(np.int8), names.astype(str), rng.integers(0, 5, len(names))


def fitted(phi, labels, folds, rate=RATE):
    ids = [f"{n:05}" for n in range(len(phi))]
    return fit(taught(phi, list(labels), folds), Cached(ids, phi, list(labels), folds), false_accept=rate)


def answered(head, phi):
    return np.array(head.answers)[head.table(phi).argmax(axis=1)]


def test_strangers_are_unknown_and_most_of_the_known_are_not(digits):
    phi, names, folds = digits
    known, strange = names < "7", names >= "7"
    train, test = known & (np.arange(len(names)) < 1200), known & (np.arange(len(names)) >= 1200)
    found = fitted(phi[train], names[train], folds[train])
    assert found.head.answers == (*"0123456", UNKNOWN)
    cut = found.unknown.cut
    assert cut.kept
    assert cut.false_accept <= RATE
    assert (answered(found.head, phi[strange]) != UNKNOWN).mean() < 3 * RATE  # other digits than any in the promise
    said = answered(found.head, phi[test])
    assert (said == UNKNOWN).mean() < 0.25
    assert (said == names[test])[said != UNKNOWN].mean() > 0.95
    table = found.head.table(phi[test])
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-5)
    accepted = found.head.unknown.scores(phi[test]) > found.head.unknown.threshold
    assert np.array_equal(said != UNKNOWN, accepted)  # unknown is the best answer exactly below the threshold


def test_a_lower_rate_refuses_more(digits):
    phi, names, folds = digits
    shares, thresholds = [], []
    for rate in (0.2, 0.05, 0.01):
        found = fitted(phi[:900], names[:900], folds[:900], rate)
        thresholds.append(found.unknown.cut.threshold)
        shares.append((answered(found.head, phi[900:]) == UNKNOWN).mean())
    assert thresholds == sorted(thresholds)
    assert shares == sorted(shares)
    curve = found.unknown.to_json()["curve"]
    rates = [[point[name] for point in curve] for name in ("threshold", "false_accept", "false_reject")]
    assert rates[0] == sorted(rates[0])
    assert rates[1] == sorted(rates[1], reverse=True)
    assert rates[2] == sorted(rates[2])


def test_without_a_rate_nothing_changes(digits):
    phi, names, folds = digits
    closed, open_ = fitted(phi[:600], names[:600], folds[:600], None), fitted(phi[:600], names[:600], folds[:600])
    assert closed.unknown is None
    assert closed.head.answers == closed.head.classes
    assert np.array_equal(closed.head.weights, open_.head.weights)
    assert np.array_equal(closed.head.table(phi), closed.head.probabilities(phi))
    assert closed.digest != open_.digest  # the rate decides the model


def test_the_order_changes_nothing_with_negatives(digits):
    phi, names, folds = digits[0][:700], digits[1][:700].copy(), digits[2][:700]
    names[names == "8"], names[names == "9"] = denial("3"), UNKNOWN
    order, ids = np.random.default_rng(1).permutation(700), [f"{n:05}" for n in range(700)]
    one = fit(taught(phi, list(names), folds), Cached(ids, phi, list(names), folds), false_accept=RATE)
    mixed = Cached([ids[i] for i in order], phi[order], list(names[order]), folds[order])
    other = fit(taught(phi[order], list(names[order]), folds[order]), mixed, false_accept=RATE)
    assert one.digest == other.digest
    assert one.head.classes == tuple("01234567")
    assert one.unknown.negatives == int(np.isin(names, [denial("3"), UNKNOWN]).sum())
    assert np.array_equal(one.head.table(phi), other.head.table(phi))


def test_a_negative_lowers_its_class_and_is_itself_unknown(digits):
    phi, names, folds = digits[0][:500], list(digits[1][:500]), digits[2][:500]
    row = names.index("3")
    right, denied = names.copy(), names.copy()
    right[row], denied[row] = "3", denial("3")
    column = sorted(set(names)).index("3")
    for rate in (None, RATE):
        before, after = fitted(phi, right, folds, rate), fitted(phi, denied, folds, rate)
        assert after.head.scores(phi[[row]])[0, column] < before.head.scores(phi[[row]])[0, column]
        if rate is not None:
            assert answered(before.head, phi[[row]]) == "3"
            assert answered(after.head, phi[[row]]) == UNKNOWN


def test_a_forgotten_negative_leaves_the_model_that_never_had_it(digits):
    phi, names, folds = digits[0][:400], list(digits[1][:400]), digits[2][:400]
    labels = [denial("3") if n % 40 == 0 else name for n, name in enumerate(names)]
    memory = taught(phi, labels, folds)
    gone, kept = [n for n in range(400) if n % 40 == 0], [n for n in range(400) if n % 40]
    memory.subtract(phi[gone], [denial("3")] * len(gone), folds[gone])
    never = taught(phi[kept], [names[n] for n in kept], folds[kept])
    assert memory.digest() == never.digest()
    assert memory.columns == memory.classes == tuple("0123456789")


def test_one_person_is_told_from_strangers_alone(digits):
    phi, names, folds = digits
    labels = np.where(names == "0", "me", UNKNOWN)
    found = fitted(phi[:900], labels[:900], folds[:900])
    assert found.head.answers == ("me", UNKNOWN)
    assert (answered(found.head, phi[900:]) == labels[900:]).mean() > 0.97
    alone = fitted(phi[names == "0"], labels[names == "0"], folds[names == "0"])
    assert alone.head.unknown is None  # nobody to tell a stranger from
    with pytest.raises(TooFew, match="only negatives"):
        fitted(phi[:20], [UNKNOWN] * 20, folds[:20])


def test_a_head_with_unknown_is_kept_whole(digits, tmp_path):
    phi, names, folds = digits
    head = fitted(phi[:500], names[:500], folds[:500]).head
    head.save(tmp_path / "head.npz")
    again = Head.load(tmp_path / "head.npz")
    assert again.answers == head.answers
    np.testing.assert_allclose(again.table(phi), head.table(phi), atol=1e-5)
    with np.load(tmp_path / "head.npz") as file:
        arrays = dict(file)
    arrays["unknown_origin"] = arrays["unknown_origin"][:-1]
    np.savez(tmp_path / "broken.npz", **arrays)
    with pytest.raises(Corrupt):
        Head.load(tmp_path / "broken.npz")
