"""Where data sets are from, as far as they say so themselves: name, version, licence and address, by the source that
was given to collect."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from everlearn.catalog import turns
from everlearn.catalog.tables import sample

_KEPT = "origins"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a data set says of itself; None where it says nothing."""

    name: str | None = None
    version: str | None = None
    licence: str | None = None
    url: str | None = None

    def __bool__(self) -> bool:
        return any(asdict(self).values())


def together(given: Iterable[Origin]) -> Origin:
    """One of several parts of a data set: what differs stands beside each other."""
    parts = list(given)

    def all_of(field: str) -> str | None:
        return ", ".join(sorted({value for one in parts if (value := getattr(one, field))})) or None

    return Origin(*(all_of(field) for field in ("name", "version", "licence", "url")))


def keep(tx: Connection, source: str, origin: Origin) -> None:
    """Remember what a source says of itself; the newest word holds."""
    kept = turns.setting_of(tx, _KEPT, {})
    if kept.get(source) != asdict(origin):
        turns.set_to(tx, _KEPT, {**kept, source: asdict(origin)})


def clear(tx: Connection) -> None:
    """Forget sources that no sample is from any more."""
    kept, there = turns.setting_of(tx, _KEPT, {}), counts(tx)
    if any(source not in there for source in kept):
        turns.set_to(tx, _KEPT, {source: said for source, said in kept.items() if source in there})


def every(tx: Connection) -> dict[str, Origin]:
    """Source to what it says of itself."""
    return {source: Origin(**said) for source, said in sorted(turns.setting_of(tx, _KEPT, {}).items())}


def licences(tx: Connection) -> list[str]:
    """The licences of all that samples are from, as far as it is said."""
    there = counts(tx)
    return sorted({said.licence for source, said in every(tx).items() if said.licence and source in there})


def counts(tx: Connection) -> dict[str, int]:
    """Source to the number of samples that are from it, augmented copies left out."""
    query = sa.select(sample.c.source, sa.func.count()).where(sample.c.parent_id.is_(None)).group_by(sample.c.source)
    return {row[0]: row[1] for row in sorted(tx.execute(query).all())}
