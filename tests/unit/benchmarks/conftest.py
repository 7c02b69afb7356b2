"""A results file as `make bench` writes it, made by hand."""

import pytest

from benchmarks.entries import Entry, Side, WordErrors


@pytest.fixture
def entry():
    """Return the function that makes an entry, with the fields that a test names."""

    def make(measure="engine_throughput", **fields):
        content = {
            "measure": measure,
            "value": 12.5,
            "unit": "x",
            "against": "a peer",
            "target": ">= 10",
            "met": True,
            "rounds": 2,
            "title": f"Title of {measure}",
            "how": "By hand.",
            "ours": Side(name="ours", value=25.0, rounds=[24.0, 26.0]),
            "theirs": Side(name="theirs", value=2.0, rounds=[2.0, 2.0]),
            "side_unit": "s of audio / s",
            "wer": WordErrors(ours=0.08, theirs=0.07, difference=0.01, low=-0.005, high=0.02, clips=190),
        }
        return Entry(**{**content, **fields})

    return make
