"""French: two genders, elision, adjectives before and after the noun."""

from __future__ import annotations

from wenlan_jax.synthetic.language.base import Language, Noun, Setting

_VOWELS = "aeiouéèêâîôûœ"
_SIZES = {"small": ("petit", "petite"), "large": ("grand", "grande")}
_COLOURS = {
    "red": ("rouge", "rouge"),
    "orange": ("orange", "orange"),
    "yellow": ("jaune", "jaune"),
    "green": ("vert", "verte"),
    "blue": ("bleu", "bleue"),
    "purple": ("violet", "violette"),
    "pink": ("rose", "rose"),
    "brown": ("marron", "marron"),
    "white": ("blanc", "blanche"),
    "black": ("noir", "noire"),
}
_SUFFIXES = {"solid": "", "striped": " à rayures", "dotted": " à pois", "checked": " à carreaux"}


def _elide(long: str, short: str, word: str) -> str:
    return f"{short}{word}" if word[0] in _VOWELS else f"{long} {word}"


class French(Language):
    """French; colours follow the noun in its gender, sizes come before it."""

    def phrase(self, shape: str, colour: str, size: str = "", texture: str = "solid") -> str:
        """Builds the noun phrase; article and adjectives agree with the noun's gender."""
        noun = self.nouns[shape]
        feminine = noun.gender == "f"
        before = [_SIZES[size][feminine]] if size else []
        words = ["une" if feminine else "un", *before, noun.word, _COLOURS[colour][feminine]]
        return " ".join(words) + _SUFFIXES[texture]

    def forms(self, shape: str) -> dict[str, str]:
        """Adds the noun with its articles."""
        noun = self.nouns[shape]
        feminine = noun.gender == "f"
        the = _elide("la" if feminine else "le", "l'", noun.word)
        a = f"{'une' if feminine else 'un'} {noun.word}"
        of_the = f"du {noun.word}" if the.startswith("le ") else f"de {the}"
        forms = {"the": the, "a": a, "of_the": of_the, "of_a": f"d'{a}"}
        return super().forms(shape) | forms | {"of_many": _elide("de", "d'", noun.many)}


