"""A River estimator as the learner of a workspace: through the command line, to a deployed file, and to forgetting."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river import base, preprocessing
from river.linear_model import LinearRegression, SoftmaxRegression

from everlearn.config import Config
from everlearn.errors import BadConfig, Corrupt
from everlearn.learn import river, sealed
from everlearn.learn.exact.target import RegressionTarget
from everlearn.learn.streaming import StreamAnswers
from everlearn.stages import answering, learners, teach
from everlearn.types import SILENT
from everlearn.workspace import Workspace
from tests import wheel
from tests.child import KILLED, everlearn
from tests.wheel import good, make, run, turn, write

LINEAR = "river:preprocessing.StandardScaler|linear_model.SoftmaxRegression"
BAYES = "river:naive_bayes.GaussianNB"


@pytest.mark.parametrize(
    "name",
    [
        "linear_model.SoftmaxRegression?optimizer=(optim.Adam?lr=0.01)&l2=0.001",
        "preprocessing.StandardScaler|naive_bayes.GaussianNB",
        "multiclass.OneVsRestClassifier?classifier=(preprocessing.MinMaxScaler|linear_model.LogisticRegression)",
        "forest.ARFClassifier?n_models=3&lambda_value=6",
    ],
)
def test_a_name_stands_for_an_estimator_that_is_always_the_same(name: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)), rng.choice(["a", "b", "c"], 60)
    first, second = (river.RiverArrays(river.build(name)).partial_fit(x, y) for _ in range(2))
    assert isinstance(first.model, base.Classifier)
    assert np.array_equal(first.predict_proba(x), second.predict_proba(x))
    assert np.allclose(first.predict_proba(x).sum(axis=1), 1)
    assert first.classes_ == ["a", "b", "c"]


def test_arguments_are_yaml_scalars() -> None:
    made: Any = river.build("forest.ARFClassifier?n_models=3&max_features=sqrt&disable_weighted_vote=true&max_depth=4")
    assert (made.n_models, made.max_features, made.disable_weighted_vote, made.max_depth) == (3, "sqrt", True, 4)
    assert made.seed == 0
    assert river.build("forest.ARFClassifier?seed=7").seed == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("linear_model.SoftmaxRegresion", "linear_model.SoftmaxRegression"),
        ("ensemble.ARFClassifier", "forest.ARFClassifier"),
        ("forest.ARFClassifier?n_model=3", "n_models"),
        ("forest.ARFClassifier?n_models=many", "cannot be made"),
        ("preprocessing.StandardScaler?with_std=true", "no classifier"),
        ("linear_model.LinearRegression", "no classifier"),
        ("linear_model.LogisticRegression", "OneVsRestClassifier"),
        ("linear_model.SoftmaxRegression|preprocessing.StandardScaler", "only transformers"),
        ("linear_model.SoftmaxRegression?optimizer=3", "cannot"),
        ("linear_model.SoftmaxRegression?l2=[1, 2]", "single value"),
        ("linear_model.SoftmaxRegression?l2=!!python/object/apply:os.system [ls]", "wrong"),
        ("os.system", "no os.system"),
        ("compose.FuncTransformer?func=print|linear_model.SoftmaxRegression", "no compose.FuncTransformer"),
        ("compat.SKL2RiverClassifier", "no compat"),
        ("linear_model.base.GLM", "no linear_model.base.GLM"),
        ("linear_model.SoftmaxRegression)", "wrong at ')'"),
        ("linear_model.SoftmaxRegression?l2", "wrong at its end"),
        ("a?b=(" * 99, "wrong"),
        ("x" * 5000, "characters"),
    ],
)
def test_what_is_no_such_estimator_is_told_with_what_is_near(name: str, said: str) -> None:
    with pytest.raises(BadConfig) as error:
        river.build(name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_linear_model_is_one_matrix() -> None:
    rng = np.random.default_rng(1)
    phi = rng.integers(-127, 128, (80, 6)).astype(np.int8)
    phi[:, 3] = 5  # a constant has no spread
    labels, numbers = rng.choice(["a", "b", "c"], 80), rng.uniform(0, 50, 80)
    target = RegressionTarget(0.0, 100.0, 0.5)
    for model in (SoftmaxRegression(), preprocessing.StandardScaler() | SoftmaxRegression(),
                  preprocessing.StandardScaler(with_std=False) | SoftmaxRegression()):  # fmt: skip
        river.RiverArrays(model).partial_fit(phi / 127, labels)
        own = StreamAnswers(model, ("a", "b", "c"))
        head = own.head(6)
        assert head is not None
        assert np.allclose(head.probabilities(phi), own.probabilities(phi), atol=1e-5)
    for model in (LinearRegression(), preprocessing.StandardScaler() | LinearRegression()):
        river.RiverArrays(model).partial_fit(phi / 127, numbers)
        own = StreamAnswers(model, (), target)
        head = own.head(6)
        assert head is not None
        assert np.allclose(head.values(phi), own.values(phi), atol=1e-3)
    assert StreamAnswers(preprocessing.MinMaxScaler() | SoftmaxRegression(), ("a",)).head(6) is None


def test_what_does_not_bear_the_workspace_s_own_seal_is_never_read(tmp_path: Path) -> None:
    mine, other = (Workspace.create(tmp_path / name, Config()) for name in ("mine", "other"))
    data = sealed.seal(mine, b"hello")
    assert sealed.unseal(mine, data, "it") == b"hello"
    assert (mine.private(sealed.KEY).stat().st_mode & 0o777) == 0o600
    for bad in (data[:-1] + b"O", b"hello", b"", data[:30], data.replace(b"sealed 1", b"sealed 2"), data + b"!"):
        with pytest.raises(Corrupt, match="seal"):
            sealed.unseal(mine, bad, "it")
    sealed.seal(other, b"")
    with pytest.raises(Corrupt):
        sealed.unseal(other, data, "it")
    mine.private(sealed.KEY).unlink()
    with pytest.raises(Corrupt):
        sealed.unseal(mine, data, "it")
    mine.private(sealed.KEY).write_bytes(b"cut off")
    with pytest.raises(Corrupt):
        sealed.unseal(mine, data, "it")
    assert sealed.unseal(mine, sealed.seal(mine, b"anew"), "it") == b"anew", "a damaged key is replaced"


class Boom:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`linear`: a workspace after two turns; `bayes`: one after a turn; `one`, `two`: the images of each turn."""
    folder = tmp_path_factory.mktemp("streaming")
    files = good(("0", "1", "2"), 12)
    first, second = write(folder / "one", files[::2]), write(folder / "two", files[1::2])
    for name, learner in (("linear", LINEAR), ("bayes", BAYES)):
        workspace = make(folder / name, learn={"dimensions": 32, "learner": learner})
        done = turn(workspace.root, first)
        assert done.values["decision"] == "promoted", done
        if name == "linear":
            assert turn(workspace.root, second).code in (0, 1)
    yield folder
    shutil.rmtree(folder)


