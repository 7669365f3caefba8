import numpy as np
import pytest

from everlearn.model.cosines import Cosines, cosine_table, hadamard
from everlearn.model.graph import Graph, session


def run(cosines: Cosines, features: np.ndarray, *, project: bool = False) -> np.ndarray:
    graph = Graph()
    x = graph.input("x", np.float32, ["N", cosines.inputs])
    found = cosines.project(graph, x) if project else cosines.build(graph, x)
    graph.output("found", found, np.float32 if project else np.int8, ["N", "D"])
    return session(graph.model()).run(None, {"x": features.astype(np.float32)})[0]


def vectors(count: int, inputs: int, length: float, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(count, inputs)) + 0.5
    return np.rint(found / np.linalg.norm(found, axis=1, keepdims=True) * length)


@pytest.mark.parametrize("inputs", [10, 2048, 5000])
def test_inner_products_approximate_the_gaussian_kernel(inputs):
    cosines = Cosines(inputs, 8192.0, 2048, width=0.8)
    x = vectors(20, inputs, 8192.0)
    phi = run(cosines, x)[:, :-1].astype(float) / 127
    distances = np.linalg.norm(x[:, None] - x[None], axis=2) / 8192
    np.testing.assert_allclose(2 * phi @ phi.T / phi.shape[1], np.exp(-(distances**2) / (2 * 0.8**2)), atol=0.12)


def test_the_last_feature_is_constant_and_all_fit_the_memory():
    phi = run(Cosines(300, 8192.0, 500, width=0.5), vectors(50, 300, 8192.0))
    assert phi.dtype == np.int8
    assert phi.shape == (50, 500)
    assert (phi[:, -1] == 127).all()
    assert phi.min() >= -127


def test_projection_keeps_lengths():
    x = vectors(10, 5000, 8192.0)
    np.testing.assert_allclose(
        np.linalg.norm(run(Cosines(5000, 8192.0, 4096, 1.0), x, project=True), axis=1), 8192, rtol=0.08
    )


def test_projection_is_exact_in_integers():
    """float32 in the graph against int64 here: bit for bit."""
    cosines = Cosines(100, 8192.0, 64, width=1.0, seed=3)
    x = vectors(5, 100, 8192.0)
    folded = np.zeros((5, 128), np.int64)
    folded[:, :100] = x
    y = (folded * cosines.signs("fold", 128).astype(np.int64)).reshape(5, 2, 64).sum(1)
    matrix = hadamard(8).astype(np.int64)
    for number in range(3):
        y = (y * cosines.signs(f"round {number}", 64).astype(np.int64)).reshape(5, 8, 8)
        y = ((y @ matrix).transpose(0, 2, 1) @ matrix).reshape(5, 64)
        y = np.rint(y / 8).astype(np.int64)
    np.testing.assert_array_equal(run(cosines, x, project=True), y)


def test_no_cosine_lies_where_rounding_could_differ_between_machines():
    exact = 127 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-6
    assert len(cosine_table()) == 1024


def test_hadamard_rows_are_orthogonal():
    np.testing.assert_array_equal(hadamard(64) @ hadamard(64).T, 64 * np.eye(64))


def test_another_seed_is_another_map():
    first, second = Cosines(64, 8192.0, 64, 1.0), Cosines(64, 8192.0, 64, 1.0, seed=1)
    assert first.digest() != second.digest()
    assert (run(first, vectors(3, 64, 8192.0)) != run(second, vectors(3, 64, 8192.0))).any()
