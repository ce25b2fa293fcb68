# ruff: noqa: INP001  a script, no package
"""Write front-desk.jsonl: 500 made-up messages to the front desk of a hotel.

Ours, and free to use. The same seed writes the same file:
`python docs/examples/make_front_desk.py`. Entities stand in templates as `{slot}`.
"""

import json
import random
import re
from pathlib import Path

OUT = Path(__file__).with_name("front-desk.jsonl")
SEED = 7
# Shares of the messages: with a slip of the finger, a greeting, a please or thanks,
# a capital in front, nothing but capitals.
TYPOS, GREETED, POLITE, CAPITAL, SHOUTED = 0.18, 0.35, 0.3, 0.45, 0.03
# How many messages each label has; guests want some things more often than others.
COUNTS = {
    "towels": 38,
    "late_checkout": 36,
    "taxi": 44,
    "wake_up_call": 36,
    "noise": 36,
    "wifi": 34,
    "breakfast": 34,
    "lost_item": 38,
    "room_service": 40,
    "repair": 44,
    "booking_change": 34,
    "bill": 26,
    "thanks": 20,
    "oos": 40,
}

# slot -> (entity, values)
SLOTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "room": (
        "room",
        (
            *("101", "117", "203", "212", "226", "304", "318", "331", "402", "412"),
            *("419", "507", "515", "528", "603", "611", "4b", "12a", "the penthouse"),
        ),
    ),
    "time": (
        "time",
        (
            *("7 am", "6:30", "half past six", "5.45 am", "noon", "two o'clock"),
            *("8pm", "quarter to seven", "11:15", "3 in the afternoon", "nine", "4:30"),
            *("midnight", "ten thirty", "14:00", "1 pm"),
        ),
    ),
    "date": (
        "date",
        (
            *("tomorrow", "on friday", "today", "sunday", "next monday", "tonight"),
            *("the 14th", "may 3rd", "this weekend", "wednesday morning", "saturday"),
            *("the day after tomorrow", "june 21", "thursday"),
        ),
    ),
    "linen": (
        "item",
        (
            *("towels", "bath towels", "hand towels", "pool towels", "a bathrobe"),
            *("pillows", "a blanket", "bed sheets", "a bath mat", "face cloths"),
        ),
    ),
    "food": (
        "item",
        (
            *("a club sandwich", "a bottle of red wine", "two burgers", "tomato soup"),
            *("a caesar salad", "a pot of tea", "some ice cream", "fish and chips"),
            *(
                "three beers",
                "the vegetarian pasta",
                "a cheese plate",
                "sparkling water",
            ),
            *("black coffee", "a margherita pizza", "an omelette", "sparkling water"),
        ),
    ),
    "thing": (
        "item",
        (
            *("black umbrella", "reading glasses", "phone charger", "silver watch"),
            *(
                "blue scarf",
                "passport",
                "laptop",
                "left earring",
                "teddy bear",
                "wallet",
            ),
            *(
                "car keys",
                "grey jacket",
                "headphones",
                "kindle",
                "toothbrush",
                "wallet",
            ),
        ),
    ),
    "fixture": (
        "item",
        (
            *("shower", "air conditioning", "toilet", "bedside lamp", "tv", "heating"),
            *("minibar", "door lock", "window", "kettle", "hair dryer", "safe", "sink"),
            *("balcony door", "radiator", "remote control"),
        ),
    ),
    "to": (
        "place",
        (
            *("the airport", "the central station", "the old town", "the opera"),
            *("the harbour", "terminal 2", "the conference centre", "the zoo"),
            *("queen street", "the university hospital", "the ferry"),
        ),
    ),
    "where": (
        "place",
        (
            *("the lobby", "the breakfast room", "the gym", "the spa", "the lift"),
            *("the rooftop bar", "the car park", "the pool", "the conference room"),
            *("the bathroom", "the restaurant"),
        ),
    ),
}

