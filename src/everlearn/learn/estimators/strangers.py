"""Out-of-fold scores of the open set's distance: of rows as themselves, and of rows as strangers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from everlearn.learn.estimators.centred import Floats, Solution
from everlearn.learn.estimators.encode import Encoder, portions
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.openset import distance
from everlearn.naming import denied


def strangers(
    columns: Sequence[str], cached: Cached, held_out: Sequence[Solution | None], encoder: Encoder,
    origin: NDArray[np.int64],
) -> tuple[Floats, Floats]:  # fmt: skip
    """(scores of rows in their own class, scores of strangers), each row by what was learned without its fold.

    A stranger is a row as if its class had never been learned; a row whose class is in no other fold; and a negative,
    scored in the class that it is not where it denies one, else in the nearest.
    """
    at = {name: column for column, name in enumerate(columns)}
    label = np.array([at[name] for name in cached.labels], np.intp)
    negative = {at[name]: at.get(what, -1) for name in columns if (what := denied(name)) is not None}
    own, found = [np.zeros(0)], [np.zeros(0)]
    for fold, solution in enumerate(held_out):
        if solution is None or solution.xx is None:
            continue
        present = np.flatnonzero(solution.counts > 0)
        shown = present[~np.isin(present, list(negative))]  # classes that can be answered
        if not len(shown):
            continue
        measured = distance(solution.xx, solution.sums, solution.counts)
        rows = cached.rows(fold)
        for part in portions(len(rows), max(64, 2**21 // len(columns))):
            here = label[rows[part]]
            z = solution.scaling(encoder.values(cached.phi[rows[part]]) - origin)
            scores, known = measured.scores(z), np.isin(here, shown)
            own.append(scores[known, here[known]])
            if len(shown) > 1:
                found.append(measured.impostor_scores(z[known], here[known])[:, shown].max(axis=1))
            for row in np.flatnonzero(~known):
                denies = negative.get(int(here[row]), -1)
                found.append(scores[row, [denies] if denies in shown else shown].max(keepdims=True))
    return np.concatenate(own), np.concatenate(found)
