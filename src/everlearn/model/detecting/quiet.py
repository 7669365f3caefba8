"""Ultralytics is imported so that it keeps to itself: it writes nothing into the user's home, asks nobody on the
network, downloads nothing, installs nothing, prints nothing, and leaves the process as it was.

What it decides while it is imported, it reads from the environment and from its settings file. Both are given here. The
folder of its settings lives as long as the process; fonts for its pictures lie in it, so that it need not fetch them.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from everlearn.errors import NotInstalled

_LOGGER = logging.getLogger("everlearn.model.detecting")
_TRACKERS = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")
_PLACES = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "C:/Windows/Fonts")
_HANGUL = ("NanumGothic.ttf", "malgun.ttf", "NotoSansCJK-Regular.ttc", "AppleGothic.ttf")


@contextmanager
def importing() -> Iterator[None]:
    """Around the first import of ultralytics. Raises NotInstalled without it."""
    if find_spec("ultralytics") is None or find_spec("torch") is None:
        raise NotInstalled("Detection with YOLO needs Ultralytics (AGPL-3.0).", "pip install 'everlearn[yolo]'")
    if "ultralytics" in sys.modules:  # somebody's own: their settings hold, only its telemetry is switched off
        yield
        _silence()
        return
    import cv2
    import numpy as np
    import torch

    before = dict(os.environ)
    printing, saving, threads = np.get_printoptions(), torch.save, cv2.getNumThreads()
    os.environ |= {"YOLO_CONFIG_DIR": str(_folder()), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false",
                   "YOLO_VERBOSE": "false"}  # fmt: skip
    try:
        with warnings.catch_warnings():
            yield
    finally:
        np.set_printoptions(**printing)
        torch.set_printoptions(profile="default")  # type: ignore[no-untyped-call]
        torch.save = saving  # it puts its own in place
        cv2.setNumThreads(threads)
        for name in ("OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS", "TF_CPP_MIN_LOG_LEVEL", "TORCH_CPP_LOG_LEVEL",
                     "KINETO_LOG_LEVEL", "YOLO_VERBOSE"):  # fmt: skip
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
    _silence()


def _folder() -> Path:
    """Its private folder: settings that send nothing and track nothing, and fonts."""
    folder = Path(tempfile.mkdtemp(prefix="everlearn-yolo-"))
    atexit.register(_remove, folder, os.getpid())
    own = folder / "Ultralytics"
    own.mkdir()
    settings = {"sync": False, "vscode_msg": False, "openvino_msg": False, **dict.fromkeys(_TRACKERS, False)}
    places = {f"{one}_dir": str(folder / one) for one in ("datasets", "weights", "runs")}
    (own / "settings.json").write_text(json.dumps({**settings, **places}), encoding="utf-8")
    _fonts(own)
    _spare_home(folder)
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a worker that was forked
        shutil.rmtree(folder, ignore_errors=True)


def _fonts(own: Path) -> None:
    """Under the names that its pictures ask for: the font that comes with matplotlib, and for letters beyond ASCII one
    that has Hangul, where this machine has it."""
    spec = find_spec("matplotlib")
    home = Path(spec.origin).parent if spec is not None and spec.origin else Path()
    plain = home / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    wide = (path for place in _PLACES for name in _HANGUL for path in sorted(Path(place).rglob(name)))
    for name, font in (("Arial.ttf", plain), ("Arial.Unicode.ttf", next(wide, plain))):
        if font.is_file():
            shutil.copyfile(font, own / name)


def _spare_home(folder: Path) -> None:
    """Its pictures are drawn by matplotlib, which keeps a list of fonts in the home of whoever has none yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "matplotlib")
    if not cache.exists():
        os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))


def _silence() -> None:
    """Its log goes into ours, for those who look for details, and its telemetry has an end."""
    logger = logging.getLogger("ultralytics")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.addHandler(_Passed())
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    events = sys.modules.get("ultralytics.utils.events")
    if events is not None:
        events.events.enabled = False


class _Passed(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _LOGGER.debug("%s", record.getMessage().strip())


@contextmanager
def own_draws() -> Iterator[None]:
    """Whatever is drawn inside, and however exactly torch was told to compute, is as before afterwards."""
    import random

    import cv2
    import numpy as np
    import torch

    drawing, numbers, exact = random.getstate(), np.random.get_state(), torch.are_deterministic_algorithms_enabled()  # noqa: NPY002
    warning, threads = torch.is_deterministic_algorithms_warn_only_enabled(), cv2.getNumThreads()
    cv2.setNumThreads(0)  # its threads do not survive in processes that are forked
    devices = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            # letters that no font has, sums whose last bits differ on a GPU
            warnings.filterwarnings("ignore", category=UserWarning, module="ultralytics|torch|matplotlib")
            yield
    finally:
        random.setstate(drawing)
        np.random.set_state(numbers)  # noqa: NPY002
        torch.use_deterministic_algorithms(exact, warn_only=warning)
        cv2.setNumThreads(threads)


def wait_for_pictures() -> None:
    """Ultralytics draws its pictures in threads of their own: they are waited for."""
    for thread in threading.enumerate():
        work = getattr(thread, "_target", None)
        if getattr(work, "__module__", "").startswith("ultralytics"):
            thread.join()
