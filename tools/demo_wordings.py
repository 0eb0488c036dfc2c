"""More wordings of the demo model's facts and questions, for training only.

[a|b|] stands for each of its parts in turn. {n} is the noun phrase of the kind, {s} its short noun, {k} the key,
{v} the value or "{v} and {w}". A sentence or question that the evaluation uses is taken out again (demo_facts.py),
so what is held out stays unseen.
"""

import itertools
import re

PART = re.compile(r"\[([^\[\]]*)\]")


def expand(text):
    """All texts a pattern stands for."""
    parts = PART.split(text)
    choices = [[p] if i % 2 == 0 else p.split("|") for i, p in enumerate(parts)]
    return [re.sub("  +", " ", "".join(c)).strip() for c in itertools.product(*choices)]


def patterns(block):
    return [line.strip() for line in block.strip().split("\n") if line.strip()]


SAYS = patterns("""
    {n} is {v}.
    {n} [is said to be|was always|has always been|has long been|turned out to be|is still|remains|is now|is known to be] {v}.
    {v} is {n}.
    {v} [is known as|serves as|counts as|was noted as|is given as|is named as] {n}.
    For {n} [we noted|they gave us|I wrote down|the book gives|the list names|we were given|the answer is] {v}.
    [Asked about|When asked for|Whoever asks for|To those who ask for] {n}, [one answers|the answer is|they say|we say] {v}.
    [I found|We found|They told us|The clerk wrote|The book says|It is known|Nobody doubts|I can report] that {n} is {v}.
    It is {v} that [is|became|serves as|we noted as] {n}.
    {n}: {v}.
    [Concerning|Regarding|About] {n} there is [one answer|no doubt]: {v}.
    [You will find|Be sure|Mark well|Note] that {n} is {v}.
    {v}, [as they say|they say|I am told|it seems], is {n}.
    {n}, [as they say|I am told|it seems|by the way|of course], is {v}.
    [As for|Speaking of] {k}, the {s} is {v}.
    {k} has {v} as its {s}.
    [Ask for|Look up] {n} and you will [hear|find|read] {v}.
    {n} is [no other than|none other than|nothing but|certainly|surely|without doubt] {v}.
    [The list for|The page about|The entry on] {k} [gives|names|shows] {v} as {s}.""")

ASKS = patterns("""
    {q} is {n}?
    [Can|Could|Will|Would] you [tell me|say|give me] {n}?
    [Please name|Name|Tell me|State|Give|Say|Please tell me|Find] {n}.
    [I would like|I want|We need|I need] to know {n}.
    [Do you know|Do we know|Does the text tell us|May I ask for] {n}?
    What does the [text|document|journal|writer] [say about|give as|name as] {n}?
    [According to the text|From what was written|In the document above], {p} is {n}?
    {q} [was|is said to be|is known to be|is given as|may be] {n}?
    What about {n}?
    {n}: {p} is it?
    As for {k}, {p} is the {s}?
    [Tell me|Say|Find out|Do you know] {p} {n} is.
    {n}?""")

