"""The exact memory on arrays of numbers, in scikit-learn's manner.

`exact`: ExactClassifier, ExactRegressor. `tasks`, `align`, `fading`: several tasks, several domains, a changing world.
They keep what `learned` holds: phi by `encode`, the rows in it by `held`, solved by `centred`, answered for by
`balanced`, in one file by `saved`.
"""