TEMPLATES: dict[str, tuple[str, ...]] = {
    "towels": (
        "can we get more {linen} in {room}",
        "we need {linen}",
        "could someone bring {linen} to room {room}",
        "there are no clean {linen} in our room",
        "{linen} for {room}",
        "room {room} is missing {linen}",
        "housekeeping forgot to leave {linen}",
        "may i have {linen} before {time}",
        "i'd like {linen} sent up to {room}",
        "the ones we have are wet, is it possible to have {linen}",
        "my kids used everything up, more {linen}",
        "please swap our {linen}, they are dirty",
    ),
    "late_checkout": (
        "can i check out at {time} instead",
        "is a late checkout possible {date}",
        "we would like to keep the room until {time}",
        "what does it cost to stay until {time} {date}",
        "late check-out for {room}",
        "our flight is in the evening, may we leave the room later",
        "i need to leave after {time}, is that ok",
        "could we have room {room} till {time} {date}",
        "any chance we can check out a bit later",
        "how late can i check out {date}",
        "would it be a problem to vacate {room} at {time}",
        "i overslept, can i leave the room at {time}",
    ),
    "taxi": (
        "please call me a cab to {to}",
        "i need a taxi at {time}",
        "can you book a taxi to {to} for {time} {date}",
        "taxi to {to}, {date} at {time}",
        "we want to go to {to}, could you order a car",
        "a cab for four people to {to}",
        "how do i get a taxi to {to}",
        "is there a car that could take us to {to} {date}",
        "get me a ride to {to} asap",
        "my meeting is at {to}, i'd need a taxi around {time}",
        "could a driver pick us up at {time} and bring us to {to}",
        "cab for room {room} at {time}",
    ),
    "wake_up_call": (
        "wake me up at {time}",
        "could i get a wake-up call at {time} {date}",
        "please ring {room} at {time}, we must not oversleep",
        "i need a wake up call {date}",
        "can you make sure i am awake by {time}",
        "wake-up call for room {room}, {time}",
        "phone me at {time} so that i get up",
        "cancel my wake up call {date}",
        "my alarm is broken, call me at {time}",
        "we have to get up at {time}, can reception call us",
        "set a morning call for {time}",
    ),
    "noise": (
        "the people in {room} are very loud",
        "there is a party next door and i can't sleep",
        "music from {where} keeps us awake",
        "someone is shouting in the corridor",
        "it's {time} and the neighbours are still singing",
        "can you tell {room} to be quiet",
        "the noise from {where} is unbearable",
        "a dog has been barking since {time}",
        "i'd like to complain about the noise in {room}",
        "drilling above our heads since {time}, when does it stop",
        "children are running up and down outside {room}",
        "please do something about the racket in {where}",
    ),
    "wifi": (
        "what is the wifi password",
        "the internet does not work in {room}",
        "wi-fi is terribly slow in {where}",
        "i can't get online",
        "how do i connect my laptop to the wlan",
        "the login page for the internet never loads",
        "is the wifi free",
        "no signal in {room}, cannot reach the internet",
        "my wifi code has expired",
        "does the internet reach {where}",
        "which network do i choose for guests",
        "the connection drops every few minutes in {room}",
    ),
    "breakfast": (
        "when is breakfast served",
        "what time does breakfast start {date}",
        "is breakfast included for {room}",
        "until when can we have breakfast {date}",
        "do you have gluten free bread at the breakfast buffet",
        "where do we go for breakfast",
        "can we still get breakfast at {time}",
        "how much is the breakfast buffet",
        "i leave at {time} {date}, could i get a breakfast box",
        "are there vegan options in the morning buffet",
        "breakfast hours {date}",
        "we'd like to add breakfast {date}",
    ),
    "lost_item": (
        "i left my {thing} in {room}",
        "has anybody found a {thing} in {where}",
        "i think i lost my {thing} {date}",
        "my {thing} is gone, i last had it in {where}",
        "did housekeeping find a {thing}",
        "we checked out of {room} and forgot the {thing}",
        "could you look for my {thing} in {where}",
        "is there a lost and found, i am missing my {thing}",
        "my son lost his {thing} near {where}",
        "please send me the {thing} that i forgot in room {room}",
        "i can't find my {thing}, was it handed in",
        "someone may have turned in a {thing} {date}",
    ),
    "room_service": (
        "i would like to order {food} to room {room}",
        "could you bring {food} up to {room}",
        "{food} please, room {room}",
        "can we have {food} at {time}",
        "what's on the room service menu",
        "is the kitchen still open, we'd like {food}",
        "send {food} and {food} to {room}",
        "we are hungry, {food} for {room}",
        "i ordered {food} at {time} and nothing has come",
        "room service: {food}",
        "can i order {food} to my room {date}",
        "do you deliver {food} to the rooms",
        "dinner in {room}: {food}, around {time}",
    ),
    "repair": (
        "the {fixture} in {room} is broken",
        "our {fixture} does not work",
        "the {fixture} is leaking",
        "there is something wrong with the {fixture} in room {room}",
        "can someone fix the {fixture}",
        "{fixture} out of order in {where}",
        "i can't turn off the {fixture}",
        "the {fixture} makes a strange smell since {date}",
        "please send a technician to {room}, the {fixture} is stuck",
        "{room}: {fixture} defective",
        "the {fixture} stopped working {date}",
        "it is freezing in {room}, the {fixture} won't start",
        "the lights in {where} are flickering",
    ),
    "booking_change": (
        "can we stay one more night until {date}",
        "i have to cancel my reservation for {date}",
        "please move our booking to {date}",
        "i'd like to change to a double room {date}",
        "we will arrive a day later, {date}",
        "could you extend my stay in {room}",
        "is it possible to switch from {room} to a quieter room",
        "we are three people now, can you add a bed {date}",
        "my plans changed, i arrive {date} at {time}",
        "i want to shorten my stay and leave {date}",
        "upgrade my reservation to a suite",
        "change the name on my booking",
    ),
    "bill": (
        "could i get the bill for {room}",
        "there is a mistake on my invoice",
        "why was i charged twice {date}",
        "can i pay by card",
        "please email me the receipt",
        "i did not have anything from the minibar but it's on the bill of {room}",
        "put the company name on the invoice for {room}",
        "how much do i owe for room {room}",
        "i need a receipt for the stay, i leave {date}",
        "split the bill of {room} between two cards",
        "is the city tax in the price",
    ),
    "thanks": (
        "thank you so much for everything",
        "thanks, that was quick",
        "we had a lovely stay in {room}",
        "great service, goodbye",
        "bye and see you next year",
        "cheers, all sorted now",
        "many thanks to the team at {where}",
        "that's perfect, thank you",
        "you have been very kind, goodbye",
        "ok thanks bye",
        "the staff in {where} were wonderful, thanks",
        "never mind, it works now, thank you",
    ),
    "oos": (
        "who won the football match last night",
        "what is the capital of mongolia",
        "can you help me with my maths homework",
        "my printer at the office is out of toner",
        "tell me a joke",
        "translate good evening into italian",
        "should i buy shares of that car maker",
        "how many legs does a spider have",
        "write a poem about the sea",
        "i want to return the shoes i ordered online",
        "what's the best phone under 300 euros",
        "my car insurance runs out in march",
        "when was the french revolution",
        "recipe for banana bread",
        "the parcel you sent has not been delivered",
        "reset the password of my bank account",
        "play some jazz",
        "how tall is mount everest",
        "i'd like to apply as a cook",
        "do you hire people for the summer",
        "are dogs allowed in the hotel",
        "does the spa offer massages",
        "is there a pharmacy nearby",
        "what will the weather be like on sunday",
        "can you recommend a museum for children",
        "do you sell stamps",
        "is the water in the pool heated",
        "which bus goes to the stadium",
        "we are planning a wedding for eighty guests",
        "i would like to speak to the manager about a job",
        "where can i rent a bike",
        "what languages do you speak",
        "is it safe to walk around at night",
        "who owns this hotel",
        "how old is this building",
        "sorry wrong number",
        "call my mother",
        "did you see the news",
        "my tooth hurts, is there a dentist around here",
        "can i smoke on the balcony",
        "where is the fire exit",
        "turn off the lights in the kitchen",
        "asdf asdf",
        "i am a travel blogger, shall we cooperate",
        "the invoice of our supplier of flowers is attached",
        "what are the opening hours of the city hall",
    ),
}

