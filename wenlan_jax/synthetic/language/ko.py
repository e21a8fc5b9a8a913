"""Korean: particles that depend on the last sound of the noun."""

from __future__ import annotations

from wenlan_jax.synthetic.language.base import Language, Noun, Setting

_SIZES = {"small": "작은", "large": "큰"}
_COLOURS = {
    "red": "빨간", "orange": "주황색", "yellow": "노란", "green": "초록색", "blue": "파란",
    "purple": "보라색", "pink": "분홍색", "brown": "갈색", "white": "하얀", "black": "검은",
}  # fmt: skip
_PARTICLES = {"i": ("이", "가"), "eun": ("은", "는"), "eul": ("을", "를"), "gwa": ("과", "와")}
_FIRST_SYLLABLE, _FINALS = (
    0xAC00,
    28,
)  # of the Hangul syllables block of Unicode: 28 finals, the first is none


def ends_in_consonant(word: str) -> bool:
    """Says whether the last Hangul syllable of `word` is closed."""
    return (ord(word[-1]) - _FIRST_SYLLABLE) % _FINALS != 0


class Korean(Language):
    """Korean; `forms` gives the noun's particles as `i`, `eun`, `eul` and `gwa`."""

    def phrase(self, shape: str, colour: str, size: str = "", texture: str = "solid") -> str:
        """Builds the noun phrase."""
        pattern = "" if texture == "solid" else self.textures[texture]
        words = (_SIZES.get(size, ""), _COLOURS[colour], pattern, self.nouns[shape].word)
        return " ".join(word for word in words if word)

    def forms(self, shape: str) -> dict[str, str]:
        """Adds the particles that follow the noun."""
        closed = ends_in_consonant(self.nouns[shape].word)
        particles = {name: pair[0] if closed else pair[1] for name, pair in _PARTICLES.items()}
        return super().forms(shape) | particles