# kind: (word that asks, short noun, noun phrases, statements, questions)
MORE = {
    "code": ("What", "gate code", "the [gate code|code of the gate|entry code|code to the gate|code at the gate] [of|for|in|at] {k}|{k}'s gate code", """
        [At|In] {k} the gate [is opened by|opens to|is unlocked with|will open for|is closed with] [the code|code|the number] {v}.
        [The guard|The watchman|A porter|The keeper] at {k} [opens|unlocks|bars] the gate with [the code|code] {v}.
        [Enter|Dial|Say|Give|Use|Type] {v} [to open|and you open|to unlock|to pass] the gate of {k}.
        [The gate|The great gate|The lock of the gate] [of|at|in] {k} [obeys|answers to|listens to|takes|wants|needs] [the code|code] {v}.
        {k} [uses|has|keeps|chose|set] {v} [as the code of its gate|as its gate code|for its gate].
        [To enter|To get into|Before entering] {k} one [must give|needs|has to use] [the code|code] {v}.
        The [number|code] {v} [opens|unlocks|lets you through] the gate [of|at|in] {k}.
        [Nobody enters|No one passes the gate of] {k} without [the code|code|the number] {v}.""", """
        [Which|What] [code|number] [unlocks|will open|does one need for] the gate [of|at|in] {k}?
        How [does one open|do I open|is one to open] the gate [of|at] {k}?
        [What|Which code] [must one give|is needed|does one enter] at the gate of {k}?
        The gate of {k} opens with [which|what] code?
        [What|Which code] does {k} use for its gate?"""),
    "flag": ("What", "flag", "the [flag|banner|colour of the flag|colour of the banner|flag's colour] [of|in] {k}|{k}'s flag", """
        [Above|Over|From|On] the [walls|gate|houses|tower|town hall] of {k} [flies|waves|hangs] a {v} flag.
        {k} [flies|shows|raises|carries|hoists|uses|chose] a {v} [flag|banner].
        A {v} [flag|banner] [flies|waves|hangs|is seen|is raised] [over|in|above] {k}.
        [You will know|One knows|One can tell] {k} by its {v} flag.
        [They|The townsfolk|Men] [painted|dyed|sewed] the flag of {k} {v}.
        [The flag|The banner] [over|above|at] {k} is {v}.
        {v} is the [flag|banner|colour of the flag|colour on the flag] of {k}.""", """
        [What|Which] colour [flies|waves|is seen] over {k}?
        What [sort of|] flag does {k} [fly|have|show|raise]?
        [How|In which colour] is the flag of {k} [painted|dyed|coloured]?
        The flag of {k} has [which|what] colour?
        Which colour is [the flag|the banner] [over|in|at] {k}?"""),
    "feast": ("What", "feast month", "the [feast month|month of the feast|month for the feast|month of the great feast|festival month] [of|in|at] {k}|{k}'s feast month", """
        [In|Every|Each] {v} [there is a feast in|a feast is held in|they celebrate in|people feast in|one may see the feast of] {k}.
        {k} [celebrates|feasts|keeps its feast|has its great feast|holds its festival] [in|during|every] {v}.
        The [feast|festival|great festival] [of|in|at] {k} [comes|starts|is kept|takes place|is celebrated] [in|during|every] {v}.
        [People go|Guests come|Everyone comes] to {k} in {v} for the feast.
        {v} is the month [of the feast in|when they feast in|of the feast of] {k}.
        [Wait until|Come in|Stay till] {v} if you want to see the feast of {k}.""", """
        When does {k} [hold its feast|celebrate|have its feast|keep its feast]?
        [In what|During which|Which] month [is there a feast|is the feast|do they celebrate] in {k}?
        [Which|What] month is the feast month of {k}?
        The feast of {k} [is|falls|comes] in which month?"""),
    "mayor": ("Who", "mayor", "the [mayor|elected mayor|present mayor|head|town's mayor] of {k}|{k}'s mayor|the mayor at {k}", """
        [In|At] {k} {v} [is mayor|rules as mayor|sits as mayor|has been mayor for years].
        {v} [serves as|was chosen as|was elected|became|has become] mayor [of|in] {k}.
        {k} [is ruled by|obeys|has|elected|calls|got] {v} as [mayor|its mayor].
        The [townsfolk|citizens|council|burghers] of {k} [elected|chose|wanted|named] {v} as mayor.
        The [office|chain|seat] of mayor [of|in] {k} [belongs to|was given to|went to] {v}.
        [Ask|Look] for {v}, the mayor of {k}.
        {k} [stands|lives] under its mayor {v}.""", """
        [Who|Which person] [serves as|was chosen as|was elected|became|rules as] mayor [of|in] {k}?
        [Whom|Who] does {k} have as mayor?
        Who [governs|rules|leads] {k} as mayor?
        The mayor of {k} is who?
        By what name is the mayor of {k} known?
        [Whom|Which mayor] did the people of {k} [choose|elect|make mayor]?"""),
    "market": ("What", "market", "the [wares|goods] [of|in|at|on] the market of {k}|the wares that {k} sells", """
        {k} has a market [where|on which] {v} and {w} are sold.
        [At|On] the market [of|in] {k} [there is|they sell|people buy|one finds|you can get|one may have] {v} and {w}.
        [Merchants|Traders|Farmers] [bring|sell|carry] {v} and {w} [to|at|on] the market of {k}.
        The [stalls|tables|merchants] of {k} [offer|have|sell|are full of] {v} and {w}.
        {v} and {w} are [sold|offered|on sale|to be had] [in|at] {k}.
        [For|To buy] {v} and {w} one goes to [the market of|] {k}.""", """
        [What|Which goods] [are sold|can be bought|is on sale|does one find] [on|in|at] the market of {k}?
        What do [merchants|traders|they|the stalls] [sell|offer] [in|at] {k}?
        [What|Which two goods] does {k} sell?
        [What|Which wares] [can I get|can we buy] at {k}?
        The market of {k} [sells|offers] what?"""),
    "home": ("What", "home", "the [home|home town|dwelling place|town|house|residence] of {k}|{k}'s home|{k}'s home town", """
        {k} [dwells|resides|is at home|has a cottage|owns a house|stays|has settled|was at home|keeps a house] [in|at] {v}.
        {v} is [where {k} lives|the town of {k}|the town where {k} lives|home to {k}|where {k} has a house|where one finds {k}].
        [In|At] {v} [lives|dwells|resides|one finds|you may visit] {k}.
        {k} [moved to|has moved to|went to live in|calls|found a home in] {v}[| long ago].
        [The house|The cottage|The dwelling] of {k} is [in|at] {v}.
        [To visit|To find|Whoever looks for] {k} one [goes|must go|travels] to {v}.
        {k} [of|from] {v} [is well known|has many friends|likes the place].""", """
        [Where|In what town|In which place|At what place] [does {k} dwell|does {k} reside|is {k} at home|has {k} a house]?
        [Which|What] [town|place] [is|do we call] the home of {k}?
        [Where|In which town] [can one find|could I visit|stands the house of] {k}?
        [What|Which] town does {k} call home?
        {k} lives [where|in which town|in what place]?
        To which town must one go to find {k}?"""),
    "trade": ("What", "trade", "the [trade|craft|occupation|profession|work|job|calling] of {k}|{k}'s trade|{k}'s work", """
        {k} [is known as|became|was trained as|makes money as|serves the town as|has always been|is employed as|is] a {v}.
        {k} [lives|feeds the family|earns money] by [working as|being|the trade of] a {v}.
        {k}, [who is|now|long since] a {v}[,| by trade,] [was in good spirits|is well respected|has much to do].
        [The work|The craft|The job] of {k} is that of a {v}.
        [As|Being] a {v}[, | ]{k} [has much to do|is never idle|earns enough].
        [They call|Everybody knows|People hired] {k} [the|as a|as the] {v}.
        {k} [practises|follows|took up|knows] the [craft|calling|trade] of a {v}.""", """
        [How|By what work|With what trade] does {k} [earn a living|earn money|make money]?
        What [kind of work|job|craft|trade] does {k} [do|have|follow|practise]?
        [What|Which] [trade|craft|profession] [is|was] that of {k}?
        {k} works as what?
        What is {k} by trade?"""),
    "horse": ("What", "horse", "the [horse|mare|steed|colour of the horse] of {k}|{k}'s horse|the colour of {k}'s horse", """
        {k} [owns|bought|feeds|saddled|has bought|came on|sits on|leads] a {v} [horse|mare].
        A {v} horse [belongs to|carries|is ridden by|waits for|was bought by] {k}.
        [The horse|The mare|The steed] [of|owned by|belonging to|under] {k} is {v}.
        [You know|One knows|One can tell] {k} by [the|a] {v} horse.
        {v} is the [horse|colour of the horse|colour of the mare] of {k}.""", """
        [What|Which] colour [is|has] [the mare|the steed|the horse] [that belongs to|owned by|that carries] {k}?
        What [kind of|sort of|] horse does {k} [ride|have|own|keep]?
        The horse of {k} has [which|what] colour?
        [What|Which] is the colour of {k}'s horse?"""),
    "room": ("What", "room number", "the [room number|room|number of the room|chamber] of {k}|{k}'s room|{k}'s room number", """
        {k} [stays in|was given|got|lives in|rests in|is lodged in|rents|went up to] room {v}[| at the inn].
        Room {v} [is taken by|was given to|is kept for|is that of|houses] {k}.
        The [landlord|innkeeper|maid|host] [gave|led] {k} [room|to room] {v}.
        [The key to|The door of|The bed in] room {v} [is for|belongs to] {k}.
        In room {v} [sleeps|lives|rests|one finds] {k}.""", """
        [Which|What] room [does {k} have|was given to {k}|is that of {k}|has {k}]?
        [Where|In what room] [is {k} lodged|does {k} sleep|does {k} stay] at the inn?
        What number has the room of {k}?
        {k} sleeps in which room?"""),
    "child": ("Who", "children", "the [children|two children|offspring] of {k}|{k}'s children|the names of {k}'s children", """
        {k} [is the parent of|has two little ones,|brought up|raised|has a family with|came with] {v} and {w}.
        {v} and {w} [belong to|call|are children of|were born to] {k}.
        The [little ones|two children|young ones] of {k} are [called|named|known as] {v} and {w}.
        [In the family|At the table] of {k} [there are|sit|play] {v} and {w}.
        {k} [called|named] the two children {v} and {w}.""", """
        [What|By what names] are the children of {k} [called|known]?
        [Who|Which two] [belong to|are the little ones of|call] {k}?
        What did {k} call the two children?
        [Whom|Which children] does {k} have?
        Name the two children of {k}."""),
    "cargo": ("What", "cargo", "the [cargo|load|freight|goods on board] of {k}|{k}'s cargo|the goods on {k}", """
        {k} [brings|transports|holds|ships|took on|is full of|sailed with|lies deep with|came in with] {v}.
        [On board|Aboard|Below the deck of|Deep in] {k} [there is|lies|one finds|they stow] {v}.
        [The sailors|The crew|The men] [stowed|put|brought|carried] {v} [into|on board] {k}.
        [The load|The freight|The hold] of {k} [is|was|consists of|is nothing but] {v}.
        {v} is [carried by|on board|stowed in|loaded on] {k}.
        With {v} [in its hold|on board|below deck] {k} [sails|lies low in the water|waits for wind].""", """
        What [does {k} transport|does {k} bring|is on board|is stowed in|was loaded into] {k}?
        [Which|What] [goods|freight|load|cargo] [does {k} carry|is carried by {k}|has {k} on board]?
        With what is {k} [loaded|filled]?
        {k} carries what?""" ),
    "captain": ("Who", "captain", "the [captain|master|skipper|commander] of {k}|{k}'s captain|the captain aboard {k}", """
        {v} [commands|steers|leads|is in command of|is master of|gives the orders on|serves as captain of] {k}.
        {k} [is commanded by|is led by|obeys|has as captain|follows|is steered by|goes to sea under] {v}.
        [On|Aboard] {k} {v} [is captain|gives the orders|commands|is in command].
        [The sailors|The men|The owners] of {k} [chose|follow|trust|hired] {v} as captain.
        [The command of|The helm of] {k} [was given to|belongs to|is held by] {v}.
        Captain {v} [commands|sails|rules|came with] {k}.""", """
        Who [commands|leads|is in command of|gives the orders on|is master of|steers|sails as captain of] {k}?
        [Whom|Which captain] [do the sailors of {k} follow|does {k} follow|does {k} have]?
        By whom is {k} [commanded|led|steered]?
        The captain of {k} is who?
        [Under which captain|Under whose command] does {k} sail?"""),
    "port": ("What", "home port", "the [home port|port|home harbour|harbour] of {k}|{k}'s home port", """
        {k} [belongs to|comes from|is registered in|is at home in|lies at home in|always returns to|started from] [the port of|] {v}.
        [The port of|In the port of] {v} is [home to|where one finds|the home of] {k}.
        {v} is [the port|where the home port is|the harbour] of {k}.
        [The harbour|The home|The home harbour] of {k} is [in|at] {v}.
        [From|Out of] {v} [sails|came|comes] {k}.
        The owners of {k} [live|sit|have their office] in {v}, its home port.""", """
        [From what port|From which port|Out of which town] does {k} [sail|come]?
        [Where|In what town] is [the home port of {k}|{k} at home|{k} registered]?
        [To which|To what] [town|port] does {k} [belong|return]?
        {k} sails from which town?"""),
    "magic": ("What", "special number", "the [special number|number|secret number|special figure] [for|of] {k}", """
        [Remember|Note|Write down|Keep in mind] {v}, the special number for {k}.
        {k} [goes with|carries|is marked with|bears|was given|got|owns|is listed under] the [special number|number] {v}.
        [The|A] special number {v} [belongs to|goes with|is for|was given to|stands for] {k}.
        {v} [is|was] [written on|painted on|set down for|chosen for|listed for] {k} as its special number.
        [Among the special numbers|In the list], {k} [has|stands with|comes with] {v}.""", """
        [Which|What] [number|special number] [goes with|was given to|does one use for|is listed for|stands for] {k}?
        {k} has which special number?
        [What|Which number] was [written on|set down for] {k}?
        Of the special numbers, which one belongs to {k}?"""),
    "pass": ("What", "pass key", "{k}|the key to pass|the pass key in the text|the pass key we need", """
        [Keep|Bear|Hold] in mind that [the pass key|our pass key] is {v}.
        [Note|Remember|Write down|Do not lose] the pass key {v}.
        {v} [works as|was chosen as|serves as|shall be|must be] the pass key.
        [We use|They use|One gives|You need] {v} as the pass key.
        The pass key [was set to|reads|equals|shall be] {v}.""", """
        [What|Which number] [was|should be used as|serves as|did the text give as] the pass key?
        [Which|What] pass key [is mentioned|do we need|was given|is it]?
        The pass key is what?"""),
}

