"""The connection to the catalog's database, and the migrations that bring an old one up to date in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, OperationalError

from everlearn.errors import BadConfig, Corrupt, EverlearnError, NotInstalled, StoreFault

BUSY_SECONDS = 60


class Database:
    """One catalog database. `read()` and `write()` give a connection in a transaction; they do not nest."""

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        try:
            self.engine = _engine(self.url)
        except ModuleNotFoundError as error:
            raise NotInstalled(f"The catalog {self} needs {error.name}.", "pip install 'everlearn[postgres]'") from None
        except NoSuchModuleError as error:
            raise BadConfig(f"catalog: {error}.", "Use sqlite:///FILE or postgresql+psycopg://…") from None

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._explained(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """All or nothing. SQLite takes its one write lock here, so two writers wait instead of failing later."""
        with self._explained(), self.engine.connect() as connection:
            if self.url.get_backend_name() == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    def migrate(self) -> None:
        """Create the tables, or upgrade those of an older Everlearn. Raises Corrupt for a newer one."""
        from alembic import command
        from alembic.config import Config
        from alembic.runtime.migration import MigrationContext
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(files("everlearn.catalog") / "migrations"))
        head = ScriptDirectory.from_config(config).get_current_head()
        with self.read() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        if current == head:
            return
        if current is not None and current > (head or ""):
            raise Corrupt(
                f"The catalog {self} is of revision {current}, newer than this Everlearn.", "Upgrade Everlearn."
            )
        with self.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            raise self._plain(error) from error
        except DBAPIError as error:
            if "malformed" in str(error.orig) or "not a database" in str(error.orig):
                raise Corrupt(f"The catalog {self} is damaged: {error.orig}.", "Restore a copy of it.") from error
            raise

    def _plain(self, error: OperationalError) -> EverlearnError:
        said = " ".join(str(error.orig).split())
        if "readonly" in said or "read-only" in said:
            return StoreFault(f"The catalog {self} cannot be written: {said}.", "Make its folder writable.")
        if "full" in said:
            return StoreFault(f"The disk of the catalog {self} is full.", "Free some space and run the command again.")
        if "locked" in said:
            return StoreFault(f"The catalog {self} is locked by another program.", "Wait for it and run again.")
        return StoreFault(f"The catalog {self} cannot be used: {said}.", "Is the address right and the server up?")


def _engine(url: sa.URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True)
    # the driver's own transactions start too late to keep two writers apart; `write` begins them itself
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS, "isolation_level": None})

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine
