"""The servers other tests stand on are real ones, and separate for each test."""

from __future__ import annotations

import pytest
import sqlalchemy

from tests.servers import S3Server


def test_postgres_is_fresh_and_real(postgres_url: str) -> None:
    engine = sqlalchemy.create_engine(postgres_url)
    with engine.begin() as connection:
        assert str(connection.scalar(sqlalchemy.text("SELECT version()"))).startswith("PostgreSQL")
        connection.execute(sqlalchemy.text("CREATE TABLE only_here (id integer)"))


def test_postgres_databases_do_not_meet(postgres_url: str) -> None:
    assert sqlalchemy.inspect(sqlalchemy.create_engine(postgres_url)).get_table_names() == []


def test_s3_asks_for_the_key(s3_server: S3Server) -> None:
    import s3fs

    bucket = s3_server.bucket("servers").removeprefix("s3://")
    options = {"endpoint_url": s3_server.endpoint, "skip_instance_cache": True}
    right = s3fs.S3FileSystem(key=s3_server.access_key, secret=s3_server.secret_key, **options)
    right.pipe(f"{bucket}/a.bin", b"bytes")
    assert (s3_server.root / bucket / "a.bin").read_bytes() == b"bytes"
    wrong = s3fs.S3FileSystem(key=s3_server.access_key, secret="not the secret", **options)
    with pytest.raises(PermissionError):
        wrong.ls(bucket)
