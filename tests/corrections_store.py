"""What a database of corrections promises, whichever it is: run on SQLite (unit tier) and PostgreSQL (integration)."""

import threading

import pytest

from corrections import Which


class StorePromises:
    """Tests that take `store`, an empty database, and `new`, which makes corrections."""

    def test_what_was_kept_comes_back(self, store, new):
        """All of it, and its audio byte by byte."""
        given = new(1, speaker="Anna")
        row, is_new = store.add(given, 100.0, key="app")
        assert is_new
        found = store.get(row.id)
        for name in ("seconds", "language", "hypothesis", "correction", "model", "speaker"):
            assert getattr(found, name) == getattr(given, name)
        assert (found.key, found.created_at, found.updated_at, found.consented_at) == ("app", 100.0, 100.0, 100.0)
        assert store.audio(row.id) == given.audio

    def test_a_clip_is_kept_once_a_key(self, store, new):
        """The newest correction takes the place of the last; another key's is its own."""
        first, _ = store.add(new(1, correction="uno"), 1.0, key="a")
        second, is_new = store.add(new(1, correction="due", language="ru", audio=b"other bytes"), 2.0, key="a")
        assert (second.id, is_new) == (first.id, False)
        kept = store.get(first.id)
        assert (kept.correction, kept.language, kept.created_at, kept.updated_at) == ("due", "ru", 1.0, 2.0)
        assert store.add(new(1), 3.0, key="b")[1]
        assert store.count().clips == 2

    def test_pages_are_the_newest_first(self, store, new):
        """Each correction is on one page, and the last page says that it is."""
        ids = [store.add(new(i), float(i))[0].id for i in range(5)]
        first = store.list(limit=2)
        second = store.list(limit=2, after=first.items[-1].id)
        third = store.list(limit=2, after=second.items[-1].id)
        assert [row.id for page in (first, second, third) for row in page.items] == ids[::-1]
        assert [page.has_more for page in (first, second, third)] == [True, True, False]

    def test_conditions_narrow_everything_down(self, store, new):
        """By key, language, model and time, in lists, counts, single rows and deletion."""
        mine, _ = store.add(new(1), 1.0, key="a")
        other, _ = store.add(new(2, language="ru", model="whisper@2"), 2.0, key="b")
        for which in (Which(key="a"), Which(language="it"), Which(model="whisper@1"), Which(before=2.0)):
            assert [row.id for row in store.list(which).items] == [mine.id]
            assert store.count(which).by_language == {"it": 1}
            assert store.get(other.id, which) is None
            assert not store.delete(other.id, which)
        assert [row.id for row in store.list(Which(since=2.0)).items] == [other.id]
        assert store.count().clips == 2

    def test_what_is_deleted_is_gone(self, store, new):
        """By id, by key and by age; the second time there is nothing to delete."""
        rows = [store.add(new(i), float(i), key="ab"[i % 2])[0] for i in range(6)]
        assert store.delete(rows[0].id)
        assert not store.delete(rows[0].id)
        assert store.get(rows[0].id) is None
        assert store.audio(rows[0].id) is None
        assert store.delete_all(Which(key="b")) == 3
        assert store.delete_all(Which(before=4.0)) == 1
        assert [row.id for row in store.list().items] == [rows[4].id]
        assert store.count().clips == 1

    def test_all_come_with_their_audio_the_oldest_first(self, store, new):
        """However many: they are read some at a time."""
        given = [new(i) for i in range(70)]
        for i, one in enumerate(given):
            store.add(one, float(i))
        assert [row.audio for row in store.all()] == [one.audio for one in given]

    def test_counts_are_sums(self, store, new):
        """Clips, seconds, bytes, and clips of each language; nothing of an empty database."""
        assert store.count().clips == store.count().bytes == 0
        given = [new(1), new(2), new(3, language="ru")]
        for one in given:
            store.add(one, 1.0)
        counts = store.count()
        assert (counts.clips, counts.by_language) == (3, {"it": 2, "ru": 1})
        assert counts.seconds == pytest.approx(sum(one.seconds for one in given))
        assert counts.bytes == sum(len(one.audio) for one in given)

    def test_two_who_send_one_clip_at_once_make_one_row(self, store, new):
        """Neither of them gets an error, and one of the two texts is there whole."""
        barrier, answers = threading.Barrier(8), []

        def send(i):
            barrier.wait()
            answers.append(store.add(new(1, correction=f"testo {i}"), float(i)))

        threads = [threading.Thread(target=send, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 8
        assert sum(is_new for _, is_new in answers) == 1
        assert store.count().clips == 1
        assert store.list().items[0].correction in {f"testo {i}" for i in range(8)}
