"""A version in the form that another program takes: its bundle, its weights for torch or Keras, a copy in int8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from everlearn import registry
from everlearn.catalog import samples, snapshots
from everlearn.errors import BadInput, Missing
from everlearn.stages import answering, prove, standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlearn.catalog.versions import Version
    from everlearn.learn.live import LiveMemory
    from everlearn.model.bundle import OnnxModel
    from everlearn.model.detecting.optimise import Measured
    from everlearn.model.network_bundle import Trained
    from everlearn.model.quantised import Cost
    from everlearn.types import Image, Progress
    from everlearn.workspace import Workspace

Form = Literal["onnx", "pt", "h5"]
FORMS: tuple[str, ...] = get_args(Form)
JUDGED = 1000
"""Test images that int8 is judged on, at most."""


@dataclass(frozen=True)
class Exported:
    """int8: what it costs and gives, where it was asked for. forms: the same of a detector, which may be `half` too."""

    version: Version
    files: list[Path]
    int8: Cost | None = None
    forms: Sequence[Measured] = ()

    def lines(self) -> list[str]:
        lines, found = [str(path) for path in self.files], self.int8
        if self.forms:
            from everlearn.model.detecting import optimise

            lines += optimise.lines(self.forms)
        if found is None:
            return lines
        lines.append(
            f"int8: {found.bytes_int8 / 1e6:.2f} MB instead of {found.bytes / 1e6:.2f}, {found.speed:.1f} times as "
            f"fast on this machine; {found.agreement:.1%} of {found.images} test images are answered alike"
        )
        if found.accuracy is not None and found.accuracy_int8 is not None:
            lines.append(f"accuracy {found.accuracy:.4f} in float32, {found.accuracy_int8:.4f} in int8")
        if found.speed < 1:
            lines.append("It is slower here than float32, which is the better file for this machine.")
        return lines


def export(
    workspace: Workspace, model: str | None, out: Path, progress: Progress, *,
    sums: bool = False, form: str = "onnx", int8: bool = False, half: bool = False,
) -> Exported:  # fmt: skip
    """Write a version to a folder: its whole bundle, or a network's weights alone as .pt or .h5.

    sums: also the exact memory as it stood then. int8: also a smaller copy of a network's or a detector's ONNX file,
    judged on the test side beside it; half: of a detector's, in float16.

    Raises BadInput for what this version has not, Missing for a retired one, NotInstalled for .h5 without Keras, TooFew
    where int8 cannot be judged, StoreFault.
    """
    if form not in FORMS:
        raise BadInput(f"--format {form} is unknown.", f"Choose {', '.join(FORMS)}.")
    if form != "onnx" and (sums or int8 or half):
        raise BadInput(
            f"--format {form} is a network's weights alone.", "Leave --sums, --half and --int8 to --format onnx."
        )
    detects = workspace.config.task == "detect"
    if half and not detects:
        raise BadInput("--half is for detectors.", "Use --int8: it makes a network's file a quarter of its size.")
    version = answering.registered(workspace, model)
    stem = out.expanduser().resolve() / version.key.rpartition("/")[2].removesuffix(".onnx")
    if form != "onnx":
        return Exported(version, [_weights(workspace, version, stem, form)])
    if int8 and not detects:
        _trained(workspace, version)  # before anything is written
    memory = _memory_of(workspace, version, progress) if sums else None
    files, cost = registry.export(workspace, version, out), None
    if memory is not None:
        files.append(stem.with_name(stem.name + ".sums"))
        memory.memory.save(files[-1], {"version": version.name, "digest": version.memory_digest})
    if detects and (int8 or half):
        from everlearn.stages.detecting.optimising import smaller

        wanted = [name for name, said in (("half", half), ("int8", int8)) if said]
        made, forms = smaller(workspace, version, prove.test_side(workspace), stem, wanted, progress)
        return Exported(version, files + made, forms=forms)
    if int8:
        files.append(stem.with_name(stem.name + ".int8.onnx"))
        cost = _int8(workspace, version, files[-1], progress)
    return Exported(version, files, cost)


def _weights(workspace: Workspace, version: Version, stem: Path, form: str) -> Path:
    from everlearn.model import bundle

    trained, data = _trained(workspace, version)
    path = stem.with_name(f"{stem.name}.{form}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "pt":
        bundle.write(path, data)
    else:
        from everlearn.model.network_keras import export_h5

        export_h5(trained, path, card=registry.card(workspace, version))
    return path


def _trained(workspace: Workspace, version: Version) -> tuple[Trained, bytes]:
    """A version's network, and the file that holds it."""
    if version.retired:
        raise Missing(f"The files of {version.name} are gone: it was retired.", "See: everlearn history")
    from everlearn.model.network_bundle import WEIGHTS, load_weights

    try:
        data = registry.bundle_file(workspace, version, WEIGHTS)
    except Missing:
        raise BadInput(
            f"{version.name} ({version.learner}) is no trained network.",
            "Export it as onnx without --int8; networks come of: everlearn train",
        ) from None
    return load_weights(data, base=workspace.root), data


def _int8(workspace: Workspace, version: Version, path: Path, progress: Progress) -> Cost:
    """Ranges from the images that it learned from, judged on those that it did not."""
    from everlearn.model import bundle
    from everlearn.model.quantised import CALIBRATION, cost, quantise

    before = registry.bundle_file(workspace, version, ".onnx")
    model = bundle.OnnxModel(before)
    test = _spread(prove.test_side(workspace), JUDGED)
    with workspace.catalog.read() as tx:
        members = [one.id for one in snapshots.members(tx, version.snapshot or 0) if one.split != "test"]
        members = _spread(sorted(samples.some(tx, members)), CALIBRATION)
    progress.say(f"int8: ranges from {len(members)} images, judged on {len(test)}")
    after = quantise(before, _images(workspace, model, members))
    labels = [one.label for one in test] if model.classes else None
    found = cost(before, after, _images(workspace, model, [one.id for one in test]), labels)
    bundle.write(path, after)
    return found


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """So many of them, evenly."""
    return list(items) if len(items) <= most else [items[at * len(items) // most] for at in range(most)]


def _images(workspace: Workspace, model: OnnxModel, ids: Sequence[str]) -> list[Image]:
    from everlearn.learn.features import images

    return images(workspace, ids, lambda one: model.prepare([one])[0])


def _memory_of(workspace: Workspace, version: Version, progress: Progress) -> LiveMemory:
    """The memory as it stood at a version: the live one brought there, in this process only."""
    if version.memory_digest is None:
        raise BadInput(f"{version.name} ({version.learner}) holds no sums.", "Export it without --sums.")
    memory = standing.live(workspace)
    with workspace.catalog.read() as tx:
        members = list(snapshots.members(tx, version.snapshot or 0))
    memory.bring_to(members, progress)
    if memory.memory.digest() != version.memory_digest:
        raise BadInput(f"The memory of {version.name} cannot be had any more.", "Samples of it were forgotten since.")
    return memory
