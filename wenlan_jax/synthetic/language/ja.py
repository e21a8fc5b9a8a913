"""Japanese: adjectives of both kinds, particles by pattern."""

from __future__ import annotations

from wenlan_jax.synthetic.language.base import Language, Noun, Setting

_SIZES = {"": "", "small": "小さな", "large": "大きな"}
_COLOURS = {
    "red": "赤い", "orange": "オレンジ色の", "yellow": "黄色い", "green": "緑色の", "blue": "青い",
    "purple": "紫色の", "pink": "ピンク色の", "brown": "茶色い", "white": "白い", "black": "黒い",
}  # fmt: skip
_TEXTURES = {"solid": "", "striped": "しま模様の", "dotted": "水玉模様の", "checked": "市松模様の"}


class Japanese(Language):
    """Japanese; noun phrases need no article and no agreement."""

    def phrase(self, shape: str, colour: str, size: str = "", texture: str = "solid") -> str:
        """Builds the noun phrase."""
        return f"{_TEXTURES[texture]}{_SIZES[size]}{_COLOURS[colour]}{self.nouns[shape].word}"


JAPANESE = Japanese(
    code="ja",
    nouns={
        "circle": Noun("円"),
        "square": Noun("正方形"),
        "triangle": Noun("三角形"),
        "star": Noun("星"),
        "heart": Noun("ハート"),
        "ring": Noun("リング"),
        "cross": Noun("十字"),
        "moon": Noun("三日月"),
        "house": Noun("家"),
        "fish": Noun("魚"),
        "tree": Noun("木"),
        "flower": Noun("花"),
        "boat": Noun("船"),
        "mushroom": Noun("きのこ"),
        "arrow": Noun("矢印"),
        "cup": Noun("カップ"),
    },
    colours={
        "red": "赤", "orange": "オレンジ色", "yellow": "黄色", "green": "緑色", "blue": "青",
        "purple": "紫色", "pink": "ピンク色", "brown": "茶色", "white": "白", "black": "黒",
    },
    textures={"solid": "無地", "striped": "しま模様", "dotted": "水玉模様", "checked": "市松模様"},
    settings={
        "white": Setting("白", "白い背景に"),
        "black": Setting("黒", "黒い背景に"),
        "grey": Setting("灰色", "灰色の背景に"),
        "paper": Setting("方眼紙", "方眼紙に"),
        "pastel": Setting("パステルカラーのグラデーション", "パステルカラーの背景に"),
        "sky": Setting("雲の浮かぶ青空", "雲の浮かぶ青空を背に"),
        "meadow": Setting("草原", "緑の草原に"),
        "sea": Setting("海", "海を背に"),
        "night": Setting("夜空", "星の光る夜空を背に"),
        "desert": Setting("砂漠", "砂漠を背に"),
        "snow": Setting("雪景色", "雪景色を背に"),
        "sunset": Setting("夕焼け", "夕焼けを背に"),
        "wood": Setting("木のテーブル", "木のテーブルの上に"),
    },
    positions=("左上", "中央上", "右上", "左", "真ん中", "右", "左下", "中央下", "右下"),
    truths={"yes": "はい", "no": "いいえ"},
    comma="、",
    last_comma="、",
    placed="{position}に{thing}",
    relations={
        "left": "その左に{thing}",
        "right": "その右に{thing}",
        "above left": "その左上に{thing}",
        "above": "その上に{thing}",
        "above right": "その右上に{thing}",
        "below left": "その左下に{thing}",
        "below": "その下に{thing}",
        "below right": "その右下に{thing}",
    },
    styles=(
        "{where}、{things}。",
        "{things}があり、背景は{name}です。",
        "背景は{name}で、{things}が描かれています。",
        "絵の{things}。背景は{name}。",
    ),
    chains=("{where}、{things}があります。", "{things}があります。背景は{name}です。"),
    chain_comma="、",
    questions={
        "colour": ("{noun}は何色ですか？", "絵の中の{noun}の色は何ですか？"),
        "texture": ("{noun}はどんな模様ですか？", "{noun}の模様は何ですか？"),
        "place": ("{position}には何がありますか？", "絵の{position}にあるものは何ですか？"),
        "count": ("{noun}はいくつありますか？", "絵の中に{noun}はいくつありますか？"),
        "total": ("絵の中にものは全部でいくつありますか？", "図形は全部でいくつありますか？"),
        "exists": ("{thing}はありますか？", "絵の中に{thing}はありますか？"),
        "larger": ("{noun}と{other_noun}では、どちらが大きいですか？",),
        "background": ("背景は何ですか？", "この絵の背景は何ですか？"),
    },
    moods=(
        "なんだか気持ちの軽い日。", "今日は言葉はいりません。", "新しい一週間の前の静かなひととき。",
        "たくさんの「いいね」ありがとう！", "古いフォルダで見つけました。", "眠れない人、ほかにもいますか？",
        "小さなもの、大きな喜び。", "初めて作りました。お手やわらかに。", "続きはまた明日。",
        "あなたなら何と名付けますか？", "少ないほうがいいこともある。", "みなさん、よい週末を！",
        "妹からのプレゼント。", "三晩かけて完成しました。",
    ),
    remarks=(
        "{noun}がすべてを語る。", "{noun}があればそれで十分。", "私のお気に入りは{noun}。",
        "子どものころ、よく{noun}を描いていた。", "だれにでも{noun}が必要なときがある。",
        "{noun}が大好きなのはだれでしょう？", "{noun}の物語、第一話。", "{noun}と、そのほかの夢について。",
        "どうしていつも{noun}なの？", "新商品のお知らせ：{noun}。", "今日のことば「{noun}」。",
        "{noun}を見て、思わず笑ってしまった。",
    ),
    atmospheres={
        "white": ("まっさらなページ、新しい始まり。", "新しいノートのように真っ白。", "余白がたっぷり。"),
        "black": ("真っ暗やみの中。", "黒は何にでも合う。", "だれかが明かりを消した。"),
        "grey": ("どんよりした月曜日。", "黒でもなく白でもなく。", "空も気分も灰色。"),
        "paper": ("新学期が始まる！", "算数のノートから。", "休み時間に描きました。"),
        "pastel": ("やさしい人にはやさしい色を。", "何もかもパステルカラー。", "春の朝のようにやわらか。"),
        "sky": ("雲の上まで行きたい。", "久しぶりの青空。", "雲がゆっくり流れていく。"),
        "meadow": ("見渡すかぎりの緑。", "はだしで草の上を。", "いなかで過ごす一日。"),
        "sea": ("潮の香りがする。", "海が恋しい。", "波は疲れることを知らない。"),
        "night": ("おやすみなさい、世界。", "星空の下で。", "こんな夜は夢を見よう。"),
        "desert": ("砂と太陽のほかには何もない。", "日陰でも四十度。", "遠い砂漠の国へ。"),
        "snow": ("初雪だ！", "冬が来た。", "手は冷たく、心は温かく。"),
        "sunset": ("一日の最後の光。", "また日が暮れる。", "夕方の空が燃えている。"),
        "wood": ("おばあちゃんの家の机。", "工房から届いたばかり。", "木の香りはいいものです。"),
    },
)  # fmt: skip
