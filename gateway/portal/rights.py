"""What may a person ask for, in words that they would use themselves? One entry per right of the vocabulary."""

from typing import NamedTuple

from gateway.portal.languages import mark
from shared.vocabulary import Right


class RightWords(NamedTuple):
    """All marked for the catalogue."""

    title: str
    summary: str
    article: str
    hint: str
    """What is good to write in the message."""


RIGHTS: dict[Right, RightWords] = {
    Right.ACCESS: RightWords(
        mark("See your data"),
        mark("Find out whether we hold data about you, what we use it for, and get a copy."),
        mark("access, Article 15"),
        mark(
            "If you are after something particular, write what and from when. "
            "You will get everything if you write nothing."
        ),
    ),
    Right.RECTIFICATION: RightWords(
        mark("Have something corrected"),
        mark("Have data corrected that is wrong, or completed where something is missing."),
        mark("rectification, Article 16"),
        mark("Write what is wrong, and what it should say instead."),
    ),
    Right.ERASURE: RightWords(
        mark("Have your data deleted"),
        mark("Ask us to delete what we no longer have a reason to keep."),
        mark("erasure, Article 17"),
        mark("Write what we should delete. Write “everything” if that is what you want."),
    ),
    Right.RESTRICTION: RightWords(
        mark("Pause the use of your data"),
        mark("Ask us to keep your data but not use it, for example while an error is looked into."),
        mark("restriction, Article 18"),
        mark("Write what we should stop using, and why."),
    ),
    Right.PORTABILITY: RightWords(
        mark("Take your data with you"),
        mark("Get the data that you gave us yourself, in a format that another company can read."),
        mark("data portability, Article 20"),
        mark("You do not have to write anything here."),
    ),
    Right.OBJECTION: RightWords(
        mark("Object to a use of your data"),
        mark("Say no to something that we use your data for, because of your own situation."),
        mark("objection, Article 21(1)"),
        mark("Write what you object to, and what in your situation makes it a problem for you."),
    ),
    Right.MARKETING_OBJECTION: RightWords(
        mark("Say no to marketing"),
        mark("Say no to our use of your data for marketing. It takes effect at once, and you need give no reason."),
        mark("objection to marketing, Article 21(2)"),
        mark("You do not have to write anything here."),
    ),
    Right.CONSENT_WITHDRAWAL: RightWords(
        mark("Withdraw a consent"),
        mark("You can withdraw a consent at any time. It takes effect at once."),
        mark("withdrawal of consent, Article 7(3)"),
        mark("Write which consent it is, for example the newsletter."),
    ),
    Right.HUMAN_REVIEW: RightWords(
        mark("Have a person look at a decision"),
        mark("Ask a person to go over a decision about you that a computer made on its own."),
        mark("automated decisions, Article 22"),
        mark("Write which decision it is, and what you think about it."),
    ),
}
