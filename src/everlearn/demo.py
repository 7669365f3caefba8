"""The wheel on real handwritten digits, offline: three days with new classes, bad images and wrong labels; then one
class is forgotten, and the proof is checked.

The digits come with scikit-learn (UCI, 8x8 scans of real handwriting, enlarged). Beside each turn stands what the naive
way would have done: the same features and the same kind of head, trained by SGD on each day's data alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from everlearn import erasure, loop, stages
from everlearn.catalog import snapshots
from everlearn.config import Config
from everlearn.errors import BadInput
from everlearn.image import decode, encode_jpeg, encode_png
from everlearn.stages import standing
from everlearn.text import table
from everlearn.workspace import Workspace

if TYPE_CHECKING:
    from everlearn.turn import Turn
    from everlearn.types import Image, Progress

DAYS = {1: (0, 1, 2, 3, 4), 2: (5, 6, 7), 3: (8, 9)}
"""Classes that appear on each day."""
FORGOTTEN = "7"
MARK = ".everlearn-demo"


@dataclass(slots=True)
class Story:
    """What the demo showed."""

    workspace: Path
    turns: list[dict[str, Any]] = field(default_factory=list)
    report: str | None = None
    closing: list[str] = field(default_factory=list)


def play(folder: Path, console: Progress) -> Story:
    """Play the three days into `folder`, which is made anew where it is an earlier demo. Raises BadInput elsewhere."""
    folder = folder.absolute()
    if folder.exists() and not (folder / MARK).exists() and any(folder.iterdir()):
        raise BadInput(f"{folder} is not empty.", "Say where else: everlearn demo --dir DIR")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    workspace = Workspace.create(folder / "workspace", Config())
    story = Story(workspace.root)
    naive = Naive(workspace)
    for day in DAYS:
        _write_day(folder / f"day{day}", day)
        console.say(f"\nDay {day}: {_what_comes(day)}")
        turn = loop.turn(workspace, console, [str(folder / f"day{day}")], "folder")
        naive.learn(folder / f"day{day}", DAYS[day])
        story.turns.append(_told(turn, naive.accuracy()))
        for line in _page(turn, naive):
            console.say("  " + line)
        story.report = turn.to_json()["report"] or story.report
    _forget(workspace, console, story)
    story.closing = _closing(story)
    return story


def _what_comes(day: int) -> str:
    classes = ", ".join(map(str, DAYS[day]))
    return {
        1: f"the digits {classes} come in.",
        2: f"the new digits {classes}, and with them blurred, black, broken and duplicate images and wrong labels.",
        3: f"the last digits, {classes}.",
    }[day]


# the days


def _write_day(folder: Path, day: int) -> None:
    """Write a day's images as files: folder/LABEL/digit_0001.png."""
    rng = np.random.default_rng(day)
    for label, pictures in _digits(day).items():
        (folder / str(label)).mkdir(parents=True)
        for number, pixels in pictures:
            (folder / str(label) / f"digit_{number:04d}.png").write_bytes(encode_png(pixels))
    if day == 2:
        _spoil(folder, rng)


def _digits(day: int) -> dict[int, list[tuple[int, Image]]]:
    """The images of a day: all there are of its classes, and none of the others."""
    from sklearn.datasets import load_digits

    data = load_digits()
    rows = {label: np.flatnonzero(data.target == label) for label in DAYS[day]}
    return {label: [(int(row), _picture(data.images[row])) for row in own] for label, own in rows.items()}