def copied(taught: Path, name: str, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(taught / name, tmp_path / name))


def newest(root: Path) -> dict[str, Any]:
    return [one for one in run(root, "models").values["models"] if not one.get("retired")][-1]


def test_turns_learn_what_is_new_in_one_pass(taught: Path, tmp_path: Path) -> None:
    workspace = copied(taught, "linear", tmp_path)
    first, second = run(workspace.root, "models").values["models"]
    assert (first["learner"], first["memory_digest"]) == (LINEAR, None)
    assert second["metrics"]["samples"] > first["metrics"]["samples"]
    learner = learners.streaming(workspace)
    held = list(learner.held)
    number = first["metrics"]["samples"]
    assert held[:number] == sorted(held[:number]) and held[number:] == sorted(held[number:])
    again = run(workspace.root, "learn")
    assert (again.code, again.values["samples"], again.values["model"]) == (0, 0, "v1.1")
    names = dict.fromkeys(held, learner.features)
    phi = learner.features.all(held, SILENT)
    by_hand = river.RiverArrays(river.build(LINEAR.removeprefix("river:")))
    by_hand.partial_fit(phi * np.float32(1 / 127), [learner.held[id] for id in names])
    assert np.allclose(by_hand.predict_proba(phi * np.float32(1 / 127)), learner.answers.probabilities(phi))