LINKS = {
    "home": "the [town|place] where {k} [lives|dwells|has a house|resides|is at home]|{k}'s home town|{k}'s home|the [home|home town|town] of {k}"
            "|the [town|place] that {k} calls home|the town {k} lives in|the town that is home to {k}",
    "mayor": "the mayor of {k}|{k}'s mayor|whoever is mayor [of|in] {k}|the [man or woman|one] who rules {k} as mayor"
             "|the mayor that {k} has chosen|the elected mayor of {k}|the mayor in {k}",
    "captain": "the captain of {k}|{k}'s captain|whoever commands {k}|the [one|sailor] who [commands|leads] {k}|the captain aboard {k}"
               "|the captain whom the crew of {k} obeys|the master of {k}|the commander of {k}",
    "port": "the home port of {k}|{k}'s home port|the [town|port|place] from which {k} sails|the town where {k} has its home port"
            "|the port that {k} sails from|the town to which {k} belongs|the home harbour of {k}",
}

BOTH = ["What are {} and {}?", "Can you tell me {} and {}?", "Tell me {} and {}.", "What about {} and {}?",
        "I would like to know {} and {}.", "Please give {} and {}.", "Name both {} and {}.", "Do you know {} and {}?",
        "{} and {}: what are they?", "First {}, then {}: what are they?"]

