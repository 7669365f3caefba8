"""River estimators by name, and on arrays.

A name is `module.Class?argument=value&…`, several with `|` between them are a pipeline, and a value in parentheses is
itself such a name: `preprocessing.StandardScaler|linear_model.SoftmaxRegression?optimizer=(optim.Adam?lr=0.01)`. Only
public classes of River's own modules can be named, and only YAML scalars given: nothing is imported or evaluated.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from everlearn.errors import BadConfig, NotInstalled

if TYPE_CHECKING:
    from river.base import Estimator

MODULES = (
    "drift", "drift.binary", "dummy", "ensemble", "facto", "feature_extraction", "feature_selection", "forest",
    "imblearn", "linear_model", "multiclass", "naive_bayes", "neighbors", "optim", "optim.initializers",
    "optim.losses", "optim.schedulers", "preprocessing", "rules", "stats", "tree", "tree.splitter",
)  # fmt: skip
"""Whose public classes may be named. Not `compat`, `compose`, `datasets`: they take functions, models and files."""
_LONGEST = 500
_BINARY = "river:multiclass.OneVsRestClassifier?classifier=({})"


def build(name: str, *, regression: bool = False) -> Estimator:
    """The estimator that a name stands for, tried on two rows. Raises BadConfig, NotInstalled."""
    base = _river("base")
    model = _Reader(name).whole()
    kind = base.Regressor if regression else base.Classifier
    others = (base.MultiTargetRegressor, base.MultiLabelClassifier)
    if not isinstance(model, kind) or isinstance(model, others):
        wanted = "regressor" if regression else "classifier"
        raise BadConfig(f"river:{name} is no {wanted}.", f"A {wanted} must stand last.")
    if not regression and not model._multiclass:
        raise BadConfig(f"river:{name} knows two classes only.", f"Name {_BINARY.format(name.rpartition('|')[2])}")
    _try(model.clone(), name, (0.25, 0.75) if regression else ("a", "b"))
    return model


def _try(model: Any, name: str, targets: Sequence[Any]) -> None:
    try:
        for shift, target in enumerate(targets):
            row = {feature: (feature + shift) / 8 for feature in range(8)}
            model.learn_one(row, target)
            model.predict_one(row)
    except Exception as error:  # whatever a wrong argument leads to
        said = " ".join(str(error).split())[:200]
        raise BadConfig(f"river:{name} cannot learn: {said}", "Mend its arguments, or name another.") from None


def needed() -> None:
    """Raises NotInstalled where River is not."""
    _river("base")


def _river(module: str) -> Any:
    try:
        return importlib.import_module(f"river.{module}")  # one of MODULES, or our own word
    except ImportError:
        raise NotInstalled("River is not installed.", "pip install 'everlearn[river]'") from None


class _Reader:
    """Reads a name from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def whole(self) -> Any:
        if len(self.text) > _LONGEST:
            raise BadConfig(f"a learner's name of {len(self.text)} characters.", f"At most {_LONGEST}.")
        found = self._pipeline()
        if self.at < len(self.text):
            raise self._wrong()
        return found

    def _pipeline(self) -> Any:
        found = self._step()
        while self._take("|"):
            following = self._step()
            if not hasattr(found, "transform_one"):
                raise BadConfig(f"river:{self.text}: only transformers may stand before another.", "Change the order.")
            found = found | following
        return found

    def _step(self) -> Any:
        name = self._match(r"[A-Za-z_][\w.]*")
        arguments: dict[str, Any] = {}
        if self._take("?"):
            while True:
                key = self._match(r"[A-Za-z_]\w*")
                if not self._take("="):
                    raise self._wrong()
                arguments[key] = self._value()
                if not self._take("&"):
                    break
        return _made(name, arguments)

    def _value(self) -> Any:
        if self._take("("):
            found = self._pipeline()
            if not self._take(")"):
                raise self._wrong()
            return found
        text = self._match(r"[^&|()?]*")
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError:
            raise self._wrong() from None
        if not isinstance(found, str | int | float | bool | None):
            raise BadConfig(f"river:{self.text}: {text!r} is no single value.", "Give a number, a word, true or false.")
        return found

    def _take(self, char: str) -> bool:
        found = self.text.startswith(char, self.at)
        self.at += found
        return found

    def _match(self, pattern: str) -> str:
        found = re.compile(pattern).match(self.text, self.at)
        if found is None:
            raise self._wrong()
        self.at = found.end()
        return found[0]

    def _wrong(self) -> BadConfig:
        where = f"at {self.text[self.at : self.at + 20]!r}" if self.at < len(self.text) else "at its end"
        return BadConfig(
            f"river:{self.text} is wrong {where}.", "Write module.Class?name=value&name=value|module.Class"
        )


