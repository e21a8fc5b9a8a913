"""English."""

from __future__ import annotations

from wenlan_jax.synthetic.language.base import Language, Noun, Setting


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


class English(Language):
    """English noun phrases have no agreement but the form of the article."""

    def phrase(self, shape: str, colour: str, size: str = "", texture: str = "solid") -> str:
        """Builds the noun phrase with "a" or "an"."""
        words = (size, colour, "" if texture == "solid" else texture, self.nouns[shape].word)
        return _article(" ".join(word for word in words if word))

    def forms(self, shape: str) -> dict[str, str]:
        """Adds the noun with its articles."""
        noun = self.nouns[shape].word
        return super().forms(shape) | {"the": f"the {noun}", "a": _article(noun)}


ENGLISH = English(
    code="en",
    nouns={
        "circle": Noun("circle", many="circles"),
        "square": Noun("square", many="squares"),
        "triangle": Noun("triangle", many="triangles"),
        "star": Noun("star", many="stars"),
        "heart": Noun("heart", many="hearts"),
        "ring": Noun("ring", many="rings"),
        "cross": Noun("cross", many="crosses"),
        "moon": Noun("crescent moon", many="crescent moons"),
        "house": Noun("house", many="houses"),
        "fish": Noun("fish", many="fish"),
        "tree": Noun("tree", many="trees"),
        "flower": Noun("flower", many="flowers"),
        "boat": Noun("boat", many="boats"),
        "mushroom": Noun("mushroom", many="mushrooms"),
        "arrow": Noun("arrow", many="arrows"),
        "cup": Noun("cup", many="cups"),
    },
    colours={
        name: name
        for name in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black")
    },
    textures={"solid": "plain", "striped": "striped", "dotted": "dotted", "checked": "checked"},
    settings={
        "white": Setting("plain white", "on a plain white background"),
        "black": Setting("plain black", "on a plain black background"),
        "grey": Setting("plain grey", "on a plain grey background"),
        "paper": Setting("squared paper", "on squared paper"),
        "pastel": Setting("pastel gradient", "on a pastel gradient"),
        "sky": Setting("cloudy sky", "in front of a blue sky with clouds"),
        "meadow": Setting("meadow", "in a green meadow"),
        "sea": Setting("sea", "by the sea"),
        "night": Setting("night sky", "under a starry night sky"),
        "desert": Setting("desert", "in the desert"),
        "snow": Setting("snow", "in a snowy landscape"),
        "sunset": Setting("sunset", "at sunset"),
        "wood": Setting("wooden table", "on a wooden table"),
    },
    positions=(
        "in the top left corner", "at the top", "in the top right corner",
        "on the left", "in the middle", "on the right",
        "in the bottom left corner", "at the bottom", "in the bottom right corner",
    ),
    truths={"yes": "yes", "no": "no"},
    comma=", ",
    last_comma=" and ",
    placed="{thing} {position}",
    relations={
        "left": "to its left {thing}",
        "right": "to its right {thing}",
        "above left": "above it to the left {thing}",
        "above": "above it {thing}",
        "above right": "above it to the right {thing}",
        "below left": "below it to the left {thing}",
        "below": "below it {thing}",
        "below right": "below it to the right {thing}",
    },
    styles=(
        "{things}, {where}.",
        "{where}: {things}.",
        "A picture of {things}, {where}.",
        "You can see {things}, {where}.",
    ),
    chains=("{things}, all {where}.", "{where} there is {things}."),
    chain_comma=", ",
    questions={
        "colour": ("What colour is the {noun}?", "Which colour does the {noun} have?"),
        "texture": ("What pattern does the {noun} have?", "Is the {noun} plain, striped, dotted or checked?"),
        "place": ("What is {position}?", "Which shape is {position}?"),
        "count": ("How many {many} are there?", "How many {many} are in the picture?"),
        "total": ("How many things are in the picture?", "How many shapes are there in all?"),
        "exists": ("Is there {thing}?", "Is there {thing} in the picture?"),
        "larger": ("Which is larger, the {noun} or the {other_noun}?",),
        "background": ("What is the background?", "What kind of background is it?"),
    },
    moods=(
        "Some days just feel lighter than others.", "Nothing to add today.", "A quiet moment before the week begins.",
        "Thank you all for a thousand likes!", "Found this in an old folder.", "Who else cannot sleep?",
        "Small things, great joy.", "My first try, please be kind.", "More of this tomorrow.",
        "What would you call this one?", "Sometimes less is more.", "Happy weekend, everyone!",
        "A present from my little sister.", "It took me three evenings to finish this.",
    ),
    remarks=(
        "The {noun} says it all.", "{a}, and that is enough for me.", "My favourite: the {noun}.",
        "When I was a child I used to draw {many}.", "Everybody needs {a} now and then.",
        "Guess who loves {many}?", "The story of the {noun}, part one.", "About {many} and other dreams.",
        "Why is it always the {noun}?", "New in our shop: {many}.", "Today's word: {noun}.",
        "I saw the {noun} and had to smile.",
    ),
    atmospheres={
        "white": ("A clean page, a new beginning.", "As white as a new notebook.", "So much empty space."),
        "black": ("In complete darkness.", "Black suits everything.", "Somebody has turned off the light."),
        "grey": ("A grey Monday.", "Neither black nor white.", "The weather is grey, and so am I."),
        "paper": ("Back to school!", "From my maths notebook.", "Drawn between two lessons."),
        "pastel": (
            "Soft colours for soft hearts.",
            "Everything in pastel.",
            "As gentle as a spring morning.",
        ),
        "sky": ("Head in the clouds.", "Finally a blue sky again.", "The clouds are passing by."),
        "meadow": (
            "Green as far as the eye can see.",
            "Barefoot through the grass.",
            "A day in the country.",
        ),
        "sea": ("Salt in the air.", "I miss the sea.", "The waves never get tired."),
        "night": ("Good night, world.", "Under the stars.", "Nights like these are made for dreaming."),
        "desert": ("Nothing but sand and sun.", "Forty degrees in the shade.", "Far away in the desert."),
        "snow": ("The first snow!", "Winter is here.", "Cold hands, warm heart."),
        "sunset": ("The last light of the day.", "One more sunset.", "The evening sky is on fire."),
        "wood": ("On grandmother's table.", "Fresh from the workshop.", "Nothing smells as good as wood."),
    },
)  # fmt: skip
