"""Czech: three genders, hard adjectives in the nominative."""

from __future__ import annotations

from wenlan_jax.synthetic.language.base import Language, Noun, Setting, relation
from wenlan_jax.synthetic.world import Thing

_ENDINGS = {"m": "ý", "f": "á", "n": "é"}
_SIZES = {"small": "mal", "large": "velk"}
_STEMS = {
    "red": "červen", "orange": "oranžov", "yellow": "žlut", "green": "zelen", "blue": "modr",
    "purple": "fialov", "pink": "růžov", "brown": "hněd", "white": "bíl", "black": "čern",
}  # fmt: skip
_TEXTURES = {"striped": "pruhovan", "dotted": "puntíkat", "checked": "kostkovan"}
_FROM = {"m": "od něj", "f": "od ní", "n": "od něj"}  # genitive
_OVER = {"m": "ním", "f": "ní", "n": "ním"}  # instrumental


class Czech(Language):
    """Czech; `phrase` stands in the nominative singular, `many` is the genitive plural."""

    def phrase(self, shape: str, colour: str, size: str = "", texture: str = "solid") -> str:
        """Builds the noun phrase; adjectives agree with the noun's gender."""
        noun = self.nouns[shape]
        stems = [_SIZES.get(size, ""), _STEMS[colour], _TEXTURES.get(texture, "")]
        return " ".join([*(stem + _ENDINGS[noun.gender] for stem in stems if stem), noun.word])

    def relate(self, thing: Thing, previous: Thing) -> str:
        """Describes `thing` relative to `previous`, whose pronoun agrees with its gender."""
        gender = self.nouns[previous.shape].gender
        pattern = self.relations[relation(thing, previous)]
        return pattern.format(thing=self.thing(thing), from_it=_FROM[gender], over_it=_OVER[gender])


