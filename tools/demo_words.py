"""Words, names and filler sentences for the documents of the demo model (demo_data.py)."""

PEOPLE = """Tobias Helena Martin Agnes Conrad Beatrix Edmund Clara Felix Dorothea Gideon Edith Hugo Flora
Jasper Greta Lambert Harriet Magnus Ingrid Nestor Johanna Oswald Katrin Philip Lavinia Quentin Matilda Rupert
Nora Silas Ottilie Tristan Paula Ulric Rosalind Victor Sabina Walter Theodora Xaver Ursula Yorick Verena
Anselm Wilma Bertram Yvonne Cyril Adela Dietrich Brigid Ephraim Cecilia Florian Dinah Gustav Elspeth Herman
Frieda Isidor Gwendolen Julius Hedwig Kaspar Isolde Leopold Judith Moritz Kunigund Norbert Lucia Otmar
Mirabel Percival Nadia Reinhold Olympia Sebald Petra Thaddeus Ramona Urban Sidonia Valentin Tabitha Wendel
Viola Zacharias Winifred Ambrose Zenobia Basil Arabella Clement Bettina Damian Corinna""".split()

TOWNS = """Marlow Hadley Brenford Castleton Dunmore Elmsworth Fairhaven Glenwick Harrowgate Ironbridge
Kestwick Langford Millbrook Northam Oakhurst Pendleton Quarrington Ravensby Stonefield Thornbury Underhill
Valmont Westerly Yarrow Ashdown Birchley Cranmere Dovedale Eastwick Foxley Greystoke Holmfirth Inverlyn
Jarrowby Kilburn Linfield Moorgate Netherby Orford Penrith Redcliff Selwood Tamworth Upton Vinehall Wexcombe
Aldgrove Bexhill Coldwater Darnley Emberton Fernhill Goldsby Highmoor Ilkstone Junewell Kingsmere Lowick
Mapleton Newbold Oxley Pinebury Quillan Rosedale Saltash Tilbury Ulverton Vexford Winslow Yelland Amberley
Blackfen Caldwell Denholm Everdale Farnborough Gorsley Hollin Islip Juniper Kelmscot Larkspur Merrow Nunton
Otterburn Pelham Radley Sandgate Tiverton Uffington Venlow Wadhurst Alnwick Burwash Corfe Ditchling
Exmoor Frome Girton Hythe""".split()

SHIPS = """Petrel Albatross Kestrel Falcon Heron Osprey Gannet Plover Curlew Swallow Nightingale Pelican
Cormorant Merlin Harrier Sparrow Skylark Kingfisher Bittern Avocet Dunlin Lapwing Wagtail Goshawk Raven
Starling Magpie Thrush Linnet Siskin Fulmar Puffin Sandpiper Whimbrel Godwit Turnstone Redshank Greylag
Pintail Teal""".split()

COLOURS = """red green blue yellow white black purple orange brown grey pink silver golden crimson scarlet
violet turquoise ivory amber indigo""".split()

TRADES = """baker smith weaver miller carpenter potter tailor mason fisher hunter painter printer brewer
butcher cobbler glazier tanner cooper shepherd gardener clockmaker bookbinder saddler locksmith goldsmith
apothecary surgeon lawyer teacher musician ferryman beekeeper roofer hatter gravedigger""".split()

GOODS = """salt wool timber copper tin wheat barley honey wax silk linen cotton pepper cinnamon saffron tea
coffee sugar tobacco wine cider oil coal iron slate marble glass paper leather fur amethyst ginger rice
flax hemp rope tar candles herring cheese""".split()

MONTHS = "January February March April May June July August September October November December".split()