def _picture(grey: np.ndarray) -> Image:
    """(8, 8) values 0-16 -> (24, 24, 3) uint8."""
    large = cv2.resize((grey * (255 / 16)).astype(np.float32), (24, 24), interpolation=cv2.INTER_CUBIC)
    return np.repeat(np.clip(large, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def _spoil(folder: Path, rng: np.random.Generator) -> None:
    """What real cameras and people add: blur, a covered lens, a broken transfer, copies, wrong labels."""
    files = sorted(folder.rglob("*.png"))
    chosen = [files[at] for at in rng.choice(len(files), 40, replace=False)]
    for path in chosen[:6]:
        blurred = cv2.GaussianBlur(decode(path.read_bytes()).pixels, (0, 0), 4).astype(np.uint8)
        path.with_name(f"blurred_{path.name}").write_bytes(encode_png(blurred))
    for number, path in enumerate(chosen[6:10]):
        path.with_name(f"black_{path.name}").write_bytes(encode_png(np.full((24, 24, 3), number, np.uint8)))
    for path in chosen[10:14]:
        path.with_name(f"broken_{path.name}").write_bytes(path.read_bytes()[:60])
    for path in chosen[14:20]:
        shutil.copyfile(path, path.with_name(f"copy_{path.name}"))
    for path in chosen[20:26]:
        path.with_name(f"again_{path.stem}.jpg").write_bytes(encode_jpeg(decode(path.read_bytes()).pixels, 92))
    for path in chosen[26:34]:  # people take one digit for another
        others = sorted({p.parent.name for p in files} - {path.parent.name})
        wrong = others[int(rng.integers(0, len(others)))]
        path.rename(folder / wrong / f"mislabelled_{path.name}")


# the naive way


class Naive:
    """The same features, and a linear head by SGD (scikit-learn's) on each day's images alone, without a memory."""

    def __init__(self, workspace: Workspace) -> None:
        from sklearn.linear_model import SGDClassifier

        self.workspace = workspace
        self.head = SGDClassifier(loss="log_loss", random_state=0)
        self.known = False

    def learn(self, folder: Path, classes: Sequence[int]) -> None:
        """Ten passes over a day's new training images, as they lie in the catalog."""
        members = [one for one in self._members() if one.split != "test" and self._of_day(one.id, folder)]
        if not members:
            return
        phi = self._phi([one.id for one in members])
        labels = np.array([one.label for one in members])
        rng = np.random.default_rng(0)
        for _ in range(10):
            order = rng.permutation(len(labels))
            self.head.partial_fit(phi[order], labels[order], classes=[str(n) for n in range(10)])
        self.known = True

    def accuracy(self) -> float | None:
        """On the test images of all classes seen so far."""
        members = [one for one in self._members() if one.split == "test"]
        if not members or not self.known:
            return None
        said = self.head.predict(self._phi([one.id for one in members]))
        return float(np.mean(said == np.array([one.label for one in members])))

    def _members(self) -> list[Any]:
        with self.workspace.catalog.read() as tx:
            newest = snapshots.latest(tx)
            return list(snapshots.members(tx, newest.number)) if newest else []

    def _of_day(self, id: str, folder: Path) -> bool:
        from everlearn.catalog import samples

        with self.workspace.catalog.read() as tx:
            return samples.get(tx, id).source == str(folder)

    def _phi(self, ids: Sequence[str]) -> np.ndarray:
        from everlearn.types import SILENT

        return standing.live(self.workspace).features.all(ids, SILENT).astype(np.float32) / 127


# what is shown


def _told(turn: Turn, naive: float | None) -> dict[str, Any]:
    return {**turn.to_json(), "naive_accuracy": naive}


def _page(turn: Turn, naive: Naive) -> list[str]:
    v = turn.to_json()
    refused = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in v["quarantined"].items())
    rows = [
        ["came in", f"{v['collected']} new images, {v['duplicates']} exact copies"],
        ["set aside", refused or "nothing"],
        ["to a person", f"{v['queued']} labels look wrong" if v["queued"] else "nothing"],
        ["data scores", ", ".join(f"{n.replace('_', ' ')} {s:.2f}" for n, s in v["scores"].items() if s is not None)],
        ["learned", f"{v['samples']} images" + (f" in {turn.learned.seconds:.1f} s" if turn.learned else "")],
        ["accuracy", _percent(v["accuracy"]) + " on held-out images of all digits so far"],
        ["forgotten", _points(v["forgetting"])],
        ["the naive way", _percent(naive.accuracy()) + " (SGD on this day's images alone)"],
        ["decision", f"{v['decision']}: {v['reason']}"],
    ]
    return table(rows)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _points(value: float | None) -> str:
    return "nothing to forget yet" if value is None else f"{100 * value:.1f} points of what older digits scored at best"


def _forget(workspace: Workspace, console: Progress, story: Story) -> None:
    console.say(f"\nThen everyone who wrote a {FORGOTTEN} asks to be forgotten:")
    gone = erasure.forget(workspace, erasure.Selection(label=FORGOTTEN), console)
    proof = erasure.verify(workspace, gone.certificate, console, from_images=True)
    again = stages.collect(workspace, [str(workspace.root.parent / "day2")], console, labels_from="folder")
    rows = [
        ["erased", f"{gone.forgotten} samples: images, features, sums, reports, and the models that knew them"],
        ["memory", f"{(gone.before or '')[:16]}… → {(gone.after or '')[:16]}…"],
        *[["", note] for note in gone.notes],
        ["proof", f"{gone.certificate.name}: {'holds' if proof.verified else 'DOES NOT HOLD'}"],
        ["collect again", f"{again.suppressed} of them are recognised and stay out"],
    ]
    for line in table(rows):
        console.say("  " + line)
    story.turns.append({"forgotten": gone.forgotten, "verified": proof.verified, "suppressed": again.suppressed})
    with workspace.catalog.read() as tx:
        from everlearn.catalog import versions

        newest = versions.newest(tx)
        done = versions.evaluations(tx, newest.name) if newest else []
    if done:
        story.report = str(workspace.root / done[-1]["report_key"])


def _closing(story: Story) -> list[str]:
    days: list[Mapping[str, Any]] = [turn for turn in story.turns if "accuracy" in turn]
    rows = [
        [f"day {n}", _percent(day["accuracy"]), _percent(day["naive_accuracy"]), day["decision"]]
        for n, day in enumerate(days, 1)
    ]
    return [
        "",
        *table(rows, ["", "Everlearn", "naive SGD", "decision"]),
        "",
        f"The report of the newest model: {story.report}",
        f"Go on from here: everlearn -w {story.workspace} status",
        "Your own images:  everlearn init my",
        "                  everlearn -w my run PHOTOS --labels-from folder",
    ]