@pytest.mark.parametrize("name", ["linear", "bayes"])
def test_answers_the_same_by_features_and_by_images(taught: Path, tmp_path: Path, name: str) -> None:
    workspace = copied(taught, name, tmp_path)
    with workspace.catalog.read() as tx:
        from everlearn.catalog import versions

        version = versions.newest(tx)
        assert version is not None
    members = teach.pool(workspace)
    table = answering.answerer(workspace, version).table([one.id for one in members], SILENT)
    from everlearn.learn.features import images

    model = answering.serving(workspace, version)
    assert np.allclose(model.table(images(workspace, [one.id for one in members])), table, atol=1e-3)
    right = np.array(model.classes)[table.argmax(axis=1)] == [one.label for one in members]
    assert right.mean() > 0.8
    found = run(workspace.root, "predict", taught / "two" / "1")
    assert found.code == 0


def test_a_linear_learner_is_deployed_as_one_graph(taught: Path, tmp_path: Path) -> None:
    workspace = copied(taught, "linear", tmp_path)
    done = run(workspace.root, "deploy", "--model", "v1.1", "--to", tmp_path / "out")
    assert done.code == 0, done.said
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (card["learner"], card["head"], card["answers"]) == (LINEAR, "linear", "as one graph, anywhere")
    inside = run(workspace.root, "predict", taught / "one" / "2", "--model", "v1.1")
    alone = wheel.run(tmp_path / "nowhere", "predict", taught / "one" / "2", "--model", tmp_path / "out" / "model.onnx")
    assert inside.values == alone.values
    sums = run(workspace.root, "models", "export", tmp_path / "copy", "--model", "v1.1", "--sums")
    assert sums.code == 2 and "no sums" in sums.values["error"]["message"]


def test_another_learner_answers_inside_its_workspace_only(taught: Path, tmp_path: Path) -> None:
    workspace = copied(taught, "bayes", tmp_path)
    done = run(workspace.root, "deploy", "--model", "v1.0", "--to", tmp_path / "out")
    assert done.code == 2 and "inside its workspace" in done.values["error"]["message"]
    (graph,) = (workspace.root / "model_updates/versions").glob("model_v1.0_*.onnx")
    alone = wheel.run(tmp_path / "nowhere", "predict", taught / "one" / "2", "--model", graph)
    assert alone.code == 2 and "inside its workspace" in alone.values["error"]["message"]
    learned = graph.with_suffix("") / "learner.river"
    good_bytes = learned.read_bytes()
    for bad in (pickle.dumps(Boom()), good_bytes[:60] + pickle.dumps(Boom()), good_bytes[:-1] + b"\0"):
        learned.write_bytes(bad)
        refused = run(workspace.root, "predict", taught / "one" / "2", "--model", "v1.0")
        assert refused.code == 2 and "seal" in refused.values["error"]["message"]
    assert not Path("exploded").exists()
    learned.write_bytes(good_bytes)
    assert run(workspace.root, "predict", taught / "one" / "2", "--model", "v1.0").code == 0


