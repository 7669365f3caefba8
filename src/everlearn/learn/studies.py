"""The database that studies lie in: a file of SQLite, or a server that several machines share. Optuna's own tables."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from everlearn.errors import BadConfig, NotInstalled, StoreFault

SCHEMA = "everlearn_studies"
"""Of a PostgreSQL database: Optuna's tables stand apart from the catalog's."""
_WAIT = 60  # seconds for another process' write


def database(url: str) -> Any:
    """Raises BadConfig, StoreFault, NotInstalled."""
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    try:
        address = sa.make_url(url)
    except (ArgumentError, ValueError):  # their words may hold the password
        raise BadConfig(
            "The address of the studies is not a URL.", "Use sqlite:///FILE or postgresql://USER@HOST/NAME."
        ) from None
    sqlite = address.get_backend_name() == "sqlite"
    options: dict[str, Any] = {"timeout": _WAIT} if sqlite else {}
    try:
        if address.get_backend_name() in ("postgresql", "postgres"):
            address = address.set(drivername="postgresql+psycopg")
            options = {"options": f"-csearch_path={SCHEMA}"}
            engine = sa.create_engine(address)
            with engine.begin() as connection:
                connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
            engine.dispose()
        made = _made(address.render_as_string(hide_password=False), {"connect_args": options, "hide_parameters": True})
        if sqlite:  # writes of several processes wait for each other; a power cut may cost the last of them
            sa.event.listen(made.engine, "connect", _with_log)
            made.engine.dispose()
        return made
    except (ModuleNotFoundError, ImportError, NoSuchModuleError) as error:
        raise NotInstalled(
            f"Studies on {address.get_backend_name()} need a driver: {error}.", 'pip install "everlearn[postgres]"'
        ) from None
    except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
        said = " ".join(str(getattr(error, "orig", error)).split())[:200]
        raise StoreFault(
            f"The database of the studies cannot be used: {said}", "Is the address right and the server up?"
        ) from None


def _made(url: str, options: dict[str, Any]) -> Any:
    """Of two processes that make the tables at the same time, one finds them half made: it looks again."""
    from sqlalchemy.exc import DBAPIError

    for patience in (0.5, 1.0, 2.0):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
            if "exist" not in str(error) and "UNIQUE" not in str(error).upper():
                raise
            time.sleep(patience)
    return optuna.storages.RDBStorage(url, engine_kwargs=options)


def _with_log(connection: Any, _record: object) -> None:
    for setting in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {setting}")


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna speaks of each trial, and warns of what is meant here. Its faults of the database are ours."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except optuna.exceptions.StorageInternalError as error:
        said = " ".join(str(error.__cause__ or error).split())[:200]
        raise StoreFault(f"The database of the studies cannot be used: {said}", "Run again; it goes on.") from None
    finally:
        optuna.logging.set_verbosity(before)


def names(url: str) -> list[str]:
    """Of all studies there. Raises as `Search.open`."""
    with quiet():
        return [one.study_name for one in optuna.get_all_study_summaries(database(url), include_best_trial=False)]


def sqlite(path: Path) -> str:
    """The address of a file, whatever its name holds."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path)).render_as_string()
