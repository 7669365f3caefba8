"""What the workspace knows: samples, labels, snapshots, versions, history. SQLite by default, PostgreSQL by URL.

`Database` gives transactions; the modules `samples`, `labels`, `snapshots`, `versions`, `runs`, `answers` and `turns`
are the questions and changes one can make inside one, each taking the open connection first.
"""

from everlearn.catalog.database import Database

__all__ = ["Database"]
