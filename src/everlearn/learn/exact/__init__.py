"""The exact memory: integer sums per fold, and the heads that follow from them. Arrays in, arrays out.

memory = ExactMemory(basis_digest, dimensions)          memory.py    learn, forget, merge, digest, save
memory.add(phi, labels, folds)                          sums.py      exact integer sums at float32 or int8 speed
fitted = fit(memory, Cached(ids, phi, labels, folds))   fit.py       solve.py, calibrate.py
fitted.head.probabilities(phi)                          head.py

`openset.py` is the arithmetic of strangers, `rejection.py` and `fit_unknown.py` the head that may answer unknown. The
estimators for any feature arrays are `learn.estimators`.
"""
