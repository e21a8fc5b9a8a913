"""Expressions for what people leave in captions: addresses, contacts, names, topics, emoji, invisible characters."""

from __future__ import annotations

import re

_ASCII_HOST = r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+"
_TOP_LEVEL = r"(?:com|cn|net|org|edu|gov|io|cc|tv|me|info|biz|top|xyz|vip|shop|site|jp|kr|de|fr|cz|uk|tw|hk)"

EMAIL = re.compile(rf"(?i)(?<![\w.+-])[a-z0-9][\w.+-]{{0,63}}@{_ASCII_HOST}[a-z]{{2,24}}(?![a-z0-9])", re.ASCII)
URL = re.compile(
    r"(?i)(?:https?|ftp)://[!-~]+"
    rf"|(?<![\w@.-])(?:www\.)?{_ASCII_HOST}{_TOP_LEVEL}(?![a-z0-9.-])(?::\d+)?(?:/[!-~]*)?",
    re.ASCII,
)
CONTACT = re.compile(
    r"(?i)(?:联系)?(?:电话|手机|热线|tel)?\s*[:：]?\s*(?<![\d.])(?:(?:\+|00)?86[-\s]?)?"
    r"(?:1[3-9]\d[-\s]?\d{4}[-\s]?\d{4}|0\d{2,3}[-\s]\d{7,8}|[48]00[-\s]?\d{3}[-\s]?\d{4})(?![\d.])"
    r"|(?:qq|扣扣|企鹅)(?:群|号|号码)?\s*[:：]?\s*[1-9]\d{4,11}(?!\d)"
    r"|(?:微信|威信|薇信|v信|weixin|wechat|vx)(?:公众号|号|id)?\s*[:：]?\s*[a-z][a-z0-9_-]{5,19}(?![a-z0-9_-])"
)
# A forward on Weibo begins with //@name:, which goes whole.
MENTION = re.compile(r"(?:(?://)\s*@[\w·-]{1,30}\s*[:：])|(?<![A-Za-z0-9._])@[\w·-]{1,30}")
TOPIC = re.compile(r"#([^#\s][^#\n]{0,60}?)#|(?<![\w&#])#(\w*[^\W\d_]\w*)(?!#)")
TAG = re.compile(r"<(?:/?[a-zA-Z][^<>]{0,200}|!--.{0,500}?--)>", re.DOTALL)

_EMOJI = (
    "\u203c\u2049\u20e3\u2122\u2139\u2194-\u21aa\u231a-\u23ff\u24c2\u25aa-\u25fe\u2600-\u27bf\u2934-\u2935"
    "\u2b05-\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
EMOJI = re.compile(
    rf"[0-9#*]\ufe0f?\u20e3|[{_EMOJI}](?:[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]|\u200d[{_EMOJI}])*"
)
# Joiners shape letters of Arabic and Indic scripts and tie emoji together; elsewhere they are invisible dirt.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
    rf"|(?<![\u0600-\u0dff{_EMOJI}\ufe0f\U0001f3fb-\U0001f3ff])[\u200c\u200d]"
)
WHITESPACE = re.compile(r"\s+")
FULL_WIDTH = re.compile("[\u3000\uff01-\uff9f\uffe0-\uffe6]+")
# The same without the punctuation that Chinese and Japanese are properly written with.
FULL_WIDTH_LETTERS = re.compile(
    "[\u3000\uff02-\uff07\uff0a\uff0b\uff0d-\uff19\uff1c-\uff1e\uff20-\uff60\uff65-\uff9f\uffe0-\uffe6]+"
)
KANA = re.compile("[\u3041-\u30ff]")
NOT_LETTERS = re.compile(r"[\W_]+")
