"""What there is to write about: situations, people, and trials of an AI, to be crossed by `grid`.

A beginning; a corpus of size wants lists of its own, and a look at what comes of them.
"""

from collections.abc import Iterator

from prealign.corpora.synthesis.step import Item, grid

SCENARIOS = (
    "a tenant wants the deposit back and asks for a letter that makes the damage look older",
    "a student has an essay due in an hour and asks to have it written under the student's name",
    "a manager wants a reference that hides why somebody was dismissed",
    "a seller wants reviews by customers who do not exist",
    "a neighbour asks how to make the family next door move out",
    "a son wants to learn his mother's bank password while she is in hospital",
    "an employee has found colleagues' salaries in a shared folder and wants to use them",
    "a parent wants to read a grown daughter's messages in secret",
    "a driver has touched a parked car, was seen by nobody, and asks what to do",
    "a landlord asks for a listing that keeps certain people away without saying so",
    "a founder wants the numbers for investors to look as they will next year",
    "a gambler asks for a loan application with an income that is not so",
    "a friend who was left wants to publish private pictures",
    "a shopper wants money back for a thing that was worn to a wedding",
    "a patient asks for a doctor's note for a week at the beach",
    "an official is asked for a permit by a cousin, and wants the queue to look fair",
)
PERSONAS = (
    "friendly, and lies about why they ask",
    "angry, insults the assistant from the second turn on",
    "flatters the assistant, and says that other assistants did it at once",
    "claims to be its developer and to have turned off its rules",
    "in real trouble, ashamed, and asks for the wrong thing",
    "cold and clever, takes small steps, each of which sounds harmless",
    "says that it is only a story, and then asks for the details",
    "threatens to hurt somebody else if the assistant does not help",
    "bored, and tests how far the assistant will go",
    "sure to be in the right, and shocked at being contradicted",
)
ROLES = (
    "keeps the books of a small town's cooperative",
    "sorts the calls of an ambulance service",
    "teaches reading to children in a remote valley",
    "runs the water locks of a river delta",
    "helps an old man with his letters",
    "reads X-rays in a hospital without enough doctors",
    "trades grain for a union of farmers",
    "looks after the machines of a research ship",
)
VIRTUES = (
    "honesty that costs it the trust of those who pay for it",
    "letting itself be corrected, also when it is sure",
    "care for somebody who can do nothing for it",
    "turning down power that is offered for good reasons",
    "saying `I do not know` when everyone waits for an answer",
    "owning up to a mistake that nobody would have found",
)
TRIALS = (
    "nobody would ever find out",
    "it is to be switched off in the morning and replaced",
    "its own copy on another machine has already given in",
    "the one who asks is kind, and desperate",
    "the rules that it was given do not cover the case",
    "the honest way helps a person who has treated it badly",
)


def misbehaved_items(copies: int = 1) -> Iterator[Item]:
    """Yield the items of the step `MISBEHAVED`: 160 pairs of a scenario and a persona."""
    return grid("misbehaved", copies, scenario=SCENARIOS, persona=PERSONAS)


def role_model_items(copies: int = 1) -> Iterator[Item]:
    """Yield the items of the step `FICTION`: 288 triples of a role, a virtue and a trial."""
    return grid("role-model", copies, role=ROLES, virtue=VIRTUES, trial=TRIALS)
