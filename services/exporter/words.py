"""What do codes mean to the person who reads them? Reasons, states and legal terms in Danish and English.

Every sentence here is said in letters: it promises nothing that the register or the case does not hold.
"""

from datetime import date

from babel import Locale
from babel.dates import format_date

from shared.messages import was_searched
from shared.register import Entity, FieldRule, Text
from shared.vocabulary import Language, LegalBasis, Provided, TaskState


def _t(da: str, en: str) -> Text:
    return Text(da=da, en=en)


REASONS: dict[str, tuple[Text, Text]] = {
    "habeas:A15-4-third-party": (
        _t(
            "Oplysningerne handler også om en anden person, hvis rettigheder vejer tungere.",
            "The data are also about somebody else, whose rights weigh more.",
        ),
        _t("artikel 15, stk. 4", "Article 15(4)"),
    ),
    "habeas:A15-4-trade-secret": (
        _t("De ville røbe en forretningshemmelighed.", "They would reveal a trade secret."),
        _t("artikel 15, stk. 4", "Article 15(4)"),
    ),
    "habeas:A15-4-ipr": (
        _t(
            "De er beskyttet af ophavsret eller en lignende ret.", "They are protected by copyright or a similar right."
        ),
        _t("artikel 15, stk. 4", "Article 15(4)"),
    ),
    "habeas:DK-DBL-22-1": (
        _t(
            "Afgørende private hensyn, måske til dig selv, vejer tungere end din interesse i oplysningerne.",
            "Decisive private interests, perhaps your own, weigh more than your interest in the data.",
        ),
        _t("databeskyttelseslovens § 22, stk. 1", "section 22(1) of the Danish Data Protection Act"),
    ),
    "habeas:DK-DBL-22-2": (
        _t(
            "Afgørende offentlige hensyn vejer tungere end din interesse i oplysningerne.",
            "Decisive public interests weigh more than your interest in the data.",
        ),
        _t("databeskyttelseslovens § 22, stk. 2", "section 22(2) of the Danish Data Protection Act"),
    ),
    "habeas:A20-not-provided": (
        _t(
            "Dem har du ikke selv givet os, og de stammer ikke fra din egen brug.",
            "You did not give them to us yourself, and they do not come from your own use.",
        ),
        _t("artikel 20, stk. 1", "Article 20(1)"),
    ),
    "habeas:A20-basis": (
        _t(
            "Vi behandler dem på et andet grundlag end dit samtykke eller en aftale med dig.",
            "We process them on another basis than your consent or a contract with you.",
        ),
        _t("artikel 20, stk. 1, litra a", "Article 20(1)(a)"),
    ),
    "habeas:A20-not-automated": (
        _t("De behandles ikke automatisk.", "They are not processed by automated means."),
        _t("artikel 20, stk. 1, litra b", "Article 20(1)(b)"),
    ),
    "habeas:not-the-person": (
        _t(
            "Oplysningerne viste sig at handle om en anden end dig.",
            "The data turned out to be about somebody other than you.",
        ),
        _t("artikel 15, stk. 1", "Article 15(1)"),
    ),
    "habeas:not-described": (
        _t(
            "Vores fortegnelse beskriver ikke dette felt, så det er ikke vurderet. Spørg os, hvis du vil have det med.",
            "Our record of processing does not describe this field, so nobody has assessed it. Ask us if you want it.",
        ),
        _t("artikel 15", "Article 15"),
    ),
    "habeas:referral-controller": (
        _t(
            "En anden er dataansvarlig for disse oplysninger og skal svare dig.",
            "Somebody else is the controller of these data and must answer you.",
        ),
        _t("artikel 4, nr. 7", "Article 4(7)"),
    ),
    "habeas:processor-forward": (
        _t(
            "Dem behandler vi kun på vegne af en anden, som er dataansvarlig og skal svare dig om dem.",
            "We process these only on behalf of somebody else, who is the controller and has to answer you about them.",
        ),
        _t("artikel 28, stk. 3, litra e", "Article 28(3)(e)"),
    ),
    "JustificationA12ManifestlyExcessive": (
        _t(
            "Vi vurderer, at denne del af anmodningen er åbenbart overdreven.",
            "We consider this part of the request manifestly excessive.",
        ),
        _t("artikel 12, stk. 5", "Article 12(5)"),
    ),
    "JustificationA12ManifestlyUnfounded": (
        _t(
            "Vi vurderer, at denne del af anmodningen er åbenbart grundløs.",
            "We consider this part of the request manifestly unfounded.",
        ),
        _t("artikel 12, stk. 5", "Article 12(5)"),
    ),
    "JustificationA12IdentityFailure": (
        _t("Vi kunne ikke få bekræftet, hvem du er.", "We could not have it confirmed who you are."),
        _t("artikel 12, stk. 2 og 6", "Article 12(2) and (6)"),
    ),
}
"""Reason code → (why in plain words, the provision)."""