BEFORE = (
    *("hi, ", "hello, ", "good morning, ", "good evening, ", "excuse me, ", "hey "),
    *("dear team, ", "sorry to bother you, ", "quick question: ", "um, ", "hi "),
)
AFTER = (
    *(" please", ", please", " thanks", ", thank you", " pls", ". thanks!", " asap"),
    *(", that would be great", " if possible", "... thx", ", we would appreciate it"),
)
SLOT = re.compile(r"\{(\w+)\}")

Piece = tuple[str, str | None]  # text, entity


def pieces(template: str, chance: random.Random) -> list[Piece]:
    """Return the template as plain and entity pieces, its slots filled."""
    found: list[Piece] = []
    for number, part in enumerate(SLOT.split(template)):
        if number % 2 == 0:
            found.append((part, None))
            continue
        entity, values = SLOTS[part]
        found.append((chance.choice(values), entity))
    return found


def dressed(body: list[Piece], label: str, chance: random.Random) -> list[Piece]:
    """Return the message with a greeting or a please, as some people write."""
    before = chance.choice(BEFORE) if chance.random() < GREETED else ""
    polite = label not in {"thanks", "oos"} and chance.random() < POLITE
    said = "".join(text for text, _ in body)
    after = chance.choice(AFTER) if polite and "please" not in said else ""
    return [(before, None), *body, (after, None)]