KOREAN = Korean(
    code="ko",
    nouns={
        "circle": Noun("원"),
        "square": Noun("정사각형"),
        "triangle": Noun("삼각형"),
        "star": Noun("별"),
        "heart": Noun("하트"),
        "ring": Noun("고리"),
        "cross": Noun("십자"),
        "moon": Noun("초승달"),
        "house": Noun("집"),
        "fish": Noun("물고기"),
        "tree": Noun("나무"),
        "flower": Noun("꽃"),
        "boat": Noun("배"),
        "mushroom": Noun("버섯"),
        "arrow": Noun("화살표"),
        "cup": Noun("컵"),
    },
    colours={
        "red": "빨간색", "orange": "주황색", "yellow": "노란색", "green": "초록색", "blue": "파란색",
        "purple": "보라색", "pink": "분홍색", "brown": "갈색", "white": "하얀색", "black": "검은색",
    },
    textures={"solid": "무늬 없음", "striped": "줄무늬", "dotted": "물방울무늬", "checked": "체크무늬"},
    settings={
        "white": Setting("하얀색", "하얀 배경 위로"),
        "black": Setting("검은색", "검은 배경 위로"),
        "grey": Setting("회색", "회색 배경 위로"),
        "paper": Setting("모눈종이", "모눈종이 위로"),
        "pastel": Setting("파스텔 그라데이션", "파스텔 그라데이션 배경 위로"),
        "sky": Setting("구름 낀 하늘", "구름 뜬 파란 하늘 아래"),
        "meadow": Setting("풀밭", "푸른 풀밭 위로"),
        "sea": Setting("바다", "바다를 배경으로"),
        "night": Setting("밤하늘", "별이 빛나는 밤하늘 아래"),
        "desert": Setting("사막", "사막을 배경으로"),
        "snow": Setting("눈밭", "눈 덮인 들판을 배경으로"),
        "sunset": Setting("노을", "노을 진 하늘 아래"),
        "wood": Setting("나무 탁자", "나무 탁자 위로"),
    },
    positions=(
        "왼쪽 위", "가운데 위", "오른쪽 위",
        "왼쪽", "한가운데", "오른쪽",
        "왼쪽 아래", "가운데 아래", "오른쪽 아래",
    ),
    truths={"yes": "네", "no": "아니요"},
    comma=", ",
    last_comma=", ",
    placed="{position}에 {thing}",
    relations={
        "left": "그 왼쪽에 {thing}",
        "right": "그 오른쪽에 {thing}",
        "above left": "그 왼쪽 위에 {thing}",
        "above": "그 위에 {thing}",
        "above right": "그 오른쪽 위에 {thing}",
        "below left": "그 왼쪽 아래에 {thing}",
        "below": "그 아래에 {thing}",
        "below right": "그 오른쪽 아래에 {thing}",
    },
    styles=(
        "{where} {things}{i} 보인다.",
        "{things}{i} 있고, 배경은 {name}이다.",
        "배경은 {name}이고, {things}{i} 그려져 있다.",
        "그림의 {things}. 배경은 {name}.",
    ),
    chains=("{where} {things}{i} 있다.", "{things}. 배경은 {name}."),
    chain_comma=", ",
    questions={
        "colour": ("{noun}{eun} 무슨 색인가요?", "그림 속 {noun}의 색은 무엇인가요?"),
        "texture": ("{noun}{eun} 어떤 무늬인가요?", "{noun}의 무늬는 무엇인가요?"),
        "place": ("{position}에 무엇이 있나요?", "그림의 {position}에 있는 것은 무엇인가요?"),
        "count": ("{noun}{eun} 몇 개 있나요?", "그림 속에 {noun}{i} 몇 개 있나요?"),
        "total": ("그림에 있는 것은 모두 몇 개인가요?", "도형은 모두 몇 개 있나요?"),
        "exists": ("{thing}{i} 있나요?", "그림 속에 {thing}{i} 있나요?"),
        "larger": ("{noun}{gwa} {other_noun} 중에서 어느 것이 더 큰가요?",),
        "background": ("배경은 무엇인가요?", "이 그림의 배경은 무엇인가요?"),
    },
    moods=(
        "왠지 마음이 가벼운 날.", "오늘은 아무 말도 필요 없다.", "새로운 한 주를 앞둔 조용한 시간.",
        "좋아요 천 개, 고맙습니다!", "오래된 폴더에서 찾았어요.", "잠 못 드는 사람 또 있나요?",
        "작은 것, 큰 기쁨.", "처음 만들어 봤어요. 예쁘게 봐 주세요.", "내일 또 올릴게요.",
        "여러분이라면 뭐라고 부르겠어요?", "때로는 적을수록 좋다.", "모두 즐거운 주말 보내세요!",
        "여동생이 준 선물.", "사흘 밤이나 걸렸어요.",
    ),
    remarks=(
        "{noun}{i} 모든 것을 말해 준다.", "{noun} 하나면 충분하다.", "내가 제일 좋아하는 것은 {noun}.",
        "어릴 때 {noun}{eul} 자주 그렸다.", "누구에게나 가끔은 {noun}{i} 필요하다.",
        "{noun}{eul} 누가 좋아하게요?", "{noun} 이야기, 제1화.", "{noun}{gwa} 또 다른 꿈에 대하여.",
        "왜 언제나 {noun}일까?", "새로 나왔어요: {noun}.", "오늘의 낱말: {noun}.",
        "{noun}{eul} 보고 웃음이 났다.",
    ),
    atmospheres={
        "white": ("깨끗한 종이, 새로운 시작.", "새 공책처럼 하얗다.", "여백이 참 넓다."),
        "black": ("아주 캄캄한 곳에서.", "검은색은 어디에나 어울린다.", "누가 불을 껐을까."),
        "grey": ("흐릿한 월요일.", "검지도 희지도 않은.", "날씨도 마음도 잿빛."),
        "paper": ("새 학기가 시작된다!", "내 수학 공책에서.", "쉬는 시간에 그렸어요."),
        "pastel": ("부드러운 마음에 부드러운 색을.", "모두 파스텔 빛깔.", "봄날 아침처럼 포근하다."),
        "sky": ("구름 위를 걷는 기분.", "오랜만에 파란 하늘.", "구름이 천천히 흘러간다."),
        "meadow": ("눈길 닿는 곳마다 초록.", "맨발로 풀 위를 걷다.", "시골에서 보낸 하루."),
        "sea": ("바람에서 소금 냄새가 난다.", "바다가 그립다.", "파도는 지치지 않는다."),
        "night": ("잘 자요, 세상.", "별빛 아래에서.", "이런 밤에는 꿈을 꾸자."),
        "desert": ("모래와 태양뿐.", "그늘에서도 사십 도.", "머나먼 사막에서."),
        "snow": ("첫눈이다!", "겨울이 왔다.", "손은 차고 마음은 따뜻하게."),
        "sunset": ("하루의 마지막 빛.", "또 하루가 저문다.", "저녁 하늘이 불탄다."),
        "wood": ("할머니 댁 책상 위.", "공방에서 갓 나왔어요.", "나무 냄새만큼 좋은 것은 없다."),
    },
)  # fmt: skip
