"""What sentences of questions are made of."""


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CITIES = _split(
    "Paris London Berlin Rome Madrid Vienna Lisbon Athens Dublin Warsaw Moscow Cairo Tokyo "
    "Delhi Boston Chicago Denver Dallas Toronto Sydney Geneva Milan Naples Venice Prague Oslo "
    "Havana Lima"
)
THINGS = _split(
    "apple river hammer garden candle window silver bridge winter paper stone water iron bread "
    "horse island letter market mountain needle ocean orange pencil planet ribbon school shadow "
    "ship spring summer table temple thunder tiger tower valley village violin wagon wheel"
)
NAMES = _split(
    "Anna Ben Clara David Emma Frank Grace Henry Ida James Kate Louis Mary Nora Oscar Paul Rosa "
    "Samuel Tom Victor"
)
JOBS = _split(
    "farmer teacher lawyer doctor sailor painter writer soldier baker carpenter judge pilot "
    "shepherd tailor miner printer"
)
REPLIES = {
    "What do cows eat?": "Cows eat grass and hay.",
    "Who governs the country?": "The country is governed by the President and Congress.",
    "How do ships cross the sea?": "Ships cross the sea by sail or by steam.",
    "Where do fish live?": "Fish live in the water of rivers and seas.",
    "Why do people pay taxes?": "People pay taxes so that the government can pay its debts.",
    "What is a school for?": "A school is a place where children learn to read and write.",
    "When does snow fall?": "Snow falls in winter, when it is cold.",
    "What does a judge do?": "A judge decides cases by the law.",
    "How is bread made?": "Bread is made of flour, water and yeast.",
    "Why do birds build nests?": "Birds build nests to lay their eggs in them.",
    "What is the army for?": "The army defends the nation in war.",
    "How does a letter reach me?": "A letter reaches you by the post office.",
    "Where does gold come from?": "Gold comes from mines in the mountains.",
    "What do farmers grow?": "Farmers grow wheat, corn and cotton.",
    "Who teaches children?": "Children are taught by a teacher.",
    "What is a treaty?": "A treaty is an agreement between two nations.",
    "How do trains move?": "Trains move on railroads, drawn by an engine.",
    "What does a doctor do?": "A doctor treats people who are sick.",
    "Why do we sleep?": "We sleep at night because our body needs rest.",
    "What is money used for?": "Money is used to buy and sell goods.",
    "Where is the capital?": "The capital is the city of Washington.",
    "What is an island?": "An island is land with water on every side.",
    "How do bees make honey?": "Bees make honey from the nectar of flowers.",
    "What does the sun give us?": "The sun gives us light and warmth.",
    "What is a library?": "A library is a house with many books.",
    "How do I sort a list in Python?": "Call sorted(values), which returns a new list.",
    "How do I open a file in Python?": "Use with open(path) as file, then file.read().",
    "How do I define a function in Python?": "Write def name(arguments): and return a value.",
}