def mistyped(body: list[Piece], chance: random.Random) -> list[Piece]:
    """Return the message with one slip of the finger, outside of its entities."""
    places = [
        (number, at)
        for number, (text, entity) in enumerate(body)
        if entity is None
        for at in range(1, len(text) - 1)
        if text[at - 1 : at + 2].isalpha()
    ]
    if not places:
        return body
    number, at = chance.choice(places)
    text, _ = body[number]
    slip = chance.randrange(3)
    if slip == 0:  # a letter is missing
        text = text[:at] + text[at + 1 :]
    elif slip == 1:  # two letters change places
        text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    else:  # a letter comes twice
        text = text[: at + 1] + text[at:]
    return [*body[:number], (text, None), *body[number + 1 :]]


def finished(body: list[Piece], chance: random.Random) -> list[Piece]:
    """Return the message with the capitals and the marks of its writer."""
    style = chance.random()
    if style < CAPITAL:
        first = next(number for number, (text, _) in enumerate(body) if text)
        text, entity = body[first]
        body = [*body]
        body[first] = (text[:1].upper() + text[1:], entity)
    elif style > 1 - SHOUTED:
        body = [(text.upper(), entity) for text, entity in body]
    mark = chance.choice(("", "", "", ".", "?", "!", "?"))
    return [*body, ("" if body[-1][0].endswith("!") else mark, None)]


def message(label: str, template: str, chance: random.Random) -> dict[str, object]:
    """Return one line of the file."""
    body = dressed(pieces(template, chance), label, chance)
    if chance.random() < TYPOS:
        body = mistyped(body, chance)
    text = ""
    spans = []
    for part, entity in finished(body, chance):
        if entity:
            end = len(text) + len(part)
            spans.append({"start": len(text), "end": end, "label": entity})
        text += part
    return {"text": text, "label": label, "spans": spans}


def messages() -> list[dict[str, object]]:
    """Return all lines, shuffled; no text comes twice."""
    chance = random.Random(SEED)  # noqa: S311  no secret
    found = []
    seen: set[str] = set()
    for label, count in COUNTS.items():
        templates: list[str] = []
        made = 0
        while made < count:
            if not templates:  # each wording once before any comes again
                templates = chance.sample(TEMPLATES[label], len(TEMPLATES[label]))
            line = message(label, templates.pop(), chance)
            key = re.sub(r"\W+", " ", str(line["text"]).lower()).strip()
            if key not in seen:
                seen.add(key)
                found.append(line)
                made += 1
    chance.shuffle(found)
    return found


if __name__ == "__main__":
    lines = [json.dumps(line, ensure_ascii=False) for line in messages()]
    OUT.write_text("\n".join([*lines, ""]), encoding="utf-8")
