"""What people write to a clinic: a small grammar.

`[a|b]` is one of the alternatives, `{slot}` one of `FILLERS` or a generated detail. Names of
drugs, tests, doctors and days occur under every label, so that they give no label away.
"""

from __future__ import annotations

ASKS: dict[str, tuple[str, ...]] = {
    "appointment": (
        "[can|could] I [see|come and see] {doctor} [on {day}|this week|{time}]?",
        "[I need|I'd like] [a slot|an appointment] with {doctor} [about my {symptom}|{time}]",
        "[please move|I must move|move] my {day} [visit|slot|appointment] to {day}",
        "I can't [make it|come] on {date}, [is another day free?|can we find a new time?]",
        "[what time|when] am I [due|expected] on {day} for the {test}?",
        "[cancel|please cancel] {person}'s [visit|check-up|{test}] on {date}",
        "[is there|do you have] [a gap|an opening] [for my {relation}|{time}] with {doctor}?",
        "the {symptom} is [worse|back], [who can see me?|can someone look at it?]",
        "book [me|my {relation}] in for the {test} [on {day}|{time}]",
        "[will|does] {doctor} have time [on {day}|{time}]?",
        "running late [today|on {day}], [will I still be seen?|should I come another day?]",
        "[could the nurse do|can I come for] the {test} on {day}?",
    ),
    "prescription": (
        "[I'm|we are] [nearly out of|down to the last two|out of] {drug}",
        "[can|could] {doctor} [renew|refill|repeat] [my|the] {drug}?",
        "the [pharmacy|chemist] [on {street}|in town] [has|got] nothing from you for {drug}",
        "[please send|you can send|send] [my|the] {drug} to the [pharmacy|chemist] on {street}",
        "[is it safe|am I allowed] to take {drug} [with {drug}|for {symptom}]?",
        "[should I|do I] [keep taking|stop] {drug} before the {test}?",
        "I get {symptom} from {drug}, [can I have something else?|is there an alternative?]",
        "[forgot|missed] [two days|a dose] of {drug}, [what now?|do I double it?]",
        "[another three months|the usual dose|a repeat] of {drug} [please|for my {relation}]",
        "[it says|the label says] {dose} of {drug}, [was it not less?|{doctor} told me otherwise]",
        "[can I go back|should I go up] to {dose} of {drug}?",
        "my {relation} [lost|spilled] the {drug}, can we get more?",
    ),
    "billing": (
        "[why was I charged|what is this] {amount} [for the {test}|for {doctor}|from {date}]?",
        "[I was charged|you took {amount}] twice for the {test}",
        "my [insurer|insurance] [won't cover|refuses] the {amount} for {drug}",
        "can [I|we] [pay|settle] the {amount} [in instalments|by card|next month]?",
        "[please send|I need] [an invoice|a receipt] for [the {test}|my visit on {date}]",
        "[do I owe|is there still] anything [for {doctor}|for the {test}|from {date}]?",
        "[my new insurance|the new policy] is {policy}, [was it used?|please claim again]",
        "[what will|how much will] the {test} [cost|be] [without insurance|for my {relation}]?",
        "[I sent|we transferred] {amount} on {date}, [did it arrive?|and got a reminder]",
        "is [{drug}|the {test}] covered by [my plan|policy {policy}]?",
        "[please refund|I want back] the {amount}, [I never had the {test}|{doctor} was away]",
        "the {amount} [reminder|letter] is [wrong|not mine], [I paid|please check]",
    ),
    "results": (
        "[did|has] the lab [find|found|sent] anything [after the {test}|for {person}]?",
        "[is|was] my {level} [ok|normal|better] [this time|on {date}|since {drug}]?",
        "[what did|what does] the {test} [show|say]?",
        "[any news|have you heard] [from the {test}|about the {test} of {date}]?",
        "{doctor} promised to [call|write] about the {test}, [nothing so far|still waiting]",
        "[what does {reading} mean|should I worry about {reading}]?",
        "[please mail|I need|send me] a copy of [the {test}|the report] [of {date}|for {doctor}]",
        "[the portal says|I read] {reading}, [is that bad?|what does it mean?]",
        "[how long until|when do] we hear about my {relation}'s {test}?",
        "[was the {test} clear|is it all fine]? [I still have {symptom}|{doctor} looked worried]",
        "[please explain|I don't understand] the [report|numbers] from [the {test}|{date}]",
        "[is it serious|should I be afraid]? The {test} [was on {date}|took so long]",
    ),
}

# Said of a matter that is settled: the label is that of the other half of the message.
SETTLED: dict[str, tuple[str, ...]] = {
    "appointment": (
        "[I saw|I was with] {doctor} on {date}",
        "[I have|I got] my [slot|appointment] on {day}",
        "no need to [move|cancel] the visit",
    ),
    "prescription": (
        "[I have enough|I got the] {drug}",
        "the [pharmacy|chemist] had the {drug}",
        "no [refill|repeat] needed",
    ),
    "billing": (
        "I [paid|sent] the {amount}",
        "[insurance|my plan] covered the {test}",
        "the invoice is [fine|settled]",
    ),
    "results": (
        "[the {test} was clear|the {level} came back fine]",
        "I got the [report|results] of the {test}",
        "{doctor} [explained|called about] the {level}",
    ),
}