CZECH = Czech(
    code="cs",
    nouns={
        "circle": Noun("kruh", "m", "kruhů"),
        "square": Noun("čtverec", "m", "čtverců"),
        "triangle": Noun("trojúhelník", "m", "trojúhelníků"),
        "star": Noun("hvězda", "f", "hvězd"),
        "heart": Noun("srdce", "n", "srdcí"),
        "ring": Noun("prstenec", "m", "prstenců"),
        "cross": Noun("kříž", "m", "křížů"),
        "moon": Noun("půlměsíc", "m", "půlměsíců"),
        "house": Noun("dům", "m", "domů"),
        "fish": Noun("ryba", "f", "ryb"),
        "tree": Noun("strom", "m", "stromů"),
        "flower": Noun("květina", "f", "květin"),
        "boat": Noun("loď", "f", "lodí"),
        "mushroom": Noun("houba", "f", "hub"),
        "arrow": Noun("šipka", "f", "šipek"),
        "cup": Noun("hrnek", "m", "hrnků"),
    },
    colours={name: stem + "ou" for name, stem in _STEMS.items()},  # accusative of "barva"
    textures={"solid": "žádný", "striped": "pruhy", "dotted": "puntíky", "checked": "kostky"},
    settings={
        "white": Setting("bílá plocha", "na bílém pozadí"),
        "black": Setting("černá plocha", "na černém pozadí"),
        "grey": Setting("šedá plocha", "na šedém pozadí"),
        "paper": Setting("čtverečkovaný papír", "na čtverečkovaném papíře"),
        "pastel": Setting("pastelový přechod", "na pastelovém přechodu"),
        "sky": Setting("obloha s mraky", "před modrou oblohou s mraky"),
        "meadow": Setting("louka", "na zelené louce"),
        "sea": Setting("moře", "u moře"),
        "night": Setting("noční obloha", "pod hvězdnou noční oblohou"),
        "desert": Setting("poušť", "na poušti"),
        "snow": Setting("sníh", "v zasněžené krajině"),
        "sunset": Setting("západ slunce", "při západu slunce"),
        "wood": Setting("dřevěný stůl", "na dřevěném stole"),
    },
    positions=(
        "vlevo nahoře", "nahoře uprostřed", "vpravo nahoře",
        "vlevo", "uprostřed", "vpravo",
        "vlevo dole", "dole uprostřed", "vpravo dole",
    ),
    truths={"yes": "ano", "no": "ne"},
    comma=", ",
    last_comma=" a ",
    placed="{thing} {position}",
    relations={
        "left": "vlevo {from_it} {thing}",
        "right": "vpravo {from_it} {thing}",
        "above left": "vlevo nad {over_it} {thing}",
        "above": "nad {over_it} {thing}",
        "above right": "vpravo nad {over_it} {thing}",
        "below left": "vlevo pod {over_it} {thing}",
        "below": "pod {over_it} {thing}",
        "below right": "vpravo pod {over_it} {thing}",
    },
    styles=(
        "{things}, {where}.",
        "{where}: {things}.",
        "Na obrázku je {things}, {where}.",
        "{where} je {things}.",
    ),
    chains=("{things}, to vše {where}.", "Obrázek: {where} je {things}."),
    chain_comma=", ",
    questions={
        "colour": ("Jakou barvu má {noun}?", "Jakou má {noun} barvu?"),
        "texture": ("Jaký vzor má {noun}?", "Jaký má {noun} vzor?"),
        "place": ("Co je {position}?", "Co se nachází {position}?"),
        "count": ("Kolik je tu {many}?", "Kolik {many} je na obrázku?"),
        "total": ("Kolik věcí je na obrázku?", "Kolik tvarů je tu celkem?"),
        "exists": ("Je tu {thing}?", "Je na obrázku {thing}?"),
        "larger": ("Co je větší, {noun}, nebo {other_noun}?",),
        "background": ("Co je v pozadí?", "Co tvoří pozadí?"),
    },
    moods=(
        "Některé dny jsou prostě lehčí.", "Dnes beze slov.", "Tichá chvíle před novým týdnem.",
        "Děkuji za tisíc srdíček!", "Našla jsem to ve staré složce.", "Kdo taky nemůže spát?",
        "Malé věci, velká radost.", "Můj první pokus, buďte hodní.", "Zítra pokračujeme.",
        "Jak byste to nazvali?", "Někdy je méně více.", "Krásný víkend všem!",
        "Dárek od mé malé sestry.", "Seděl jsem nad tím tři večery.",
    ),
    remarks=(
        "{noun} mluví za vše.", "{noun}, a to mi stačí.", "Můj oblíbený obrázek: {noun}.",
        "Jako dítě jsem nakreslil spoustu {many}.", "Někdy pomůže jen {noun}.",
        "Hádejte, kdo má doma plno {many}!", "Dnes v hlavní roli: {noun}.", "Sto {many} a jiné sny.",
        "Proč je to vždycky {noun}?", "Nová várka {many} v našem obchodě.", "Slovo dne: {noun}.",
        "Co je dnes nového: {noun}.",
    ),
    atmospheres={
        "white": ("Čistá stránka, nový začátek.", "Bílá jako nový sešit.", "Tolik volného místa."),
        "black": ("V úplné tmě.", "Černá se hodí ke všemu.", "Někdo zhasl."),
        "grey": ("Šedivé pondělí.", "Ani černá, ani bílá.", "Venku je šedivo a já jsem taky šedivý."),
        "paper": ("Zase začíná škola!", "Z mého sešitu na matematiku.", "Nakresleno mezi dvěma hodinami."),
        "pastel": (
            "Jemné barvy pro jemná srdce.",
            "Všechno v pastelových barvách.",
            "Něžné jako jarní ráno.",
        ),
        "sky": ("S hlavou v oblacích.", "Konečně zase modrá obloha.", "Mraky plynou kolem."),
        "meadow": ("Zeleň, kam až oko dohlédne.", "Naboso trávou.", "Den na venkově."),
        "sea": ("Ve vzduchu je cítit sůl.", "Stýská se mi po moři.", "Vlny se nikdy neunaví."),
        "night": ("Dobrou noc, světe.", "Pod hvězdami.", "Takové noci jsou na snění."),
        "desert": ("Jen písek a slunce.", "Čtyřicet stupňů ve stínu.", "Daleko v poušti."),
        "snow": ("První sníh!", "Zima je tady.", "Studené ruce, teplé srdce."),
        "sunset": ("Poslední světlo dne.", "Ještě jeden západ slunce.", "Večerní obloha hoří."),
        "wood": ("Na babiččině stole.", "Čerstvě z dílny.", "Nic nevoní tak krásně jako dřevo."),
    },
)  # fmt: skip
