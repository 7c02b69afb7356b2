"""What became of every row of a data set: kept, faulty, or left out by its source's own rule.

It counts, refuses a data set with too many faulty rows, and writes itself as JSON. It drops nothing itself.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from registry.files import write_atomically
from training.data.manifest import Utterance

IDS_SHOWN = 5
"""Ids listed per reason in an error message: enough to look at, few enough to read."""


class TooManyDroppedError(ValueError):
    """So many rows are faulty that the data set, not the rows, is to be suspected."""


class Dropped(BaseModel):
    """A row that was left out.

    Attributes:
        id: the utterance's id, or the place where it is described when it has none.
        source: as in `Utterance`.
        reason: a code such as "missing_file".
        detail: one line for a human.
        by_source_rule: the source leaves such rows out by design; not a fault of the data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    source: str
    reason: str
    detail: str
    by_source_rule: bool = False


class Kept(BaseModel):
    """How much of one language and split was kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: int
    seconds: float


class DataReport(BaseModel):
    """The account of one data set.

    Attributes:
        kept: language → split ("unsplit" where there is none yet) → clips and seconds.
        faulty: reason → rows dropped for it.
        left_out: reason → rows left out by the source's own rule.
        dropped: all those rows, one by one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kept: dict[str, dict[str, Kept]]
    faulty: dict[str, int]
    left_out: dict[str, int]
    dropped: tuple[Dropped, ...]

    @classmethod
    def of(cls, utterances: Iterable[Utterance], dropped: Iterable[Dropped]) -> "DataReport":
        """Count what was kept and what was not."""
        durations: defaultdict[str, defaultdict[str, list[float]]]
        durations = defaultdict(lambda: defaultdict(list))
        for utterance in utterances:
            split = utterance.split or "unsplit"
            durations[utterance.language][split].append(utterance.audio.duration)
        dropped = tuple(dropped)
        return cls(
            kept={
                language: {
                    split: Kept(clips=len(seconds), seconds=round(sum(seconds), 3))
                    for split, seconds in sorted(splits.items())
                }
                for language, splits in sorted(durations.items())
            },
            faulty=_by_count(row.reason for row in dropped if not row.by_source_rule),
            left_out=_by_count(row.reason for row in dropped if row.by_source_rule),
            dropped=dropped,
        )

    @property
    def n_kept(self) -> int:
        """Clips kept, all languages and splits together."""
        return sum(kept.clips for splits in self.kept.values() for kept in splits.values())

    @property
    def n_faulty(self) -> int:
        """Rows dropped because something is wrong with them."""
        return sum(self.faulty.values())

    def check(self, name: str = "the data", limit: float = 0.05) -> None:
        """Refuse a data set of which more than `limit` is faulty, or of which nothing is left.

        Raises:
            TooManyDroppedError: with the counts per reason and the first ids of each.
        """
        if self.n_kept and self.n_faulty <= limit * (self.n_kept + self.n_faulty):
            return
        message = (
            f"{name}: {self.n_faulty} of {self.n_kept + self.n_faulty} rows cannot be used "
            f"(at most {limit:.0%} may be faulty, and at least one must be left)."
        )
        for reason, count in self.faulty.items():
            ids = [row.id for row in self.dropped if row.reason == reason and not row.by_source_rule]
            more = ", …" if count > IDS_SHOWN else ""
            message += f"\n  {reason}: {count} ({', '.join(ids[:IDS_SHOWN])}{more})"
        raise TooManyDroppedError(message)

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.model_dump_json(indent=2).encode() + b"\n")


def _by_count(reasons: Iterable[str]) -> dict[str, int]:
    """Count, the most frequent first, and by name among equals."""
    return dict(sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0])))
