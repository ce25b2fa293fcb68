"""The words by which the rules of `agent.inference.forms` know a form."""

from collections.abc import Iterable


def words(text: str) -> frozenset[str]:
    """Return the words of a list."""
    return frozenset(text.split())


def phrases(text: str) -> frozenset[tuple[str, ...]]:
    """Return the phrases of a list with bars between."""
    return frozenset(tuple(phrase.split()) for phrase in text.split("|"))


def by_first(
    some: Iterable[tuple[str, ...]],
) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return phrases by their first word, the longest first."""
    table: dict[str, tuple[tuple[str, ...], ...]] = {}
    for phrase in sorted(some, key=lambda phrase: (-len(phrase), phrase)):
        table[phrase[0]] = (*table.get(phrase[0], ()), phrase)
    return table


SPELT = {
    "dont": "don't",
    "doesnt": "doesn't",
    "didnt": "didn't",
    "wont": "won't",
    "cant": "can't",
    "shouldnt": "shouldn't",
    "isnt": "isn't",
    "arent": "aren't",
    "whats": "what's",
    "hows": "how's",
    "wheres": "where's",
    "ive": "i've",
    "im": "i'm",
    "pls": "please",
    "plz": "please",
    "donot": "don't",
}
STOPS = frozenset(".,;:!?&-\N{HORIZONTAL ELLIPSIS}")
# What stands before a request and changes nothing.
OPENINGS = by_first(
    phrases(
        "would you be so kind as to|would you be so kind and|be so kind as to"
        "|i was wondering if you could|i wonder if you could|do you think you could"
        "|is it possible for you to|would it be possible for you to|may i ask you to"
        "|could i ask you to|it would be nice if you could|do me a favor and"
        "|do me a favour and|do me a favor|do me a favour|if you don't mind"
        "|if it's not too much trouble|if it is not too much trouble|if you please"
        "|when you get a chance|when you have a moment|when you have time|if you can"
        "|sorry to bother you but|sorry to bother you|sorry|excuse me"
        "|i hope you are well|i hope you're well|i would like you to|i'd like you to"
        "|i want you to|i need you to|i would like to|i'd like to|i want to|i wanna"
        "|i need to|i would love to|it's time to|time to|i think you should|can you"
        "|could you|would you|will you|can we|could we|shall we|can i|could i|may i"
        "|you can|you may|you should|would you kindly|why don't you|let's|lets|let us"
        "|help me to|help me|go ahead and|make sure to|make sure you|be sure to"
        "|don't forget to|do not forget to|please|kindly|just|now|so|well|ok|okay|hey"
        "|hi there|hi|hello|good morning|good evening|yo|um|uh|uhm|er|erm|hmm|oh|ah"
        "|alright|right|then|first|again|also|quickly|yes|yeah|listen|alexa|siri|olly"
        "|google|ok google|computer|jarvis|cortana|robot|assistant|ai|dear|sir|thanks"
        "|thank you|my hands are full|i'm in a hurry|i am in a hurry|i said"
        "|i asked you to|i told you to|i have a question|i have a request"
        "|would you mind|do you mind"
    )
)
GREETS = words("hey ok okay so well oh yes hi hello thanks um uh now great good nice")

# Verbs that ask for something at once. One may say two of them.
FIRST = words(
    "activate add adjust answer block book boost brew brighten buy call cancel change"
    " check clean close connect convert create deactivate decrease delete dial dim"
    " disable disconnect enable erase find freeze get give include increase list lock"
    " lower make mute open order pause pay play post power put raise rate read reduce"
    " remove rename report reserve reset resume schedule send set share show shuffle"
    " shut silence skip snooze start stop switch sync text transfer turn tweet unlock"
    " unmute update vacuum wake warm water transfer terminate replay restart begin"
    " email email take"
)
SECOND = FIRST | words(
    "bring check clear remind tell text wake move mark print define translate spell"
    " speak describe explain request ask say order warn look search calculate"
)
# What is wanted of us, not said to others.
TOLD_ME = phrases("tell me|show me|give me|get me|read me|find me|bring me|spell it")
SET = words("on off up down")
JOINTS = words("and then & also plus while after or but") | STOPS
BETWEEN = words(
    "please you could can would that next finally just afterwards to now i want need"
    " once done lastly kindly at the same time well"
)
# What takes somebody's words as its content: "text mum that i don't come".
TITLED = words("play find rate buy read search google")
CARRIERS = TITLED | words(
    "remind note text email mail tweet post send tell write message remember reply say"
    " ask translate spell define"
)

PERSONS = words(
    "i we you he she they it somebody someone nobody everybody everyone anybody anyone"
    " my your our his her their the a an this that these those there"
)
SELF = words("i we he she they somebody someone nobody everybody everyone")
OWNED = words("my the our his her their that this these those")

ASKING = words("how why who whom whose when where which what")
HELPERS = words(
    "is are was were do does did has have had am isn't aren't wasn't weren't don't"
    " doesn't didn't hasn't haven't hadn't should shouldn't must"
)
ABLE = words("can could will would")
ASKED = PERSONS | words("any there people")
SPOKEN_TO = words("you we i this that these those a an any")
ASKED_SHORT = words("what's how's where's who's when's why's")
ASKED_AT_ONCE = ASKING - {"that", "what"}
TOLD = words("tell show explain teach check see verify confirm know wonder")
REPORTED = words("if whether")
KNOWING = phrases(
    "know how|know if|know why|know whether|know when|tell if|me if|me whether|me how"
    "|me why|me when|wonder if|wonder how|wondering how|wondering if|a way|idea how"
    "|check if|check whether|explain how"
)

# Words that turn a request round, wherever they stand.
NOT = words(
    "don't never not no nope nah won't cannot can't shouldn't mustn't wouldn't needn't"
    " neither nor without nevermind refrain avoid cease forbid disregard abort undo"
)
# They say what is not so, unless what is not so is the need: "it isn't necessary to".
NOT_SO = words("didn't doesn't isn't aren't haven't hasn't wasn't weren't couldn't")
NEEDLESS = words("necessary needed required ask say want need what matter to")
# Before or as a negation they say how things are: "it has not", "i cannot".
IS_SO = words(
    "is are was were has have had does did am i'm it's that's been got there's still"
    " for with to be"
)
UNABLE = words("won't can't cannot")
TOLD_NOT = words("you nobody and but so then please or")
HELD = words("wait hold leave let")
WAIT = words("time times for at on in")
# What somebody waits for is no "wait": "how long should i wait".
WAITING = words("to should i would the a long must can have we they will my me of")
# After them they turn nothing round: "don't forget to", "not only", "no problem".
HARMLESS_AFTER = words(
    "forget hesitate worry mind miss care only problem problems worries matter hurry"
    " rush idea doubt one sooner far know understand recognize recognise remember work"
)
# Before them neither: "why don't you", "or not".
HARMLESS_BEFORE = words("why or whether if")
# "i don't see" is a reason to ask; "i don't want" is not.
WANTED = words(
    "want need wish like feel necessary needed time longer think reason"
    " asking trying looking telling saying"
)
SAID = words("say said ask asked tell told mean meant turn switch")
TAKEN_BACK = by_first(
    phrases(
        "never mind|nevermind|scratch that|scratch it|strike that|belay that|forget it"
        "|forget that|forget about it|forget i asked|forget i said|ignore that"
        "|ignore it|ignore what|disregard|disregard that"
        "|undo that|no wait|wait no|wait don't|wait stop|stop stop|abort|actually no"
        "|hold on|on second thought|on second thoughts|changed my mind|just kidding"
        "|only joking|was joking|kidding|rather not|better not|maybe not|take it back"
        "|take that back|leave it as|leave it|let it be|skip it|hang on|oops|wait"
        "|or rather|i mean|i meant|correction"
    )
)
# What else takes a request back; in a question or a report they are part of it.
REPLACED = by_first(phrases("instead of|rather than|cancel that|cancel it"))
TAKEN_BACK_AHEAD = phrases("instead of|rather than|forget about|hold off|nobody wants")

WHENEVER = words("if unless whenever provided assuming supposing")
REPORTING = words(  # "see if", "ask whether": the condition is what is asked
    "see check know tell ask wonder wondering me verify confirm say out sure find as"
    " even what determine figure what's wondered asks telling and it happy nice great"
    " grateful appreciated"
)
POLITE = phrases(
    "you can|you could|you don't|you please|it's not|it is|you would|you do|i may"
)
TIMES_OF = words("when until till before after once while")
SINCE = words("until till before after")  # "after the movie" is a later time
SAYING = words("ask say tell request")
CONTENT = (["tell", "them"], ["tell", "him"], ["tell", "her"], ["tell", "me"])
CLAUSES = (PERSONS - words("a an that this the")) | words(
    "it's i'm we're he's she's they're you're i've you've we've they've it'll i'll"
)
CONDITIONS = phrases(
    "as soon as|so long as|as long as|by the time|the moment the|the moment i"
    "|the moment it|every time i|every time the|every time it|in case it|in case i"
    "|in case the|in case there|in case he|on condition that|provided that it"
    "|wait until i|wait until the|wait until it|next time i|next time the|next time it"
    "|next time he|next time she|next time you|at the end|in case it's|in case i'm"
)

LATER = words("later tomorrow tonight afterwards")
AFTER = words("sunset sunrise dark midnight noon dinner lunch breakfast work school")
UNITS = words(
    "second seconds minute minutes min mins hour hours hr hrs day days week weeks sec"
    " secs month months"
)
NUMBERS = words(
    "a an one two three four five six seven eight nine ten eleven twelve fifteen twenty"
    " thirty forty fifty sixty ninety half quarter few couple"
)
DAYPARTS = words("morning afternoon evening night")
DAYS = DAYPARTS | words(
    "monday tuesday wednesday thursday friday saturday sunday day week month hour"
    " weekend weekday weekdays weekends mondays fridays saturdays sundays"
)
HOURS = words(
    "one two three four five six seven eight nine ten eleven twelve noon midnight half"
    " quarter sunset sunrise dawn dusk night bedtime lunchtime dinnertime"
)
FROM_NOW = phrases("minutes from now|hour from now|hours from now")

TELLING = words(
    "turned switched set dimmed closed opened locked unlocked started stopped played"
    " paused muted called booked ordered bought paid transferred froze blocked sent"
    " deleted removed cancelled canceled added changed put made told said asked left"
    " forgot did was were had used woke cleaned vacuumed lowered raised increased"
    " decreased activated deactivated shut brewed texted emailed posted reserved is are"
    " has have am will won't isn't aren't wasn't hasn't haven't does doesn't didn't"
    " says wants likes went came got gave took tried managed remembered plays turns"
    " sets keeps runs calls sends wakes love hate enjoy used"
)
QUOTING = words("said says told asked tells asks wants wanted")
PAST = words(
    "was were had did got went made took tried paid sent came left lost saw put bought"
    " set used withdrew topped"
)
ADVERBS = words(
    "already just always never usually also often really only still definitely surely"
)
TELLING_OF_SELF = words("i've you've we've they've he's she's they're")
ABOUT_SELF = words("i'm i'll we're we'll you're")
# "i have to", "i will need": wishes, not reports.
WISHES = words(
    "need needing looking interested hoping trying ready wanting want would like"
)
HEARD = phrases(
    "i think the|i think my|i think it|i heard the|i heard my|i heard that|i heard it"
    "|it looks like|it seems that|it seems the|i see that|i believe the|i believe my"
    "|i wish i|last night the|last night my|yesterday the|yesterday my|i noticed that"
    "|last night i|last night you|yesterday i|yesterday you|this morning i"
    "|this morning my|this morning the|this morning you|i was going"
)