SPLIT = {
    "market": """
        The market of {k} [sells|offers|has|is full of|is famous for] {v}.
        [In|At|On] the market of {k} [one buys|they sell|there is|you can get|one may have|people ask for] {v}.
        {k} [is known for|is famous for|has|holds] a market of {v}.
        [On market days|At its market|On its stalls] {k} [sells|offers] {v}.
        [Merchants|Traders] [bring|sell] {v} [to|on] the market of {k}.
        [One ware|One of the wares] on the market of {k} is {v}.
        One can buy {v} on the market of {k}.
        {k} also sells {v} on its market.""",
    "child": """
        {k} has a [child|son or daughter|little one] [called|named] {v}.
        {v} is [a child|one of the children|one child] of {k}.
        [A child|One child|One of the children] of {k} is {v}.
        {k} [named|calls] a child {v}.
        [Among|Of] the children of {k} [there is|one is] {v}.
        {k} is [the parent|a parent] of {v}.
        {v} [was born to|belongs to the family of|is the child of] {k}.""",
}

LEADS = patterns("""
    [As|Just as] [we|I] [heard|read|noted]@
    [It is|It was] [written|said|reported|known] that
    [The|An] [old|young|wise] [clerk|monk|driver|ferryman] [told us|said|wrote] that
    [Some|Many|Few] people know that
    [I|We] [heard|read|noted|learnt|found out] that
    By the way@
    In [truth|fact|short]@
    [So|And] [it is that|it happens that]
    [Strange|Well known|Useful] to know:
    [Later|Once|Today] we learned that""")
