"""The network's way in: one FastAPI application over a workspace.

`app.py` puts it together, `auth.py` says who may come in, `guard.py` is what every request passes, `review.py` is the
queue of images that wait for a person; `pages/` are what a browser shows of it. Further parts (the registry, answers,
a dashboard) are routers beside `review.py`.

All that changes the workspace goes the way of the command line, through the rooms. What a person says never waits for
a training: it takes a transaction of the catalog (`files.beside`), not the workspace's lock.
"""