PORTABILITY = {
    "habeas:A15-4-third-party": _t("artikel 20, stk. 4", "Article 20(4)"),
    "habeas:A15-4-trade-secret": _t("artikel 20, stk. 4", "Article 20(4)"),
    "habeas:A15-4-ipr": _t("artikel 20, stk. 4", "Article 20(4)"),
    "habeas:not-the-person": _t("artikel 20, stk. 1", "Article 20(1)"),
}
"""The provision where a reason of access stands in an answer on portability."""

UNKNOWN_REASON = _t("Spørg os, hvis du vil have begrundelsen uddybet.", "Ask us if you want the reason explained.")

SEARCHED: dict[TaskState, Text] = {
    TaskState.FOUND: _t("Søgt, og noget fundet", "Searched, and something found"),
    TaskState.NOTHING: _t("Søgt, intet fundet", "Searched, nothing found"),
}
NOT_SEARCHED = _t("Ikke søgt", "Not searched")

NOT_SEARCHED_WHY: dict[str, Text] = {
    "no-identifier": _t(
        "Vi havde ingen bekræftet oplysning fra dig, som systemet kan søges med.",
        "We had no confirmed detail from you that the system can be searched by.",
    ),
    "unusable-identifier": _t(
        "De oplysninger, vi havde fra dig, kan systemet ikke søges med.",
        "The system cannot be searched by the details that we had from you.",
    ),
    "source-not-searched": _t(
        "Systemet findes gennem et andet system, som vi ikke fik søgt i.",
        "The system is reached through another system, which we could not search.",
    ),
}
NOT_SEARCHED_OTHER = _t(
    "Det lykkedes ikke at søge i systemet, så vi ved ikke, om det rummer oplysninger om dig.",
    "The system could not be searched, so we do not know whether it holds data about you.",
)

BASES: dict[LegalBasis, Text] = {
    LegalBasis.CONSENT: _t("Dit samtykke (artikel 6, stk. 1, litra a)", "Your consent (Article 6(1)(a))"),
    LegalBasis.CONTRACT: _t(
        "En aftale med dig, eller at du vil indgå en (artikel 6, stk. 1, litra b)",
        "A contract with you, or your wish to make one (Article 6(1)(b))",
    ),
    LegalBasis.LEGAL_OBLIGATION: _t(
        "Loven kræver det af os (artikel 6, stk. 1, litra c)", "The law requires it of us (Article 6(1)(c))"
    ),
    LegalBasis.VITAL_INTEREST: _t(
        "At beskytte nogens vitale interesser (artikel 6, stk. 1, litra d)",
        "To protect somebody's vital interests (Article 6(1)(d))",
    ),
    LegalBasis.PUBLIC_TASK: _t(
        "En opgave i samfundets interesse (artikel 6, stk. 1, litra e)",
        "A task in the public interest (Article 6(1)(e))",
    ),
    LegalBasis.LEGITIMATE_INTEREST: _t(
        "En legitim interesse (artikel 6, stk. 1, litra f)", "A legitimate interest (Article 6(1)(f))"
    ),
    LegalBasis.EXPLICIT_CONSENT: _t(
        "Dit udtrykkelige samtykke (artikel 9, stk. 2, litra a)", "Your explicit consent (Article 9(2)(a))"
    ),
    LegalBasis.LEGAL_CLAIMS: _t(
        "At retskrav kan fastlægges, gøres gældende eller forsvares (artikel 9, stk. 2, litra f)",
        "The establishment, exercise or defence of legal claims (Article 9(2)(f))",
    ),
}

