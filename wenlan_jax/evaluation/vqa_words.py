"""The tables of the VQA evaluation: punctuation, number words, articles, contractions.

They are those of the evaluation's own code (GT-Vision-Lab/VQA, version 2.0) and are kept with their faults: two
entries change nothing, one goes the wrong way, and those with a capital are never met, for answers are in lower
case by then. Correcting them would change published figures.
"""

from __future__ import annotations

PUNCTUATION = (*';/[]"{}()=+\\_->', "<", "@", "`", ",", "?", "!")
"""Removed, or replaced by a space, in this order. Neither the full stop, the colon nor the apostrophe is among them."""

NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}

ARTICLES = frozenset({"a", "an", "the"})

_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
    they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    y'all'd've you'd you'd've you'll you're you've
"""

_FAULTS = {"let's": "let's", "she's": "she's", "somebody'd": "somebodyd"}


def _one_apostrophe_short(word: str) -> list[str]:
    """`word` without one of its apostrophes, for each of them: the misspellings that the table knows."""
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {wrong: word for word in _CONTRACTED.split() for wrong in _one_apostrophe_short(word)} | _FAULTS
"""A word without one of its apostrophes -> the word; 120 entries."""
