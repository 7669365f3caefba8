"""everlearn.yaml: written, read back, and refused with the key, the value and the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from everlearn import config as configuration
from everlearn.config import FILE_NAME, Config, check, commented, load, parse, schema
from everlearn.errors import BadConfig, Missing


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in configuration.OVERRIDES.values():
        monkeypatch.delenv(name, raising=False)


def read(folder: Path, text: str) -> Config:
    (folder / FILE_NAME).write_text(text, "utf-8")
    return load(folder / FILE_NAME)


def told(folder: Path, text: str) -> BadConfig:
    with pytest.raises(BadConfig) as error:
        read(folder, text)
    assert "\n" not in str(error.value)
    assert FILE_NAME in error.value.message
    assert error.value.remedy
    return error.value


def fields(model: type[BaseModel] = Config, path: str = "") -> list[tuple[str, Any]]:
    """Every setting, as (dotted name, pydantic's field)."""
    found = []
    for name, field in model.model_fields.items():
        key = f"{path}{field.alias or name}"
        kind = field.annotation
        inner = isinstance(kind, type) and issubclass(kind, BaseModel)
        found += fields(kind, f"{key}.") if inner else [(key, field)]  # type: ignore[arg-type]
    return found


def test_the_shipped_file_holds_every_default_and_reads_back(tmp_path: Path) -> None:
    text = commented(Config())
    assert read(tmp_path, text) == Config()
    written = yaml.safe_load(text)
    for key, field in fields():
        value = written
        for part in key.split("."):
            value = value[part]
        assert value == field.get_default(call_default_factory=True), key
        assert field.description, f"{key} is not described"
        assert " ".join(field.description.split()[:3]) in text


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    for text in ("", "# nothing\n", "collect:\n", "---\n"):
        assert read(tmp_path, text) == Config()


def test_the_schema_takes_the_written_file_and_refuses_others() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(json.loads(json.dumps(schema())))
    checker.check_schema(checker.schema)
    checker.validate(yaml.safe_load(commented(Config())))
    for wrong in ({"tusk": 1}, {"learn": {"folds": 1}}, {"task": "guess"}, {"label": {"precision": "high"}}):
        assert not checker.is_valid(wrong)


def test_the_schema_knows_every_setting() -> None:
    """What editors complete: each section is a definition with its settings, described, and nothing else allowed."""
    found = schema()
    for name, section in [("Config", found), *found["$defs"].items()]:
        assert section["additionalProperties"] is False, name
    names = {f"{name}.{key}" for name, section in found["$defs"].items() for key in section["properties"]}
    names |= set(found["properties"])
    assert {key.rpartition(".")[2] for key, _ in fields()} <= {name.rpartition(".")[2] for name in names}


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
SHARE = st.floats(0.001, 0.999)
CONFIGS = st.builds(
    Config,
    task=st.sampled_from(["classify", "regress"]),
    backbone=TEXT,
    store=st.none() | TEXT,
    collect=st.builds(configuration.Collect, pattern=st.none() | TEXT, sources=st.lists(TEXT, max_size=3), camera=TEXT),
    label=st.builds(configuration.Label, precision=SHARE, automatic=st.booleans()),
    dataset=st.builds(configuration.Dataset, split=TEXT, test=st.floats(0, 0.5), validation=st.floats(0, 0.4)),
    gates=st.builds(
        configuration.Gates, quality=st.none() | st.floats(allow_nan=False, allow_infinity=False), alpha=SHARE
    ),
)


@settings(deadline=None)
@given(config=CONFIGS)
def test_what_is_written_reads_back_as_it_was(config: Config) -> None:
    assert check(yaml.safe_load(commented(config)), Path(FILE_NAME)) == config


ODD = st.none() | st.text() | st.floats() | st.lists(st.integers())


@settings(deadline=None)
@given(values=st.dictionaries(TEXT | st.integers(), ODD, min_size=1, max_size=3))
def test_anything_else_is_refused_in_one_line(values: dict[Any, Any]) -> None:
    with pytest.raises(BadConfig) as error:
        check({"watch": {"poll_seconds": -1}, **values}, Path(FILE_NAME))
    assert "\n" not in str(error.value)


def test_unknown_keys_come_with_a_suggestion(tmp_path: Path) -> None:
    assert told(tmp_path, "tsak: classify").remedy == "Did you mean task?"
    assert told(tmp_path, "validate: {min_sid: 3}").remedy == "Did you mean min_side?"
    assert told(tmp_path, "learn: {target: {hihg: 3}}").remedy == "Did you mean high?"
    assert "validate.min_sid" in told(tmp_path, "validate: {min_sid: 3}").message
    assert told(tmp_path, "watch: {zzzz: 3}").remedy.startswith("Known here: poll_seconds, every_minutes")


def test_values_that_cannot_be_are_named(tmp_path: Path) -> None:
    for text, key, value in (
        ("task: guess", "task", "'guess'"),
        ("learn: {folds: 1}", "learn.folds", "1"),
        ("label: {precision: 1.0}", "label.precision", "1.0"),
        ("label: {precision: .nan}", "label.precision", "nan"),
        ("gates: {quality: .inf}", "gates.quality", "inf"),
        ("collect: {sources: 7}", "collect.sources", "7"),
        ("collect: nothing", "collect", "'nothing'"),
    ):
        assert f"{key} is {value}:" in told(tmp_path, text).message
    assert "leave nothing to learn from" in told(tmp_path, "dataset: {test: 0.6, validation: 0.4}").message
    assert "must be below high" in told(tmp_path, "learn: {target: {low: 3, high: 3}}").message


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    for text in ("- a\n- b", "just words", "a: [", "task: 'x", "[" * 3000, "!!python/object/apply:os.system [ls]"):
        told(tmp_path, text)
    (tmp_path / FILE_NAME).write_bytes(b"task: \xff\xfe")
    with pytest.raises(BadConfig, match="cannot be read"):
        load(tmp_path / FILE_NAME)
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere" / FILE_NAME, tmp_path / "file" / FILE_NAME):
        with pytest.raises(Missing, match="everlearn init"):
            load(path)


def test_a_bomb_of_references_is_not_unfolded_in_the_error(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    error = told(tmp_path, "\n".join(["task: *a11" if n == 12 else line for n, line in enumerate([*lines, ""])]))
    assert len(str(error)) < 2000


def test_catalogs_that_are_kept_nowhere_or_by_unknown_servers(tmp_path: Path) -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "mysql://u:hunter2@h/d", "postgresql+pg8000://u:hunter2@h/d", "x"):
        error = told(tmp_path, f"catalog: '{url}'")
        assert "hunter2" not in str(error)
        assert "sqlite:///FILE" in error.message
    for url in ("sqlite:///other.db", "postgresql+psycopg://u@h/d", "postgresql://u@h/d"):
        assert read(tmp_path, f"catalog: {url}").catalog == url


def test_the_environment_holds_over_dotenv_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "catalog: sqlite:///file.db\nstore: s3://file/x\n"
    (tmp_path / ".env").write_text("EVERLEARN_CATALOG=sqlite:///dot.db\n# no\nEVERLEARN_STORE=\nOTHER='a b'\n")
    assert read(tmp_path, text).catalog == "sqlite:///dot.db"
    assert read(tmp_path, text).store == "s3://file/x", "empty is as if it were not there"
    monkeypatch.setenv("EVERLEARN_CATALOG", "sqlite:///environment.db")
    assert read(tmp_path, text).catalog == "sqlite:///environment.db"
    assert check({"catalog": "sqlite:///file.db"}, tmp_path / FILE_NAME).catalog == "sqlite:///file.db"


def test_secrets_in_the_environment_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERLEARN_CATALOG", "mysql://kim:hunter2@host/db")
    with pytest.raises(BadConfig) as error:
        parse({}, tmp_path / FILE_NAME)
    assert "hunter2" not in str(error.value)
    (tmp_path / ".env").write_bytes(b"KEY=hunter2\xff\xfe")
    with pytest.raises(BadConfig, match=r"\.env cannot be read") as error:
        parse({}, tmp_path / FILE_NAME)
    assert "hunter2" not in str(error.value)


def test_a_learner_that_is_none_is_told_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BadConfig) as error:
        check({"learn": {"learner": "nope"}}, tmp_path / "everlearn.yaml")
    assert "'nope'" in error.value.message and "ensemble:SPEC" in error.value.remedy