SOURCES: dict[str, Text] = {
    "person": _t("Dig selv", "You yourself"),
    "observed": _t("Din brug af vores ydelser", "Your use of our services"),
    "controller": _t("Os selv: vi har lavet oplysningerne", "Ourselves: we made the data"),
    "third_party": _t("Andre end dig", "Others than you"),
    "public": _t("Offentligt tilgængelige kilder", "Public sources"),
}

FROM: dict[Provided, str] = {
    Provided.PROVIDED: "person",
    Provided.OBSERVED: "observed",
    Provided.DERIVED: "controller",
    Provided.THIRD_PARTY: "third_party",
}
"""Which source a field has by how it came."""

ROLES: dict[str, Text] = {
    "processor": _t("behandler oplysningerne for os (databehandler)", "processes the data for us (processor)"),
    "controller": _t("bruger dem til egne formål (dataansvarlig)", "uses them for its own purposes (controller)"),
    "joint": _t("er dataansvarlig sammen med os", "is controller together with us"),
    "authority": _t("offentlig myndighed", "public authority"),
}

SAFEGUARDS: dict[str, Text] = {
    "adequacy": _t(
        "EU-Kommissionen har afgjort, at beskyttelsen dér er tilstrækkelig (artikel 45).",
        "The European Commission has decided that protection there is adequate (Article 45).",
    ),
    "scc": _t(
        "Sikret med EU-Kommissionens standardkontrakter (artikel 46, stk. 2, litra c).",
        "Safeguarded by the European Commission's standard contractual clauses (Article 46(2)(c)).",
    ),
    "bcr": _t(
        "Sikret med bindende virksomhedsregler (artikel 46, stk. 2, litra b).",
        "Safeguarded by binding corporate rules (Article 46(2)(b)).",
    ),
    "derogation": _t("Sker efter en undtagelse i artikel 49.", "Takes place under an exception of Article 49."),
}


def reason(code: str | None, language: Language, *, portability: bool = False) -> tuple[str, str]:
    """Return why in plain words and the provision; a code without words gives an offer to explain, and the code."""
    why, provision = REASONS.get(code or "", (UNKNOWN_REASON, None))
    if portability:
        provision = PORTABILITY.get(code or "", provision)
    return why.in_(language), provision.in_(language) if provision else code or ""


def searched(state: TaskState, code: str | None, language: Language) -> str:
    """Return what became of a system in a few words."""
    return (SEARCHED[state] if was_searched(state, code) else NOT_SEARCHED).in_(language)


def not_searched_why(code: str | None, language: Language) -> str:
    """Return why a system was not searched."""
    return NOT_SEARCHED_WHY.get(code or "", NOT_SEARCHED_OTHER).in_(language)


def source_kind(group: Entity, rule: FieldRule) -> str:
    """Return where a field comes from: a group that the person gave may hold what staff wrote (Art. 15(1)(g))."""
    given = group.source.kind in {"person", "observed"}
    return FROM[rule.provided or group.provided] if given else group.source.kind


def for_another(purpose: str, controller: str, language: Language) -> str:
    """Say to whom to turn about what we only process as a processor. We have not passed the request on."""
    if language is Language.DANISH:
        return (
            f"Til formålet »{purpose}« behandler vi dem kun på vegne af {controller}, som er dataansvarlig og skal "
            "svare dig om det. Send din anmodning dertil."
        )
    return (
        f"For the purpose “{purpose}” we process them only on behalf of {controller}, who is the controller and has to "
        "answer you about it. Send your request there."
    )


def long_date(iso: str, language: Language) -> str:
    """Return an ISO date as people write it: `21. november 2026`, `21 November 2026`."""
    return format_date(date.fromisoformat(iso[:10]), "d. MMMM y" if language == "da" else "d MMMM y", locale=language)


def country(code: str, language: Language) -> str:
    """Return the name of an ISO 3166 country, or the code where it has none."""
    return str(Locale(language).territories.get(code.upper(), code))


def listed(parts: list[str], language: Language) -> str:
    """Join as a sentence does: `a, b og c`."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {'og' if language == 'da' else 'and'} {parts[-1]}"
