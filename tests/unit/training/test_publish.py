"""What decides how a version is served."""

import pytest

from training.publish import MAX_ELASTIC_LOSS, MIN_EVIDENCE_CLIPS, earns_elastic


@pytest.mark.parametrize(
    ("clips", "upper_bound", "earned"),
    [
        (MIN_EVIDENCE_CLIPS, MAX_ELASTIC_LOSS, True),
        (MIN_EVIDENCE_CLIPS, -0.05, True),
        (MIN_EVIDENCE_CLIPS - 1, -0.05, False),
        (2, 0.0, False),
        (1000, MAX_ELASTIC_LOSS + 0.001, False),
    ],
)
def test_elastic_must_be_earned(clips, upper_bound, earned):
    """Too few clips show nothing, however good they look; enough of them must show that little is lost."""
    assert earns_elastic(clips, upper_bound) is earned
