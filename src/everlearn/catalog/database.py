"""The connection to the catalog's database, and the migrations that bring an old one up to date in place."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from everlearn.errors import BadConfig, BadInput, Corrupt, EverlearnError, NotInstalled, StoreFault
from everlearn.text import finite

BUSY_SECONDS = 60
ONE_WRITER = 0x45564C  # the number of PostgreSQL's advisory lock
SETTINGS = ("foreign_keys=ON", "synchronous=FULL", "secure_delete=ON")


class Database:
    """One catalog database. `read()` and `write()` give a connection in a transaction; `write()` does not nest."""

    def __init__(self, url: str | sa.URL) -> None:
        try:
            self.url = sa.make_url(url)
        except (ArgumentError, ValueError):  # their words may hold the password
            raise BadConfig(
                "The catalog's address is not a URL.", "Use sqlite:///FILE or postgresql+psycopg://…"
            ) from None
        self.sqlite = self.url.get_backend_name() == "sqlite"
        if self.url.drivername in ("postgresql", "postgres"):
            self.url = self.url.set(drivername="postgresql+psycopg")
        try:
            self.engine = _sqlite(self.url) if self.sqlite else _server(self.url)
        except ModuleNotFoundError as error:
            raise NotInstalled(f"The catalog {self} needs {error.name}.", "pip install 'everlearn[postgres]'") from None
        except (NoSuchModuleError, ArgumentError) as error:
            raise BadConfig(f"catalog: {error}.", "Use sqlite:///FILE or postgresql+psycopg://…") from None

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One view of everything: what others commit meanwhile is not seen."""
        with self._explained(), self.engine.connect() as connection:
            if self.sqlite:
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """All or nothing. The one write lock is taken here, so two writers wait instead of failing later."""
        with self._explained(), self.engine.connect() as connection:
            self._begin(connection)
            yield connection
            connection.commit()

    def migrate(self) -> None:
        """Create the tables, or upgrade those of an older Everlearn. Raises Corrupt for a newer one."""
        known = _revisions()
        current = self.revision()
        if current == known[-1]:
            return
        if current is not None and current not in known:
            raise Corrupt(
                f"The catalog {self} is of revision {current}, newer than this Everlearn.", "Upgrade Everlearn."
            )
        self._upgrade("head")

    def revision(self) -> str | None:
        """The newest migration that this database has seen; None for an empty one."""
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
            return str(found) if found is not None else None

    def scrub(self) -> None:
        """Let what was deleted leave the files of the database too, as far as the database has a word for it."""
        with self._explained(), self.engine.connect() as connection:
            if self.sqlite:  # deleted rows are overwritten in the file (secure_delete); the log still has them
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            else:
                connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM")

    def close(self) -> None:
        self.engine.dispose()

    def _begin(self, connection: Connection) -> None:
        if self.sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ONE_WRITER})")

    def _upgrade(self, target: str) -> None:
        """Run the migrations, one process at a time: who comes second finds the work done."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(files("everlearn.catalog") / "migrations").replace("%", "%%"))
        with self._explained(), self.engine.connect() as connection:
            # A migration may build a table anew; with foreign keys on, dropping the old one would empty its children.
            if self.sqlite:
                connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
                connection.rollback()
            try:
                self._begin(connection)
                config.attributes["connection"] = connection
                command.upgrade(config, target)
                if self.sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise Corrupt(f"The catalog {self} has rows that belong to nothing.", "Restore a copy of it.")
                connection.commit()
            finally:
                connection.rollback()
                if self.sqlite:
                    connection.exec_driver_sql("PRAGMA foreign_keys=ON")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError:
            raise BadInput("A name holds bytes that are no text.", "Rename it.") from None
        except DBAPIError as error:
            known = self._plain(error)
            if known is None:
                raise
            raise known from error
        except sqlite3.Error as error:
            raise self._plain(error) or error from None

    def _plain(self, error: Exception) -> EverlearnError | None:
        """Our error for the database's; None where it must be a fault of ours."""
        cause = getattr(error, "orig", error)
        said = " ".join(str(cause).split())
        state = getattr(cause, "sqlstate", None) or ""
        if "malformed" in said or "not a database" in said or state.startswith("XX"):
            return Corrupt(f"The catalog {self} is damaged: {said}.", "Restore a copy of it.")
        if "readonly" in said or "read-only" in said or state == "42501":
            return StoreFault(f"The catalog {self} cannot be written: {said}.", "Make it and its folder writable.")
        if "is full" in said or state == "53100" or "disk I/O error" in said:
            return StoreFault(
                f"The disk of the catalog {self} is full or broken: {said}.", "Free some space, run again."
            )
        if "locked" in said or state == "55P03":
            return StoreFault(f"The catalog {self} is locked by another program.", "Wait for it and run again.")
        if "unable to open" in said:
            return StoreFault(
                f"The catalog {self} cannot be opened.", "Is its folder there, and yours to read and write?"
            )
        if type(cause).__name__ == "OperationalError":
            return StoreFault(f"The catalog {self} cannot be used: {said}.", "Is the address right and the server up?")
        return None


@cache
def _revisions() -> list[str]:
    """All migrations, oldest first: their files are named NUMBER_WORDS.py."""
    names = (path.name for path in (files("everlearn.catalog") / "migrations" / "versions").iterdir())
    return sorted(name.partition("_")[0] for name in names if name[:1].isdigit() and name.endswith(".py"))


def _server(url: sa.URL) -> Engine:
    return sa.create_engine(url, pool_pre_ping=True, hide_parameters=True, json_serializer=_json)


def _sqlite(url: sa.URL) -> Engine:
    # The driver's own transactions start too late to keep two writers apart; `read` and `write` begin them.
    options = {"timeout": BUSY_SECONDS, "isolation_level": None}
    path = Path(url.database or "")
    frozen = _frozen(path)
    if frozen:
        url = sa.URL.create("sqlite", database=f"file:{quote(str(path))}", query={**frozen, "uri": "true"})
    engine = sa.create_engine(url, connect_args=options, hide_parameters=True, json_serializer=_json)

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        for setting in SETTINGS:
            connection.execute(f"PRAGMA {setting}")
        if not frozen and connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")

    return engine


def _frozen(path: Path) -> dict[str, str]:
    """How to open a file that must not be written, so that it can at least be read; empty where it may be."""
    if not path.is_file() or (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return {}
    # Without a log beside it nobody is writing; then SQLite needs no shared memory, which it could not make.
    return {"mode": "ro"} if path.with_name(path.name + "-wal").exists() else {"mode": "ro", "immutable": "1"}


def _json(value: Any) -> str:
    """PostgreSQL takes no NaN in JSON: what is not a number is nothing, on every database."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(finite(value), allow_nan=False)