# Filler. Each {slot} is filled at random from SLOTS.
SLOTS = {
    "time": """in the morning|before noon|late in the day|after sunset|at first light|toward evening|around midday|
        in the small hours|after supper|before breakfast""",
    "weather": """rain|fog|snow|wind|sunshine|drizzle|hail|thunder|mist|frost""",
    "adj": """narrow|old|quiet|steep|muddy|broad|dusty|crooked|pleasant|lonely|crowded|cold|warm|dark|bright|
        friendly|strange|small|large|plain|handsome|broken|empty|windy|sunny""",
    "place": """valley|bridge|market|chapel|harbour|meadow|orchard|inn|mill|courtyard|square|forest|hill|field|
        garden|tower|stable|quarry|ford|well|barn|lane|library|cellar|kitchen|workshop""",
    "who": """a farmer|an old woman|a boy|two brothers|the guide|a pilgrim|the driver|a widow|three children|
        the keeper|a soldier|a stranger|the landlady|a student|the carrier|a trader|my companion|a traveller""",
    "thing": """a basket|a lantern|a wooden box|a map|a letter|a blanket|a kettle|a broken wheel|a bundle of straw|
        a pair of boots|a walking stick|a bag of apples|a clay jar|an iron key|a small drum|a coat|a ladder""",
    "food": """bread|soup|fish|onions|apples|stew|porridge|eggs|mushrooms|pears|beans|roast meat|dumplings|
        butter|milk|cabbage""",
    "did": """waited|rested|talked|slept|walked about|looked around|wrote letters|mended our clothes|counted our coins|
        listened|drew pictures|played cards|sang""",
    "feel": """tired|glad|hungry|curious|cheerful|thirsty|worried|content|surprised|grateful|bored|calm""",
    "num": """two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty""",
    "unit": """hours|days|weeks|years|miles""",
    "tree": """oak|pine|birch|willow|elm|chestnut|beech|ash|poplar|lime""",
    "animal": """dog|goat|horse|mule|cat|goose|hen|cow|donkey|pig|owl|fox""",
    "part": """roof|door|window|floor|wall|chimney|staircase|fence|gate|bell""",
    "mat": """stone|wood|brick|clay|straw|tiles|planks|moss""",
}
SLOTS = {k: [w.strip() for w in v.replace("\n", " ").split("|")] for k, v in SLOTS.items()}

FILLER = """We left the {adj} {place} {time} and followed the road for {num} miles.
The {weather} did not stop until we had passed the {place}.
{who} sold us {food} and would not take more than {num} coins.
There was {weather} over the {place}, and nobody wished to travel.
I sat by the {place} and {did} while the others {did}.
Near the {adj} {place} stood {num} {tree} trees, older than anyone could say.
{who} came along the {adj} lane carrying {thing}.
The {part} of the {place} was made of {mat} and had been repaired many times.
We were {feel}, but the {place} was still {num} miles away.
At the {place} we met {who}, who had walked for {num} {unit}.
My companion bought {thing} and afterwards regretted it.
The {animal} belonging to {who} followed us as far as the {place}.
{time}, the {weather} turned to {weather}, and we took shelter in a {place}.
Supper was {food} with {food}, and we ate it beside the fire.
It is said that the {place} was built by {who} in a single summer.
The path went down through {tree} woods and then up again to a {adj} {place}.
Nobody could explain why the {part} had been left open.
We {did} for {num} hours and spoke very little.
I was {feel} to see the {place} again after so many {unit}.
The {adj} {place} smelled of {food} and {mat}.
{who} told a long story about a {animal} and a {place}.
On the other side of the {place} the land is {adj} and {adj}.
A {animal} slept under the {tree}, and {who} watched over it.
We asked {who} about the way, and the answer was not very clear.
The bell of the {place} rang {num} times {time}.
Our guide was {feel} and wanted to rest near the {place}.
There is little to report except {weather} and more {weather}.
The rooms were {adj}, but the beds were clean and the {food} was good.
Along the wall somebody had planted {tree} trees and hung up {thing}.
I lost {thing} on the way and found {thing} instead.
For {num} {unit} the {place} had stood empty.
{who} laughed at our boots and gave us {food}.
The river was high because of the {weather}, and the ferry could not cross.
We crossed the {adj} {place} without seeing a single {animal}.
In the corner of the {place} lay {thing}, covered with {mat}.
The {part} needed paint, and the {part} would not close.
{time} we climbed the hill to look at the {place} below.
Some say the {weather} comes early here, and others say it comes late.
The children of the village {did} near the {adj} {place}.
I slept badly, since a {animal} made noise outside the {part}.
Without {thing} the journey would have been much harder.
We shared our {food} with {who} and parted as friends.
From the {part} one could see the {place} and the {tree} trees behind it.
The market was {adj}, with {food}, {food} and {food} on every table.
{who} had lived beside the {place} for {num} years and had never left it.
The wheel broke near a {place}, and it took {num} hours to mend.
It was a {adj} day, and everybody was {feel}.
Behind the {place} there is a {adj} path which few people use.
We counted {num} boats and {num} carts before the {weather} hid them.
The floor was of {mat}, and the {part} was of {mat}.
Perhaps we shall return to the {place} when the {weather} is over.
I wrote these lines {time}, feeling {feel} and a little {feel}.""".split("\n")

