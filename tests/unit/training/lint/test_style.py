"""How the transcripts are written, beside how the base writes the same clips."""

from training.lint.style import check_style


def codes_of(data, answers):
    """Return the codes found."""
    return {one.code for one in check_style(data, answers)}


def test_the_bases_own_style_has_no_finding(clips, heard):
    """Transcripts as the base writes them: nothing to say."""
    data = clips(20)
    assert codes_of(data, {u.id: heard(u.text) for u in data}) == set()


def test_lower_case_without_punctuation_is_told(clips, heard):
    """A corpus of bare words would make the model forget capitals and full stops."""
    data = [u.model_copy(update={"text": u.text.lower().rstrip(".")}) for u in clips(20)]
    answers = {u.id: heard(u.text.capitalize() + ".") for u in data}
    assert codes_of(data, answers) == {"other_case", "other_punctuation"}


def test_a_style_that_the_transcripts_have_alone_is_told_too(clips, heard):
    """The base that writes no punctuation will be taught some."""
    data = clips(20)
    assert codes_of(data, {u.id: heard(u.text.rstrip(".")) for u in data}) == {"other_punctuation"}


def test_numbers_written_out_are_told(clips, utterance, heard):
    """Where the transcripts have words and the base digits, the model will learn words."""
    numbers = [utterance(f"n{i}", "Chiami il numero tre.") for i in range(12)]
    answers = {u.id: heard(u.text) for u in clips(20)} | {u.id: heard("Chiami il numero 3.") for u in numbers}
    assert codes_of([*clips(20), *numbers], answers) == {"other_numbers"}


def test_numbers_in_both_ways_are_told(clips, utterance, heard):
    """Half digits, half words: the model would learn to toss a coin."""
    texts = ["Chiami il numero tre.", "Chiami il numero 3."]
    numbers = [utterance(f"n{i}", texts[i % 2]) for i in range(24)]
    answers = {u.id: heard(u.text) for u in clips(20)} | {u.id: heard("Chiami il numero 3.") for u in numbers}
    assert "mixed_numbers" in codes_of([*clips(20), *numbers], answers)


def test_few_clips_say_nothing(clips, heard):
    """Shares of nine clips are chance."""
    data = clips(9)
    assert codes_of(data, {u.id: heard(u.text.lower().rstrip(".")) for u in data}) == set()


def test_clips_in_which_nothing_was_heard_are_left_out(clips, heard):
    """An empty hypothesis has no style."""
    data = clips(20)
    assert codes_of(data, {u.id: heard("") for u in data}) == set()
