"""Write the migration that brings the catalog from its newest revision to `catalog/tables.py`.

Usage: python scripts/make_migration.py 0003 "what changes"
"""

import sys
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

import everlearn.catalog


def main(number: str, message: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(everlearn.catalog.__file__).parent / "migrations"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    with sa.create_engine("sqlite://").connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        command.revision(config, message, autogenerate=True, rev_id=number)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
