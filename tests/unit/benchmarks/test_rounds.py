"""An interrupted benchmark goes on with the next round."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.bench import Bench
from benchmarks.rounds import Rounds
from training.shell import Shell


@pytest.fixture
def path(tmp_path):
    """Return where rounds are saved; its folder is not there yet."""
    return tmp_path / "bench" / "rounds.jsonl"


def bench(rounds):
    """Return what `Bench.interleave` needs of a bench."""
    return SimpleNamespace(rounds=rounds, shell=Shell())


def test_a_saved_round_is_there_for_the_next_process(path):
    """What was measured is on the disk when `add` returns."""
    Rounds(path, "key").add("speed", "ours", 0, {"seconds": 1.5})
    assert Rounds(path, "key").get("speed", "ours", 0) == {"seconds": 1.5}
    assert Rounds(path, "key").get("speed", "ours", 1) is None


def test_rounds_of_another_key_do_not_count(path):
    """Rounds of other code, another model or other clips are measured again."""
    Rounds(path, "old").add("speed", "ours", 0, {"seconds": 1.5})
    assert Rounds(path, "new").get("speed", "ours", 0) is None


def test_a_torn_line_costs_its_own_round_only(path):
    """A power cut in the middle of a line loses neither the rounds before nor those after it."""
    Rounds(path, "key").add("speed", "ours", 0, {"seconds": 1.0})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"key": "key", "measure": "speed", "contender": "ours", "ro')
    rounds = Rounds(path, "key")
    assert rounds.get("speed", "ours", 1) is None
    rounds.add("speed", "ours", 1, {"seconds": 2.0})
    again = Rounds(path, "key")
    assert [again.get("speed", "ours", i) for i in (0, 1)] == [{"seconds": 1.0}, {"seconds": 2.0}]


def test_rounds_are_interleaved(path):
    """Round 1 of all comes before round 2 of any, so that a slow minute is everyone's."""
    order = []
    contenders = {name: lambda name=name: order.append(name) or {"seconds": 1.0} for name in ("a", "b", "c")}
    Bench.interleave(bench(Rounds(path, "key")), "speed", 2, contenders)
    assert order == ["a", "b", "c", "a", "b", "c"]


def test_an_interrupted_measure_goes_on_where_it_was(path):
    """Ctrl-C in round 2 loses that round; the next call runs it and what follows, and nothing twice."""
    order = []

    def contender(name, fails_at=None):
        def run():
            order.append(name)
            if len(order) == fails_at:
                raise KeyboardInterrupt
            return {"seconds": float(len(order))}

        return run

    with pytest.raises(KeyboardInterrupt):
        Bench.interleave(bench(Rounds(path, "key")), "speed", 2, {"a": contender("a"), "b": contender("b", 4)})
    order.clear()
    done = Bench.interleave(bench(Rounds(path, "key")), "speed", 2, {"a": contender("a"), "b": contender("b")})
    assert order == ["b"]
    assert [one["seconds"] for one in done["a"]] == [1.0, 3.0]
    assert [one["seconds"] for one in done["b"]] == [2.0, 1.0]


def test_every_line_is_one_json_object(path):
    """The file can be read by anything that reads JSON lines."""
    rounds = Rounds(path, "key")
    rounds.add("speed", "ours", 0, {"texts": ["è\n"]})
    rounds.add("speed", "ours", 1, {"texts": []})
    assert [json.loads(line)["round"] for line in path.read_text(encoding="utf-8").splitlines()] == [0, 1]
