"""Files of a network in training: whole or not there, and read without running anything that lies in them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from everlearn.errors import Corrupt, Missing, StoreFault
from everlearn.workspace import write_whole

FORMAT = "everlearn training 1"


def save(path: Path, values: dict[str, Any]) -> None:
    """Tensors and plain values. Raises StoreFault where the disk refuses; what was there before then still is."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreFault(f"{path.parent} cannot be made: {error.strerror}.", "Is the disk full or read-only?") from None
    write_whole(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote. Raises Missing, Corrupt; never unpickles objects (`weights_only`)."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Missing(f"There is no {path}.", "See: everlearn models") from None
    except pickle.UnpicklingError:
        raise Corrupt(
            f"{path} holds more than tensors and plain values, or is damaged. It was not opened.",
            "Do not trust it; a stage that Everlearn trained holds nothing else.",
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise Corrupt(f"{path} cannot be read: {said[0][:200]}", "Is it a stage that Everlearn trained?") from None
    if not isinstance(found, dict):
        raise Corrupt(f"{path} holds a {type(found).__name__}, not a training's state.", "Name a stage's file.")
    return found


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """What differs between two nested settings, a line each: `stages.0.epochs: 10, now 20`."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*before, *(name for name in now if name not in before)]
        inside = (
            differences(before.get(name), now.get(name), f"{where}.{name}" if where else str(name)) for name in names
        )
        return [line for lines in inside for line in lines]
    if isinstance(before, list | tuple) and isinstance(now, list | tuple) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [line for place, (a, b) in pairs for line in differences(a, b, f"{where}.{place}")]
    return [] if before == now else [f"{where}: {_short(before)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
