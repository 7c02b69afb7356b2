"""What users corrected, kept in a database until it is deleted: the service writes it, training reads it.

It knows neither HTTP nor models nor data sets, imports none of the other rooms, and decodes no audio: what it is given
as FLAC, it keeps.
"""

from corrections.store import (
    Correction,
    CorrectionsError,
    CorrectionStore,
    Counts,
    New,
    NewerDatabaseError,
    Page,
    Which,
)

__all__ = [
    "Correction",
    "CorrectionStore",
    "CorrectionsError",
    "Counts",
    "New",
    "NewerDatabaseError",
    "Page",
    "Which",
]