FRENCH = French(
    code="fr",
    nouns={
        "circle": Noun("cercle", "m", "cercles"),
        "square": Noun("carré", "m", "carrés"),
        "triangle": Noun("triangle", "m", "triangles"),
        "star": Noun("étoile", "f", "étoiles"),
        "heart": Noun("cœur", "m", "cœurs"),
        "ring": Noun("anneau", "m", "anneaux"),
        "cross": Noun("croix", "f", "croix"),
        "moon": Noun("croissant de lune", "m", "croissants de lune"),
        "house": Noun("maison", "f", "maisons"),
        "fish": Noun("poisson", "m", "poissons"),
        "tree": Noun("arbre", "m", "arbres"),
        "flower": Noun("fleur", "f", "fleurs"),
        "boat": Noun("bateau", "m", "bateaux"),
        "mushroom": Noun("champignon", "m", "champignons"),
        "arrow": Noun("flèche", "f", "flèches"),
        "cup": Noun("tasse", "f", "tasses"),
    },
    colours={name: masculine for name, (masculine, _) in _COLOURS.items()},
    textures={"solid": "uni", "striped": "à rayures", "dotted": "à pois", "checked": "à carreaux"},
    settings={
        "white": Setting("blanc", "sur fond blanc"),
        "black": Setting("noir", "sur fond noir"),
        "grey": Setting("gris", "sur fond gris"),
        "paper": Setting("papier quadrillé", "sur du papier quadrillé"),
        "pastel": Setting("dégradé pastel", "sur un dégradé pastel"),
        "sky": Setting("ciel nuageux", "devant un ciel bleu avec des nuages"),
        "meadow": Setting("prairie", "dans une prairie verte"),
        "sea": Setting("mer", "au bord de la mer"),
        "night": Setting("ciel nocturne", "sous un ciel étoilé"),
        "desert": Setting("désert", "dans le désert"),
        "snow": Setting("neige", "dans un paysage enneigé"),
        "sunset": Setting("coucher de soleil", "au coucher du soleil"),
        "wood": Setting("table en bois", "sur une table en bois"),
    },
    positions=(
        "en haut à gauche", "en haut au centre", "en haut à droite",
        "à gauche", "au centre", "à droite",
        "en bas à gauche", "en bas au centre", "en bas à droite",
    ),
    truths={"yes": "oui", "no": "non"},
    comma=", ",
    last_comma=" et ",
    placed="{thing} {position}",
    relations={
        "left": "à sa gauche {thing}",
        "right": "à sa droite {thing}",
        "above left": "au-dessus à gauche {thing}",
        "above": "au-dessus {thing}",
        "above right": "au-dessus à droite {thing}",
        "below left": "en dessous à gauche {thing}",
        "below": "en dessous {thing}",
        "below right": "en dessous à droite {thing}",
    },
    styles=(
        "{things}, {where}.",
        "{where} : {things}.",
        "On voit {things}, {where}.",
        "Une image avec {things}, {where}.",
    ),
    chains=("{things}, le tout {where}.", "{where}, {things}."),
    chain_comma=", ",
    questions={
        "colour": ("Quelle est la couleur {of_the} ?", "Quelle couleur voit-on sur {the} ?"),
        "texture": ("Quel motif a {the} ?", "Quel est le motif {of_the} ?"),
        "place": ("Qu'y a-t-il {position} ?", "Que voit-on {position} ?"),
        "count": ("Combien {of_many} y a-t-il ?", "Combien {of_many} voit-on dans l'image ?"),
        "total": ("Combien de choses y a-t-il dans l'image ?", "Combien de formes y a-t-il en tout ?"),
        "exists": ("Y a-t-il {thing} ?", "Y a-t-il {thing} dans l'image ?"),
        "larger": ("Qu'est-ce qui est le plus grand, {the} ou {other_the} ?",),
        "background": ("Quel est le fond ?", "Quel fond voit-on ?"),
    },
    moods=(
        "Il y a des jours plus légers que d'autres.", "Rien à ajouter aujourd'hui.",
        "Un moment de calme avant la semaine.", "Merci pour vos mille messages !",
        "Retrouvé dans un vieux dossier.", "Qui d'autre n'arrive pas à dormir ?",
        "Petites choses, grand bonheur.", "Mon premier essai, soyez gentils.", "La suite demain.",
        "Quel nom lui donneriez-vous ?", "Parfois, moins c'est mieux.", "Bon week-end à tous !",
        "Un cadeau de ma petite sœur.", "J'y ai passé trois soirées.",
    ),
    remarks=(
        "{the}, tout simplement.", "{a}, et cela me suffit.", "Mon dessin préféré : {the}.",
        "Enfant, je dessinais souvent des {many}.", "On a tous besoin {of_a} de temps en temps.",
        "Devinez qui adore les {many} ?", "L'histoire {of_the}, première partie.",
        "Des {many} et d'autres rêves.", "Pourquoi est-ce toujours {the} ?",
        "Nouveau dans notre boutique : des {many}.", "Le mot du jour : {noun}.",
        "J'ai vu {the} et j'ai souri.",
    ),
    atmospheres={
        "white": ("Une page blanche, un nouveau départ.", "Blanc comme un cahier neuf.", "Tant d'espace vide."),
        "black": ("Dans le noir complet.", "Le noir va avec tout.", "Quelqu'un a éteint la lumière."),
        "grey": ("Un lundi tout gris.", "Ni noir ni blanc.", "Il fait gris, et moi aussi."),
        "paper": ("C'est la rentrée !", "De mon cahier de maths.", "Dessiné entre deux cours."),
        "pastel": (
            "Des couleurs douces pour les cœurs tendres.",
            "Tout en pastel.",
            "Doux comme un matin de printemps.",
        ),
        "sky": ("La tête dans les nuages.", "Enfin le ciel bleu !", "Les nuages passent."),
        "meadow": ("Du vert à perte de vue.", "Pieds nus dans l'herbe.", "Une journée à la campagne."),
        "sea": ("L'air salé du large.", "La mer me manque.", "Les vagues ne se fatiguent jamais."),
        "night": ("Bonne nuit, le monde.", "Sous les étoiles.", "Une nuit faite pour rêver."),
        "desert": ("Rien que du sable et du soleil.", "Quarante degrés à l'ombre.", "Loin, dans le désert."),
        "snow": ("La première neige !", "L'hiver est là.", "Mains froides, cœur chaud."),
        "sunset": ("La dernière lumière du jour.", "Encore un coucher de soleil.", "Le ciel du soir s'embrase."),
        "wood": (
            "Sur la table de grand-mère.",
            "Tout frais sorti de l'atelier.",
            "Rien ne sent aussi bon que le bois.",
        ),
    },
)  # fmt: skip