# The same words wherever they stand: only the sentence around them tells which one is wanted.
MATTERS: dict[str, tuple[str, ...]] = {
    "appointment": ("the appointment with {doctor}", "my visit on {day}", "the {day} slot"),
    "prescription": ("the {drug} refill", "my {drug}", "the repeat of {drug}"),
    "billing": ("the {amount} invoice", "the charge for the {test}", "my insurance claim"),
    "results": ("the {test} results", "the lab report", "my {level} reading"),
}

CONTRASTS: tuple[str, ...] = (
    "[this is|I'm writing] about <wanted>, not <other>",
    "[this is not|I'm not writing] about <other>, [but|only] about <wanted>",
    "<other> can wait, <wanted> can't",
    "I asked about <wanted>, you [told me|answered] about <other>",
    "[forget|never mind] <other>, [what about|where is] <wanted>?",
    "<wanted> is still [a problem|open], <other> is [done|sorted]",
)

# `<Request>` begins a sentence, `<request>` goes on with one. Each frame tells who is writing.
FRAMES: tuple[str, ...] = (
    "Hi, {person} here. <Request>",
    "<Request> Thanks, {person}",
    "[This is|I am] {person}, {record}. <Request>",
    "{person}, {record}: <request>",
    "{person}, born {birth}: <request>",
    "[Hello|Good morning], my number is {record}. <Request>",
    "<Request> ({record})",
    "<Request> {person}, {phone}",
    "<Request> [Call|Text] me on {phone}",
    "[For|On behalf of] {person}: <request>",
    "Re {record}, <request>",
    "[Sorry to bother you|Me again], <request> {person}",
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FILLERS: dict[str, tuple[str, ...]] = {
    "first_name": _words(
        "Ada Amir Anna Ben Bella Carl Chen Clara Dana David Elif Emma Erik Eva Farah Felix Grace "
        "Hana Hugo Ida Ivan Jane Jonas Julia Karim Kate Lars Laura Leo Lina Luis Maria Marta Max "
        "Mei Mia Milan Nadia Nina Noah Nora Oscar Omar Paul Petra Rita Rosa Ruth Sam Sara Simon "
        "Sofia Tariq Tom Vera Victor Wei Yara Zoe"
    ),
    "surname": _words(
        "Adams Ali Baker Berg Brown Carter Castro Cohen Cole Costa Cruz Diaz Dixon Ellis Evans "
        "Fischer Ford Gray Haas Hall Hansen Hill Hughes Ito Jensen Jones Kaya Keller Kim King "
        "Klein Kumar Lang Lee Lopez Marsh Mason Meyer Mills Moore Nagy Novak Olsen Park Patel "
        "Perez Price Reed Rossi Sato Shah Silva Stone Tanaka Vogel Wagner Ward Weber Wood Young "
        "Zhang"
    ),
    "doctor": tuple(
        f"Dr {name}" for name in _words("Abel Becker Chan Doyle Fox Gupta Hart Lund Moreau West")
    ),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "the 3rd", "the 21st"),
    "time": ("at 9", "at 10:30", "after lunch", "before work", "tomorrow", "next week", "today"),
    "drug": (
        "insulin",
        "aspirin",
        "ibuprofen",
        "morphine",
        "cortisone",
        "codeine",
        "penicillin",
        "prozac",
        "methadone",
        "lithium",
        "heart pills",
        "blue tablets",
    ),
    "dose": ("5 mg", "10 mg", "20 mg", "two a day", "half a tablet"),
    "test": (
        "blood test",
        "x-ray",
        "scan",
        "biopsy",
        "ultrasound",
        "hearing test",
        "urine test",
        "allergy test",
        "skin check",
        "heart scan",
        "swab",
    ),
    "level": ("cholesterol", "iron", "sugar", "blood pressure", "thyroid", "vitamin D"),
    "symptom": (
        "cough",
        "headache",
        "rash",
        "back pain",
        "nausea",
        "fever",
        "dizziness",
        "chest pain",
    ),
    "relation": ("son", "daughter", "mother", "father", "wife", "husband"),
    "street": ("Mill Road", "High Street", "Oak Lane", "Station Road", "Park Avenue"),
    "month": ("January", "March", "April", "May", "June", "July", "October", "November"),
}

READINGS: tuple[tuple[str, int, int], ...] = (
    ("cholesterol", 150, 310),
    ("iron", 20, 180),
    ("sugar", 65, 260),
    ("blood pressure", 95, 190),
    ("vitamin D", 8, 70),
)
