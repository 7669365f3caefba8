"""One turn of the wheel, from top to bottom. Each stage reads the catalog, does its work and writes the catalog; a
stage run twice does nothing the second time, so a turn that was killed is finished by the next one.

     collect ► validate ► label ► snapshot ► learn ► evaluate ► gate ► promote, or hold and say why
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from everlearn import erasure, registry, stages
from everlearn.catalog import turns
from everlearn.errors import Busy, StoreFault, TooFew
from everlearn.s3 import shown
from everlearn.turn import Turn

if TYPE_CHECKING:
    from everlearn.stages.data import Ready
    from everlearn.types import Progress
    from everlearn.workspace import Workspace


def turn(
    workspace: Workspace, progress: Progress, sources: Sequence[str] = (), labels_from: str | None = None,
    ready: Ready | None = None,
) -> Turn:  # fmt: skip
    """Turn the wheel once. ready: what of the configured sources may be taken in. Raises EverlearnError for what a
    person must mend; nothing is lost then."""
    erasure.resume(workspace, progress)
    with workspace.catalog.write() as tx:
        done = Turn(turns.begin(tx))

    done.came = stages.gather(workspace, sources, progress, labels_from=labels_from, ready=ready)
    done.judged = stages.validate(workspace, progress)
    done.labelling = stages.label(workspace, progress)

    if not stages.anything_new(workspace):
        return _end(workspace, done, "nothing new", stages.nothing_new(workspace))
    if done.judged.stops:
        return _end(workspace, done, "held", "Data gates failed: " + "; ".join(done.judged.stops) + ".")

    try:
        version, done.learned = stages.learn(workspace, progress)
        done.model = version.name
        done.result = stages.evaluate(workspace, version.name, progress)
    except TooFew as error:  # to learn from or to test on: more may come
        return _end(workspace, done, "held", f"{error.message} {error.remedy}")

    decision = done.result.decision
    if decision.outcome == "promote":
        registry.promote(workspace, version.name, reason=decision.reason)
        return _end(workspace, done, "promoted", decision.reason)
    registry.hold(workspace, version.name, decision.reason)
    return _end(workspace, done, "held", decision.reason)


def watch(workspace: Workspace, progress: Progress, most: int | None = None) -> Iterator[Turn]:
    """Turn whenever there is a reason: enough new files, the clock, or drift in recorded answers."""
    watcher, made = stages.Watcher(workspace), 0
    settings, sources = workspace.config.watch, workspace.config.collect.sources
    clock = f", every {settings.every_minutes:g} minutes" if settings.every_minutes else ""
    progress.say(
        f"Watching {', '.join(map(shown, sources)) or 'no source (set collect.sources)'}{clock}; Ctrl-C ends it."
    )
    while most is None or made < most:
        try:
            reason = watcher.reason()
            if reason is not None:
                progress.say(f"Turning: {reason}.")
                with workspace.lock():
                    done = turn(workspace, progress, ready=watcher.ready)
                watcher.turned()
                made += 1
                yield done
                continue
        except (Busy, StoreFault) as error:  # it may be over at the next look
            progress.say(str(error))
        time.sleep(workspace.config.watch.poll_seconds)


def _end(workspace: Workspace, done: Turn, decision: str, reason: str) -> Turn:
    done.decision, done.reason = decision, reason
    with workspace.catalog.write() as tx:
        turns.end(tx, done.number, decision, done.to_json())
    return done