@pytest.mark.parametrize("name", ["linear", "bayes"])
def test_forgetting_trains_again_and_claims_no_exactness(taught: Path, tmp_path: Path, name: str) -> None:
    workspace = copied(taught, name, tmp_path)
    done = run(workspace.root, "forget", "--label", "2")
    assert done.code == 0, done.said
    assert (done.values["before"], done.values["after"]) == (None, None)
    assert any("no exact memory" in note for note in done.values["notes"])
    certificate = Path(done.values["certificate"])
    body = json.loads(certificate.read_text())
    assert body["exact"] is False and body["learner"] == (LINEAR if name == "linear" else BAYES)
    learner = learners.streaming(Workspace.open(workspace.root))
    assert learner.in_order and set(learner.held.values()) == {"0", "1"}
    assert learner.answers.classes == ("0", "1")
    assert run(workspace.root, "verify", certificate, "--from-images").values["verified"]

    learner.model.learn_one(dict.fromkeys(range(32), 0.5), "0")  # what nothing that remains explains
    learner.save()
    found = run(workspace.root, "verify", certificate)
    assert found.code == 1
    assert {one["name"] for one in found.values["checks"] if not one["pass"]} == {"model", "again"}
    learners.STATES["river"](workspace).write_bytes(b"nonsense")
    found = run(workspace.root, "verify", certificate)
    assert "learner" in {one["name"] for one in found.values["checks"] if not one["pass"]}
    assert any("learner" in line for line in run(workspace.root, "doctor").values["mended"])
    assert not learners.knows(workspace)


def test_takes_over_from_the_exact_memory_and_back(taught: Path, tmp_path: Path) -> None:
    workspace = copied(taught, "linear", tmp_path)
    before = newest(workspace.root)["version"]
    settings = workspace.root / "everlearn.yaml"
    text = settings.read_text()
    settings.write_text(text.replace(LINEAR, "exact"))
    done = run(workspace.root, "run")
    assert done.code in (0, 1), done.said
    exact = newest(workspace.root)
    assert exact["learner"] == "exact" and exact["memory_digest"]
    assert not learners.STATES["river"](workspace).exists()
    assert run(workspace.root, "compare", before, exact["version"]).code in (0, 1)
    assert run(workspace.root, "promote", exact["version"], "--force", "--reason", "try").code == 0
    assert run(workspace.root, "rollback").code == 0
    settings.write_text(text)
    assert run(workspace.root, "learn").values["learner"] == LINEAR
    assert not learners.STATES["exact"](workspace).exists()


def test_killed_in_the_midst_it_comes_to_the_same(taught: Path, tmp_path: Path) -> None:
    workspace = make(tmp_path / "killed", learn={"dimensions": 32, "learner": LINEAR})
    words = ("-w", workspace.root, "run", taught / "one", "--labels-from", "folder")
    for point in ("streaming.before_save:1", "streaming.saved:1", "learn.marked:1"):
        assert everlearn(tmp_path, *words, fault=point)[0] == KILLED
    assert run(workspace.root, "doctor").code == 0
    assert run(*words[1:]).code in (0, 1)
    undisturbed = run(taught / "linear", "models").values["models"][0]
    assert newest(workspace.root)["model_digest"] == undisturbed["model_digest"]


def test_a_wrong_name_is_told_by_the_command(tmp_path: Path, taught: Path) -> None:
    workspace = make(tmp_path / "w", learn={"dimensions": 32, "learner": "river:linear_model.SoftmaxRegressor"})
    done = turn(workspace.root, taught / "one")
    assert done.code == 2
    assert "linear_model.SoftmaxRegression" in done.values["error"]["remedy"]


def test_numbers_are_learned_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5))
    table = tmp_path / "rows.csv"
    names = ",".join(f"f{n}" for n in range(5))
    lines = [",".join(f"{v:.4f}" for v in row) + f",{50 + 10 * row[0]:.2f}" for row in x]
    table.write_text("\n".join([f"{names},label", *lines]))
    learner = "river:preprocessing.StandardScaler|linear_model.LinearRegression?intercept_lr=0.1"
    workspace = make(tmp_path / "w", task="regress", backbone="features",
                     learn={"dimensions": 32, "learner": learner})  # fmt: skip
    done = run(workspace.root, "run", table)
    assert done.code in (0, 1), done.said
    one = newest(workspace.root)
    assert one["learner"] == learner
    assert run(workspace.root, "evaluate", "--model", one["version"]).values["mae"] < 12