TITLES = ["A Journal of the Road", "Notes from a Long Journey", "The Chronicle of the Valley Road", "Letters of a Traveller",
          "A Book of Days"]

# Compositional names: every pair may occur, each part is one token. A pair is either for training or
# held out, by its hash (demo_facts.held).
TOWN_A = """Ald Ash Bar Bel Black Brook Cal Chad Clar Cold Dal Dern East Elm Fen Gar Glen Hart Hazel High Holm
Ivel Kel Kings Lang Lime Mal Mar Mill Nor North Oak Pen Quar Raven Red Sal Stan Stone Sutter Thorn Under Wald
West Wind Wolf Yarn Zel""".split()
TOWN_B = """bury bridge by combe cote dale den field ford gate ham haven hurst ley mere minster moor port stead
stoke ton well wick worth""".split()
SURNAMES = """Abbot Barlow Carver Dawson Ellery Farrow Gresham Hobday Irving Jessop Kettle Lorimer Mercer Norris
Ogden Prowse Quill Rigby Sorrel Thackeray Upshaw Varley Whitlock Yardley Ansty Bolton Chaffin Drake Esmond
Fletcher Garrick Haddon Inchbald Jolley Keating Lomax Maddox Nettle Oakes Pascoe Rowan Salter Tindall Usher
Vesey Wakeling Yates Ames Blount Crane""".split()
SHIP_ADJ = """Silent Merry Bold Swift Proud Gentle Faithful Lucky Royal Little Brave Wild Grey Golden Stormy
Eager Noble Hardy Jolly Weary""".split()
NOUNS = """anchor apron arrow barrel beacon bellows bonnet bottle bucket button candle carpet chapel cradle cushion
drawer feather fiddle goblet hammer hatchet helmet hinge kettle ladder lantern locket mallet mantle mirror
needle nutmeg pebble pillow pulley quiver ribbon rudder saucer scissor shovel spindle stirrup tankard thimble
trumpet tunnel velvet wallet whistle""".split()
ADJECTIVES = """quiet rusty hollow polished crimson slender wooden painted ancient crooked shiny woven carved
faded heavy gilded striped frozen tiny curved""".split()

# Filler that names people, towns and ships without telling anything about them.
MENTIONS = """We met {person} on the road near {town}.
The road from {town} to {town} was {adj} and {adj}.
{person} and {person} sat by the {place} and {did}.
From {town} we walked for {num} {unit}.
{person} had heard nothing of {person} for {num} {unit}.
The {ship} lay at anchor while we {did}.
In {town} there is a {adj} {place} behind the {place}.
{person} sold {thing} to {who}.
We saw the {ship} pass {time}.
Nobody in {town} knew the way to the {place}.
{person} was {feel}, and {person} was {feel}, too.
Between {town} and the {place} we lost {thing}.
The {ship} sailed {time} in spite of the {weather}.
{person} spoke of {town} for {num} hours.""".split("\n")

# Filler of the evaluation only.
HELD_FILLER = """A {adj} {place} lay behind the {tree} trees, and {who} {did} there.
{time} the {weather} came back, and the {place} was soon {adj} again.
Our supper of {food} was {adj}, but nobody was {feel}.
{who} walked {num} miles with us and carried {thing}.
The {animal} stood by the {part} and would not move for {num} hours.
There were {num} {tree} trees beside the {place}, and under them {thing}.
We gave {who} {food}, since the {place} was closed.
Through the {part} we heard a {animal} and the {weather}.
{who} had painted the {part} of the {place} {time}.
I have seen many a {place}, but none so {adj}.""".split("\n")
HELD_MENTIONS = """{person} waited for us near {town}, {feel} and {feel}.
{num} miles behind {town} we saw {person} with {thing}.
The {ship} was a {adj} sight {time}.
We asked {person} about the {place}, and {person} laughed.""".split("\n")

# Words in front of and behind a fact.
LEADS = ["As we were told, ", "According to the ledger, ", "Everyone here knows that ", "Let it be noted that ",
         "The innkeeper said that ", "We learned that "]
TAILS = [", so the people say", ", as the old book says", ", and this is certain", ", as I wrote in my notes"]
