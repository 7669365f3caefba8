"""The contract of DESIGN section 6 for the commands about data: one JSON object, its keys, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from everlearn.cli.main import global_first, run
from tests.cli.command import Everlearn, ever, folders, picture, pixels

__all__ = ["ever"]

HEAVY = ("sqlalchemy", "scipy", "sklearn", "cv2", "onnxruntime", "numpy", "pyarrow", "matplotlib", "PIL")


@pytest.fixture
def labelled(ever: Everlearn, tmp_path: Path) -> Everlearn:
    ever.init()
    ever("collect", folders(tmp_path / "images", "ab", 5), "--labels-from", "folder")
    ever("validate")
    return ever


def test_every_command_has_its_keys(ever: Everlearn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", str(ever.workspace), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"workspace"}
    images = folders(tmp_path / "images", "ab", 5)
    said = ever("collect", images, "--labels-from", "folder")
    assert {"collected", "duplicates", "rejected"} <= set(said)
    assert (said["collected"], said["rejected"]) == (10, [])
    said = ever("validate")
    assert {"validated", "quarantined", "scores"} <= set(said)
    assert set(said["scores"]) == {"quality", "label_accuracy", "diversity", "class_balance"}
    assert said["scores"]["class_balance"] == 1.0
    said = ever("validate")
    assert said["validated"] == 0
    said = ever("data")
    assert set(said["counts"]) == {"new", "validated", "quarantined", "queued", "labelled", "learned", "forgotten"}
    (id, *_) = [one["sample"] for one in ever("data", "--status", "labelled")["samples"]]
    for words in (("label", id, "b"), ("label", "--undo", id), ("label", "--auto"), ("review",)):
        assert {"labelled", "queued"} <= set(ever(*words))
    assert {"augmented"} <= set(ever("augment", "--copies", 1))
    for words in (("build",), ("list",)):
        assert {"snapshot", "samples", "classes", "splits"} <= set(ever("dataset", *words))
    assert {"snapshot", "samples", "classes", "splits"} <= set(ever("dataset", "diff", 1, 1))
    said = ever("dataset", "export", tmp_path / "out", "--format", "csv")
    assert {"snapshot", "samples", "classes", "splits"} <= set(said)
    assert said["classes"] == ["a", "b"]


def test_a_picture_that_is_refused_comes_back_when_it_is_released(ever: Everlearn, tmp_path: Path) -> None:
    ever.init()
    blurred = tmp_path / "blurred.png"
    cv2.imwrite(str(blurred), cv2.GaussianBlur(pixels(1, 96, 3), (0, 0), 20))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    ever("collect", blurred, tmp_path / "broken.png")
    quarantined = ever("validate")["quarantined"]
    assert sum(quarantined.values()) == 2
    listed = {one["reason"]: one for one in ever("data", "--status", "quarantined")["samples"]}
    assert set(listed) == set(quarantined)
    (reason,) = set(listed) - {"truncated", "damaged"}
    assert listed[reason]["value"] < listed[reason]["limit"]
    assert ever("release", listed[reason]["sample"])["released"] == [listed[reason]["sample"]]
    assert ever("data")["counts"]["validated"] == 1
    ever("collect", blurred)
    again = ever("validate")
    assert (again["validated"], again["quarantined"]) == (0, {}), "it is not refused again"
    (broken,) = ever("data", "--status", "quarantined")["samples"]
    assert ever("release", broken["sample"], code=2)["error"]["code"] == "bad_input"
    assert ever("release", listed[reason]["sample"], code=2)["error"]["remedy"]


def test_a_near_duplicate_that_is_released_stays(ever: Everlearn, tmp_path: Path) -> None:
    ever.init()
    picture(tmp_path / "images" / "1.png", 1)
    brighter = np.clip(pixels(1).astype(int) + 6, 0, 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "images" / "2.png"), brighter)
    ever("collect", tmp_path / "images")
    assert ever("validate")["quarantined"] == {"near_duplicate": 1}
    (twin,) = ever("data", "--status", "quarantined")["samples"]
    ever("release", twin["sample"])
    ever("validate")
    assert twin["sample"] in {one["sample"] for one in ever("data", "--status", "validated")["samples"]}


@pytest.mark.parametrize(
    "words",
    [
        ["collect"],
        ["collect", "nowhere"],
        ["collect", "."],
        ["collect", ".", "--bogus"],
        ["collect", ".", "--labels-from", "magic"],
        ["collect", ".", "--pattern", "{label"],
        ["collect", ".", "--label", " "],
        ["bogus"],
        ["dataset"],
        ["dataset", "build"],
        ["dataset", "export", "out"],
        ["dataset", "diff", "1", "2"],
        ["data", "--status", "odd"],
        ["data", "--limit", "-1"],
        ["label"],
        ["label", "0"],
        ["label", "0", "a", "b"],
        ["label", "--undo", "00"],
        ["label", "--history", "xyz"],
        ["label", "00", "a", "--auto"],
        ["release"],
        ["release", "00"],
        ["release", "../x"],
        ["features", "--out", "x.txt"],
        ["init", "."],
        ["data", "-w"],
    ],
)
def test_errors_are_one_object_with_a_remedy(ever: Everlearn, tmp_path: Path, words: list[str]) -> None:
    ever.init()
    if words == ["collect", "."]:
        words = ["collect", str(tmp_path / "gone")]
    if words == ["init", "."]:
        words = ["init", str(ever.workspace)]
    said = ever(*words, code=2)
    assert set(said) == {"error"}
    assert set(said["error"]) == {"code", "message", "remedy"}
    assert said["error"]["message"]
    assert "\n" not in said["error"]["message"]
    assert said["error"]["remedy"]
    assert said["error"]["message"] in ever.stderr


def test_global_options_stand_anywhere() -> None:
    assert global_first(["data", "--json"]) == ["--json", "data"]
    assert global_first(["data", "-q", "-w", "x"]) == ["-q", "-w", "x", "data"]
    assert global_first(["data", "--workspace=x"]) == ["--workspace=x", "data"]
    assert global_first(["data", "-w./x"]) == ["-w./x", "data"]
    assert global_first(["label", "id", "--", "--json"]) == ["label", "id", "--", "--json"]
    assert global_first(["label", "id", "-5", "--json"]) == ["--json", "label", "id", "--", "-5"]
    assert global_first(["data", "-w"]) == ["-w"], "the option misses its value, not the verb"


def test_the_nearest_workspace_is_taken(
    labelled: Everlearn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(labelled.workspace / "new_data" / "validated")
    assert run(["data", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["labelled"] == 10
    monkeypatch.chdir(labelled.workspace.parent)
    assert run(["data", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "missing"


def test_help_is_light() -> None:
    """No library that takes long to load is loaded to print help."""
    program = (
        "import sys\nfrom everlearn.cli.main import run\n"
        "run(['--help']), run(['collect', '--help']), run(['dataset', 'build', '--help'])\n"
        f"sys.exit(' '.join(name for name in {HEAVY!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Exit codes" in done.stdout


def test_a_terminal_in_ascii_shows_korean_escaped(ever: Everlearn, tmp_path: Path) -> None:
    ever.init()
    picture(tmp_path / "1.png", 1)
    ever("collect", tmp_path / "1.png", "--label", "한국어 é 😀")
    ever("validate")
    for words in (["data", "--status", "labelled"], ["data", "--status", "labelled", "--json"]):
        done = subprocess.run(
            [sys.executable, "-c", "from everlearn.cli import main; main()", *words],
            cwd=ever.workspace, capture_output=True, check=False, env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        done.stdout.decode("ascii")
    assert json.loads(done.stdout)["samples"][0]["label"] == "한국어 é 😀"


# labels from


def _labels(ever: Everlearn) -> dict[str | None, int]:
    found: dict[str | None, int] = {}
    for status in ("labelled", "validated"):
        for one in ever("data", "--status", status, "--limit", 1000)["samples"]:
            found[one["label"]] = found.get(one["label"], 0) + 1
    return found


def _layout(root: Path, kind: str) -> list[Any]:
    """Three pictures of a cat and two of a dog, said as `kind` says it; the words that collect needs."""
    names = ["cat", "cat", "cat", "dog", "dog"]
    if kind == "folder":
        for n, name in enumerate(names):
            picture(root / name / f"{n}.png", n)
    elif kind == "filename":
        for n, name in enumerate(names):
            picture(root / f"{name}.{n}.png", n)
        return ["--pattern", "{label}.{n}.png"]
    else:
        for n in range(5):
            picture(root / "images" / f"{n}.png", n)
    if kind == "csv":
        rows = [f"images/{n}.png,{name}" for n, name in enumerate(names)]
        (root / "labels.csv").write_text("\n".join(["path,label", *rows]))
    if kind == "yolo":
        (root / "labels").mkdir()
        for n, name in enumerate(names):
            (root / "labels" / f"{n}.txt").write_text(f"{int(name == 'dog')} 0.5 0.5 1 1\n")
        (root / "data.yaml").write_text("names: [cat, dog]\n")
    if kind == "coco":
        (root / "annotations").mkdir()
        about = {
            "images": [{"id": n, "file_name": f"{n}.png", "width": 48, "height": 48} for n in range(5)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1 + (name == "dog"), "bbox": [0, 0, 48, 48]}
                for n, name in enumerate(names)
            ],
        }
        (root / "annotations" / "instances.json").write_text(json.dumps(about))
    if kind == "voc":
        (root / "images").rename(root / "JPEGImages")
        (root / "Annotations").mkdir()
        for n, name in enumerate(names):
            box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>48</xmax><ymax>48</ymax></bndbox>"
            (root / "Annotations" / f"{n}.xml").write_text(
                f"<annotation><filename>{n}.png</filename><size><width>48</width><height>48</height></size>"
                f"<object><name>{name}</name>{box}</object></annotation>"
            )
    return []


BELIEVED = "validate: {hold_suspects: false}\nlearn: {dimensions: 64}\n"
"""Five random pictures give no ground to doubt their labels on."""


@pytest.mark.parametrize("kind", ["folder", "filename", "csv", "yolo", "coco", "voc"])
def test_labels_from(ever: Everlearn, tmp_path: Path, kind: str) -> None:
    ever.init(settings=BELIEVED)
    words = _layout(tmp_path / "data", kind)
    said = ever("collect", tmp_path / "data", "--labels-from", kind, *words)
    assert (said["collected"], said["rejected"]) == (5, [])
    ever("validate")
    assert _labels(ever) == {"cat": 3, "dog": 2}


@pytest.mark.parametrize("kind", ["csv", "yolo", "coco", "voc"])
@pytest.mark.parametrize("how", ["none", "auto", "configured"])
def test_none_means_none_and_auto_looks(ever: Everlearn, tmp_path: Path, kind: str, how: str) -> None:
    ever.init(settings="collect: {labels_from: none}\n" if how == "configured" else BELIEVED)
    _layout(tmp_path / "data", kind)
    said = ever("collect", tmp_path / "data", *([] if how == "configured" else ["--labels-from", how]))
    assert said["collected"] == 5
    ever("validate")
    assert _labels(ever) == ({"cat": 3, "dog": 2} if how == "auto" else {None: 5})


def test_a_real_data_set_of_boxes(ever: Everlearn, shared: Path) -> None:
    ever.init()
    said = ever("collect", shared / "data" / "raccoon_voc", "--labels-from", "voc")
    assert said["collected"] > 100
    assert said["rejected"] == []


def test_frames_of_a_video_are_one_group(ever: Everlearn, tmp_path: Path) -> None:
    ever.init()
    film = cv2.VideoWriter(str(tmp_path / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 96))
    for n in range(40):
        film.write(pixels(n // 10, 96))
    film.release()
    said = ever("collect", tmp_path / "film.mp4", "--label", "door")
    assert said["collected"] == 4
    ever("validate")
    splits = ever("dataset", "build")["splits"]
    assert sorted(splits.values()) == [0, 0, 4]
    assert ever("collect", tmp_path / "film.mp4", "--label", "door")["collected"] == 0


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_of_features(ever: Everlearn, tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    ever.init("--backbone", "features", settings="backbone: features\nvalidate: {near_duplicates: false}\n")
    table = pa.table({"label": ["a", "b"] * 10, "x": np.arange(20.0), "y": np.arange(20.0)[::-1]})
    (pa.csv.write_csv if kind == "csv" else pa.parquet.write_table)(table, str(tmp_path / f"rows.{kind}"))
    assert ever("collect", tmp_path / f"rows.{kind}")["collected"] == 20
    assert ever("collect", tmp_path / f"rows.{kind}")["duplicates"] == 20
    assert ever("data")["counts"]["new"] == 20


def test_numbers_and_images_do_not_mix(ever: Everlearn, tmp_path: Path) -> None:
    """Once they were in, no turn and no forgetting could go on."""
    (tmp_path / "rows.csv").write_text("label,x,y\na,1,2\n")
    (tmp_path / "wide.csv").write_text(",".join(f"x{n}" for n in range(16385)) + "\n" + ",".join(["1"] * 16385))
    ever.init()
    assert "takes images" in ever("collect", tmp_path / "rows.csv", code=2)["error"]["message"]
    other = Everlearn(tmp_path / "other").init("--backbone", "features", settings="backbone: features\n")
    assert "no table" in other("collect", folders(tmp_path / "images", "a", 1), code=2)["error"]["message"]
    assert "16385 columns" in other("collect", tmp_path / "wide.csv", code=2)["error"]["message"]
    assert ever("data")["counts"]["new"] == other("data")["counts"]["new"] == 0


# labels by hand


def test_a_label_its_history_and_taking_it_back(labelled: Everlearn) -> None:
    ever = labelled
    id = next(one["sample"] for one in ever("data", "--status", "labelled")["samples"] if one["label"] == "a")
    assert ever("label", id[:10], "한국어")["labelled"] == 1
    history = ever("label", "--history", id)["history"]
    assert [(one["by"], one["label"]) for one in history] == [("folder", "a"), ("person", "한국어")]
    assert ever("label", "--undo", id)["label"] == "a"
    assert ever("label", "--history", id)["history"][1]["revoked"] is True
    for bad in (" ", "a\nb", "\x1b[31m"):
        assert ever("label", id, bad, code=2)["error"]["code"] == "bad_input"
    assert ever("label", id, "-5")["labelled"] == 1, "a number below 0 is no option"
    assert ever("label", id, "--aut", code=2)["error"]["code"] == "usage"


def test_an_augmented_copy_takes_no_label_of_its_own(labelled: Everlearn) -> None:
    ever = labelled
    ever("augment", "--copies", 1)
    from everlearn.catalog import samples
    from everlearn.workspace import Workspace

    with Workspace.open(ever.workspace).catalog.read() as tx:
        copy = next(one for batch in samples.batches(tx) for one in batch if one.parent_id)
    said = ever("label", copy.id, "b", code=2)["error"]
    assert copy.parent_id in said["message"]
    assert copy.parent_id in ever("label", "--undo", copy.id, code=2)["error"]["message"]


def test_numbers_are_kept_on_the_targets_step(ever: Everlearn, tmp_path: Path) -> None:
    ever.init(settings="task: regress\nlearn: {target: {low: -10, high: 10, step: 0.5}}\n")
    picture(tmp_path / "1.png", 1)
    ever("collect", tmp_path / "1.png", "--label", "1.26")
    ever("validate")
    (one,) = ever("data", "--status", "labelled")["samples"]
    assert one["label"] == "1.5"
    for bad in ("eleven", "11", "nan", "inf", "1e400"):
        assert ever("label", one["sample"], bad, code=2)["error"]["code"] == "bad_input"
    ever("label", one["sample"], "-5")
    assert ever("data", "--status", "labelled")["samples"][0]["label"] == "-5"
    said = ever("collect", tmp_path / "1.png", "--label", "11")
    assert said["refused"] == 1
    assert "learn.target" in said["rejected"][0]["reason"]


@pytest.mark.parametrize("backbone", ["resnet50", "onnx:", "timm:"])
def test_init_refuses_a_backbone_that_is_none(ever: Everlearn, backbone: str) -> None:
    assert run(["init", str(ever.workspace), "--backbone", backbone, "--json"]) == 2
    assert not ever.workspace.exists()


def test_what_a_recipe_does_to_images_is_shown_and_forgotten_with_them(labelled: Everlearn) -> None:
    said = labelled("augment", "--recipe", "five-stage")
    assert (said["augmented"], set(said["previews"])) == (
        0, {"augmentation", "regularization", "fine_tuning", "polishing"},  # the first stage changes nothing
    )  # fmt: skip
    files = [labelled.workspace / key for key in said["previews"].values()]
    assert all(cv2.imread(str(path)) is not None for path in files)
    assert list(labelled("augment", "--recipe", "five-stage", "--stage", "polishing")["previews"]) == ["polishing"]
    assert labelled("doctor")["mended"] == []  # a picture of samples is no stray sample
    assert all(path.is_file() for path in files)
    for words in (("--stage", "polishing"), ("--recipe", "five-stage", "--stage", "none"), ("--recipe", "none"),
                  ("--recipe", "five-stage", "--copies", 1)):  # fmt: skip
        labelled("augment", *words, code=2)
    labelled("forget", "--label", "a")
    assert not any(path.exists() for path in files)
