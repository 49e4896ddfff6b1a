"""Questions that the training text has by heart are found."""

from question_texts import _standing


def test_what_the_training_text_says_is_found():
    known = ["The quick brown fox jumps over the lazy dog and then it sleeps for a day."]
    said = ["He saw: the lazy dog and then it sleeps for a day.", "A quick brown fox, lazy dog."]
    assert _standing([f"He {known[0]}", "A quick brown fox"], [known[0]]) == {f"He {known[0]}"}
    assert _standing(["then it sleeps", "then he"], known, whole=True) == {"then it sleeps"}
    assert _standing(said, known) == {said[0]}
