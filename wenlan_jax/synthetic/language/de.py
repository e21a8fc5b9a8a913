"""German: three genders, strong adjective endings in the nominative."""

from __future__ import annotations

from wenlan_jax.synthetic.language.base import Language, Noun, Setting

_ENDINGS = {"m": "er", "f": "e", "n": "es"}
_INDEFINITE = {"m": "ein", "f": "eine", "n": "ein"}
_DEFINITE = {"m": "der", "f": "die", "n": "das"}
_SIZES = {"small": "klein", "large": "groß"}
_TEXTURES = {"striped": "gestreift", "dotted": "gepunktet", "checked": "kariert"}
_INFLECTED = {"orange": "orangefarben", "pink": "rosafarben"}  # the plain words take no endings


class German(Language):
    """German; `phrase` stands in the nominative."""

    def phrase(self, shape: str, colour: str, size: str = "", texture: str = "solid") -> str:
        """Builds the noun phrase; article and adjectives agree with the noun's gender."""
        noun = self.nouns[shape]
        stems = [
            _SIZES.get(size, ""),
            _TEXTURES.get(texture, ""),
            _INFLECTED.get(colour, self.colours[colour]),
        ]
        adjectives = [stem + _ENDINGS[noun.gender] for stem in stems if stem]
        return " ".join([_INDEFINITE[noun.gender], *adjectives, noun.word])

    def forms(self, shape: str) -> dict[str, str]:
        """Adds the noun with its articles."""
        noun = self.nouns[shape]
        articles = {
            "the": f"{_DEFINITE[noun.gender]} {noun.word}",
            "a": f"{_INDEFINITE[noun.gender]} {noun.word}",
        }
        return super().forms(shape) | articles