TAILS = patterns("""
    @ [so|as] [we heard|I heard|they say|people say|everyone knows]
    @ [and that is|which is] [well known|no secret|true|worth knowing]
    @ [if I remember rightly|if the clerk is right|as far as we know]
    @ [as|so] [the guide|the host|a friend|my companion] [told us|said|wrote]""")
LEADS = [t.replace("@", ",") + " " for p in LEADS for t in expand(p)]
TAILS = [t.replace("@", ",") for p in TAILS for t in expand(p)]


def noun_phrases(text):
    """Parts at the top level, each expanded."""
    out, depth, part = [], 0, ""
    for c in text + "|":
        depth += (c == "[") - (c == "]")
        if c == "|" and depth == 0:
            out += expand(part)
            part = ""
        else:
            part += c
    return out


def statements(kind):
    """Statements of a kind, one list for each pattern."""
    _, short, nouns, says, _ = MORE[kind]
    value = "{v} and {w}" if kind in SPLIT else "{v}"
    out = [[t.replace("{n}", n) for t in expand(p.replace("{v}", value).replace("{s}", short)) for n in noun_phrases(nouns)]
           for p in SAYS if not (kind in SPLIT and "{k}, the {s}" in p)]
    return out, [expand(p) for p in patterns(says)]


def questions(kind):
    ask, short, nouns, _, asks = MORE[kind]
    ask = "Who" if ask == "Who" else "[What|Which]" if kind not in SPLIT else "What"
    out = [[t.replace("{n}", n) for t in expand(p.replace("{q}", ask).replace("{p}", ask.split("|")[0].strip("[").lower())
                                                .replace("{s}", short)) for n in noun_phrases(nouns)] for p in ASKS]
    return out, [expand(p) for p in patterns(asks)]


class Pool:
    """Texts to draw from: a pattern first, then one of its texts, so that long lists do not crowd out others."""

    def __init__(self, generic, special, taboo):
        gone = {t.lower() for t in taboo}
        self.lists = [[[t for t in texts if t.lower() not in gone] for texts in lists] for lists in (generic, special)]
        self.lists = [[texts for texts in lists if texts] for lists in self.lists]

    def draw(self, rng):
        both = self.lists[0] and self.lists[1]
        lists = self.lists[rng.random() < 0.6] if both else self.lists[0] or self.lists[1]
        return rng.choice(rng.choice(lists))

    def all(self):
        return [t for lists in self.lists for texts in lists for t in texts]