def _made(name: str, arguments: dict[str, Any]) -> Any:
    kind = _class(name)
    known = inspect.signature(kind).parameters
    for key in arguments:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"It takes: {', '.join(known) or 'nothing'}."
            raise BadConfig(f"river:{name} has no argument {key}.", remedy)
    if "seed" in known:
        arguments.setdefault("seed", 0)  # the same samples, the same model
    try:
        return kind(**arguments)
    except Exception as error:  # whatever a wrong argument leads to
        said = " ".join(str(error).split())[:200]
        raise BadConfig(f"river:{name} cannot be made: {said}", "Mend its arguments.") from None


def _class(name: str) -> Any:
    module, _, own = name.rpartition(".")
    if module in MODULES:
        found = dict(_public(module)).get(own)
        if found is not None:
            return found
    every = {own: f"{module}.{own}" for module in MODULES for own, _ in _public(module)}
    near = [every[one] for one in difflib.get_close_matches(own, every, n=3)]
    remedy = f"Did you mean {' or '.join(near)}?" if near else f"Name a class of river: {', '.join(MODULES)}."
    raise BadConfig(f"River has no {name}.", remedy)


def _public(module: str) -> Iterator[tuple[str, Any]]:
    """Names and classes that can be made."""
    base, found = _river("base"), _river(module)
    for name in found.__all__:
        one = getattr(found, name, None)
        if inspect.isclass(one) and issubclass(one, base.Base) and not inspect.isabstract(one):
            yield name, one


class RiverArrays:
    """A River classifier or regressor on arrays, one row at a time: `partial_fit` and `predict`, as scikit-learn has
    them. Features are named 0, 1, … classes_: those seen, sorted."""

    def __init__(self, model: Estimator) -> None:
        self.model: Any = model
        self.seen: set[Any] = set()

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> RiverArrays:
        """(N, D), (N,): one pass, in this order."""
        for x, target in zip(rows(X), np.asarray(y).tolist()):
            self.learn(x, target)
        return self

    def learn(self, x: dict[int, float], target: Any) -> None:
        self.model.learn_one(x, target)
        self.seen.add(target)

    @property
    def classes_(self) -> list[Any]:
        return sorted(self.seen)

    def predict(self, X: Any) -> NDArray[Any]:
        """(N, D) -> (N,). Raises NotFittedError before anything was learned."""
        from sklearn.exceptions import NotFittedError

        if not self.seen:
            raise NotFittedError("nothing was learned.")
        return np.array([self.model.predict_one(x) for x in rows(X)])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """(N, D) -> (N, C), as classes_. A model without probabilities is sure of its answer."""
        classes = self.classes_
        return np.array([shares(self.model, x, classes) for x in rows(X)]).reshape(-1, len(classes))


def rows(X: Any) -> Iterator[dict[int, float]]:
    """(N, D) -> N dictionaries."""
    for row in np.asarray(X):
        yield dict(enumerate(row.tolist()))


def shares(model: Any, x: dict[int, float], classes: Sequence[Any]) -> list[float]:
    """The probability of each class; all alike where the model says nothing."""
    try:
        found = model.predict_proba_one(x) or {}
    except NotImplementedError:
        found = {model.predict_one(x): 1.0}
    given = [max(0.0, float(found.get(name, 0.0))) for name in classes]
    total = sum(given)
    if not 0 < total < math.inf:
        return [1 / len(classes)] * len(classes)
    return [one / total for one in given]


def matrix(model: Any, classes: Sequence[Any], features: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(D, C) weights and (C,) bias of a softmax regression, or (D, 1) and (1,) of a linear one, also behind a standard
    scaler; None for any other model."""
    linear, scaling, optim = _river("linear_model"), _river("preprocessing"), _river("optim")
    steps = list(model.steps.values()) if hasattr(model, "steps") else [model]
    last, scaler = steps[-1], steps[0] if len(steps) == 2 else None
    if len(steps) > 2 or not (scaler is None or (type(scaler) is scaling.StandardScaler and not scaler.window_size)):
        return None
    if type(last) is linear.SoftmaxRegression:
        columns = [last.weights.get(name, {}) for name in classes]
        bias = np.zeros(len(columns))
    elif type(last) is linear.LinearRegression and type(last.loss) is optim.losses.Squared:
        columns, bias = [last.weights], np.array([float(last.intercept)])
    else:
        return None
    weights = np.array([[float(column.get(n, 0.0)) for column in columns] for n in range(features)])
    weights = weights.reshape(features, len(columns))
    if scaler is not None:
        mean = np.array([float(scaler.means.get(n, 0.0)) for n in range(features)])
        spread = np.sqrt([float(scaler.vars.get(n, 0.0)) for n in range(features)])
        if scaler.with_std:
            weights = np.where(spread[:, None] > 0, weights / np.where(spread > 0, spread, 1)[:, None], 0)
        bias = bias - mean @ weights
    return weights, bias