GERMAN = German(
    code="de",
    nouns={
        "circle": Noun("Kreis", "m", "Kreise"),
        "square": Noun("Quadrat", "n", "Quadrate"),
        "triangle": Noun("Dreieck", "n", "Dreiecke"),
        "star": Noun("Stern", "m", "Sterne"),
        "heart": Noun("Herz", "n", "Herzen"),
        "ring": Noun("Ring", "m", "Ringe"),
        "cross": Noun("Kreuz", "n", "Kreuze"),
        "moon": Noun("Mondsichel", "f", "Mondsicheln"),
        "house": Noun("Haus", "n", "Häuser"),
        "fish": Noun("Fisch", "m", "Fische"),
        "tree": Noun("Baum", "m", "Bäume"),
        "flower": Noun("Blume", "f", "Blumen"),
        "boat": Noun("Boot", "n", "Boote"),
        "mushroom": Noun("Pilz", "m", "Pilze"),
        "arrow": Noun("Pfeil", "m", "Pfeile"),
        "cup": Noun("Tasse", "f", "Tassen"),
    },
    colours={
        "red": "rot", "orange": "orange", "yellow": "gelb", "green": "grün", "blue": "blau",
        "purple": "violett", "pink": "rosa", "brown": "braun", "white": "weiß", "black": "schwarz",
    },
    textures={"solid": "einfarbig", **_TEXTURES},
    settings={
        "white": Setting("weiße Fläche", "auf weißem Hintergrund"),
        "black": Setting("schwarze Fläche", "auf schwarzem Hintergrund"),
        "grey": Setting("graue Fläche", "auf grauem Hintergrund"),
        "paper": Setting("kariertes Papier", "auf kariertem Papier"),
        "pastel": Setting("Pastellverlauf", "auf einem pastellfarbenen Verlauf"),
        "sky": Setting("Wolkenhimmel", "vor einem blauen Himmel mit Wolken"),
        "meadow": Setting("Wiese", "auf einer grünen Wiese"),
        "sea": Setting("Meer", "am Meer"),
        "night": Setting("Nachthimmel", "unter dem nächtlichen Sternenhimmel"),
        "desert": Setting("Wüste", "in der Wüste"),
        "snow": Setting("Schnee", "in einer verschneiten Landschaft"),
        "sunset": Setting("Sonnenuntergang", "bei Sonnenuntergang"),
        "wood": Setting("Holztisch", "auf einem Holztisch"),
    },
    positions=(
        "oben links", "oben in der Mitte", "oben rechts",
        "links", "in der Mitte", "rechts",
        "unten links", "unten in der Mitte", "unten rechts",
    ),
    truths={"yes": "ja", "no": "nein"},
    comma=", ",
    last_comma=" und ",
    placed="{thing} {position}",
    relations={
        "left": "links davon {thing}",
        "right": "rechts davon {thing}",
        "above left": "links darüber {thing}",
        "above": "darüber {thing}",
        "above right": "rechts darüber {thing}",
        "below left": "links darunter {thing}",
        "below": "darunter {thing}",
        "below right": "rechts darunter {thing}",
    },
    styles=(
        "{things}, {where}.",
        "{where}: {things}.",
        "Auf dem Bild: {things}, {where}.",
        "Zu sehen {where}: {things}.",
    ),
    chains=("{things}, alles {where}.", "{where} ist {things}."),
    chain_comma=", ",
    questions={
        "colour": ("Welche Farbe hat {the}?", "In welcher Farbe ist {the} gezeichnet?"),
        "texture": ("Wie ist {the} gemustert?", "Ist {the} einfarbig, gestreift, gepunktet oder kariert?"),
        "place": ("Was ist {position}?", "Was befindet sich {position}?"),
        "count": ("Wie viele {many} gibt es?", "Wie viele {many} sind auf dem Bild?"),
        "total": ("Wie viele Dinge sind auf dem Bild?", "Wie viele Figuren sind es insgesamt?"),
        "exists": ("Ist {thing} zu sehen?", "Ist auf dem Bild {thing}?"),
        "larger": ("Was ist größer, {the} oder {other_the}?",),
        "background": ("Was ist der Hintergrund?", "Welcher Hintergrund ist zu sehen?"),
    },
    moods=(
        "Manche Tage sind einfach leichter.", "Heute ohne Worte.", "Ein stiller Moment vor der neuen Woche.",
        "Danke für tausend Herzen!", "In einem alten Ordner gefunden.", "Wer kann auch nicht schlafen?",
        "Kleine Dinge, große Freude.", "Mein erster Versuch, seid nett zu mir.", "Morgen geht es weiter.",
        "Wie würdet ihr das nennen?", "Weniger ist manchmal mehr.", "Schönes Wochenende euch allen!",
        "Ein Geschenk von meiner kleinen Schwester.", "Drei Abende habe ich daran gesessen.",
    ),
    remarks=(
        "{the} sagt alles.", "{a}, mehr brauche ich nicht.", "Mein Liebling: {the}.",
        "Als Kind habe ich gern {many} gemalt.", "Manchmal hilft nur {a}.",
        "Ratet mal, wer {many} liebt!", "Heute in der Hauptrolle: {the}.", "Über {many} und andere Träume.",
        "Warum ist es immer {the}?", "Neu bei uns im Laden: {many}.", "Wort des Tages: {noun}.",
        "Da war {the}, und ich musste lächeln.",
    ),
    atmospheres={
        "white": (
            "Eine leere Seite, ein neuer Anfang.",
            "So weiß wie ein neues Heft.",
            "So viel freier Platz.",
        ),
        "black": ("In völliger Dunkelheit.", "Schwarz passt zu allem.", "Jemand hat das Licht ausgemacht."),
        "grey": (
            "Ein grauer Montag.",
            "Weder schwarz noch weiß.",
            "Das Wetter ist grau, und ich bin es auch.",
        ),
        "paper": (
            "Die Schule geht wieder los!",
            "Aus meinem Matheheft.",
            "Zwischen zwei Stunden gezeichnet.",
        ),
        "pastel": (
            "Sanfte Farben für sanfte Herzen.",
            "Alles in Pastell.",
            "So zart wie ein Frühlingsmorgen.",
        ),
        "sky": ("Mit dem Kopf in den Wolken.", "Endlich wieder blauer Himmel.", "Die Wolken ziehen vorbei."),
        "meadow": ("Grün, so weit das Auge reicht.", "Barfuß durchs Gras.", "Ein Tag auf dem Land."),
        "sea": ("Salz in der Luft.", "Ich vermisse das Meer.", "Die Wellen werden niemals müde."),
        "night": ("Gute Nacht, Welt.", "Unter den Sternen.", "Solche Nächte sind zum Träumen da."),
        "desert": ("Nichts als Sand und Sonne.", "Vierzig Grad im Schatten.", "Weit weg in der Wüste."),
        "snow": ("Der erste Schnee!", "Der Winter ist da.", "Kalte Hände, warmes Herz."),
        "sunset": ("Das letzte Licht des Tages.", "Noch ein Sonnenuntergang.", "Der Abendhimmel brennt."),
        "wood": ("Auf Omas Tisch.", "Frisch aus der Werkstatt.", "Nichts duftet so gut wie Holz."),
    },
)  # fmt: skip
