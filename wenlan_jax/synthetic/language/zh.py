"""Chinese (simplified): measure words."""

from __future__ import annotations

from wenlan_jax.synthetic.language.base import Language, Noun, Setting

_SIZES = {"": "", "small": "小", "large": "大"}
_TEXTURES = {"solid": "", "striped": "带条纹的", "dotted": "带圆点的", "checked": "带格子的"}


class Chinese(Language):
    """Chinese; `phrase` counts with the noun's measure word."""

    def phrase(self, shape: str, colour: str, size: str = "", texture: str = "solid") -> str:
        """Builds the noun phrase with the noun's measure word."""
        noun = self.nouns[shape]
        size_or_link = _SIZES[size] or "的"
        return f"一{noun.measure}{_TEXTURES[texture]}{self.colours[colour]}{size_or_link}{noun.word}"

    def forms(self, shape: str) -> dict[str, str]:
        """Adds the noun's measure word."""
        return super().forms(shape) | {"measure": self.nouns[shape].measure}


CHINESE = Chinese(
    code="zh",
    nouns={
        "circle": Noun("圆形", measure="个"),
        "square": Noun("正方形", measure="个"),
        "triangle": Noun("三角形", measure="个"),
        "star": Noun("星星", measure="颗"),
        "heart": Noun("爱心", measure="颗"),
        "ring": Noun("圆环", measure="个"),
        "cross": Noun("十字", measure="个"),
        "moon": Noun("月牙", measure="弯"),
        "house": Noun("房子", measure="座"),
        "fish": Noun("鱼", measure="条"),
        "tree": Noun("树", measure="棵"),
        "flower": Noun("花", measure="朵"),
        "boat": Noun("船", measure="艘"),
        "mushroom": Noun("蘑菇", measure="个"),
        "arrow": Noun("箭头", measure="个"),
        "cup": Noun("杯子", measure="个"),
    },
    colours={
        "red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "blue": "蓝色",
        "purple": "紫色", "pink": "粉色", "brown": "棕色", "white": "白色", "black": "黑色",
    },
    textures={"solid": "纯色", "striped": "条纹", "dotted": "圆点", "checked": "格子"},
    settings={
        "white": Setting("白色", "白色背景上"),
        "black": Setting("黑色", "黑色背景上"),
        "grey": Setting("灰色", "灰色背景上"),
        "paper": Setting("方格纸", "方格纸上"),
        "pastel": Setting("淡彩渐变", "淡彩渐变的背景上"),
        "sky": Setting("蓝天白云", "蓝天白云下"),
        "meadow": Setting("草地", "绿色的草地上"),
        "sea": Setting("大海", "大海边"),
        "night": Setting("夜空", "繁星点点的夜空下"),
        "desert": Setting("沙漠", "沙漠里"),
        "snow": Setting("雪地", "雪地里"),
        "sunset": Setting("夕阳", "夕阳下"),
        "wood": Setting("木桌", "木桌上"),
    },
    positions=("左上角", "上方", "右上角", "左边", "中间", "右边", "左下角", "下方", "右下角"),
    truths={"yes": "有", "no": "没有"},
    comma="，",
    last_comma="，",
    placed="{position}有{thing}",
    relations={
        "left": "它的左边是{thing}",
        "right": "它的右边是{thing}",
        "above left": "它的左上方是{thing}",
        "above": "它的上面是{thing}",
        "above right": "它的右上方是{thing}",
        "below left": "它的左下方是{thing}",
        "below": "它的下面是{thing}",
        "below right": "它的右下方是{thing}",
    },
    styles=(
        "{where}，{things}。",
        "图中{things}，背景是{name}。",
        "背景是{name}，{things}。",
        "画面的{things}，背景为{name}。",
    ),
    chains=("{where}，画面{things}。", "画面{things}，背景是{name}。"),
    chain_comma="，",
    questions={
        "colour": ("{noun}是什么颜色的？", "图中的{noun}是什么颜色？"),
        "texture": ("{noun}上是什么花纹？", "图中的{noun}是什么图案的？"),
        "place": ("{position}是什么？", "图片的{position}有什么？"),
        "count": ("图中有几{measure}{noun}？", "一共有多少{measure}{noun}？"),
        "total": ("图中一共有几样东西？", "图片里总共有多少个图案？"),
        "exists": ("图中有{thing}吗？", "图片里有没有{thing}？"),
        "larger": ("{noun}和{other_noun}，哪个更大？",),
        "background": ("背景是什么？", "图片的背景是什么？"),
    },
    moods=(
        "有些日子就是格外轻松。", "今天无话可说。", "新的一周开始前的安静时光。", "谢谢大家的一千个赞！",
        "在旧文件夹里翻到的。", "还有谁睡不着？", "小小的东西，大大的快乐。", "第一次尝试，请多包涵。",
        "明天继续更新。", "你会给它起什么名字？", "有时候少即是多。", "祝大家周末愉快！",
        "妹妹送我的礼物。", "花了三个晚上才完成。",
    ),
    remarks=(
        "{noun}说明了一切。", "有一{measure}{noun}就够了。", "我的最爱：{noun}。", "小时候我总爱画{noun}。",
        "每个人偶尔都需要一{measure}{noun}。", "猜猜谁最喜欢{noun}？", "{noun}的故事，第一集。",
        "关于{noun}和别的梦。", "为什么总是{noun}？", "小店上新：{noun}。", "今日关键词：{noun}。",
        "看到{noun}，我忍不住笑了。",
    ),
    atmospheres={
        "white": ("干净的一页，新的开始。", "像新本子一样白。", "留白也是一种美。"),
        "black": ("一片漆黑。", "黑色百搭。", "是谁把灯关了？"),
        "grey": ("灰蒙蒙的星期一。", "不是黑，也不是白。", "天是灰的，心情也是灰的。"),
        "paper": ("开学啦！", "来自我的数学本。", "课间随手画的。"),
        "pastel": ("温柔的颜色送给温柔的人。", "一切都是淡淡的。", "像春天的早晨一样温柔。"),
        "sky": ("把心事交给白云。", "终于又见蓝天。", "云朵慢慢飘过。"),
        "meadow": ("满眼都是绿色。", "光着脚走在草地上。", "乡间的一天。"),
        "sea": ("空气里有咸咸的味道。", "想念大海。", "海浪从不疲倦。"),
        "night": ("晚安，世界。", "星空之下。", "这样的夜晚适合做梦。"),
        "desert": ("只有沙子和太阳。", "阴凉处也有四十度。", "远在沙漠深处。"),
        "snow": ("初雪！", "冬天来了。", "手是冷的，心是暖的。"),
        "sunset": ("一天里最后的光。", "又是一个黄昏。", "晚霞烧红了天边。"),
        "wood": ("外婆家的老桌子。", "刚从木工房出来。", "没有什么比木头更好闻。"),
    },
)  # fmt: skip
