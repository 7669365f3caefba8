"""How good a model is, whether it is better than another, and whether it may go into production.

Pure functions on arrays (`metrics`, `forgetting`, `compare`, `gates`), pictures of them (`plots`), and one
self-contained page (`report`). Nothing here reads a catalog or runs a model.
"""
