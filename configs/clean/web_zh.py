"""Chinese web pairs (search engines, news, encyclopaedia, Weibo, WeChat): weak pairs stay, noise goes.

Command   wenlan clean data/web data/weibo --out data/clean --config=configs/clean/web_zh.py
"""

from ml_collections import config_dict

from wenlan_jax.prepare.clean import options


def get_config() -> config_dict.ConfigDict:
    """The defaults, for a corpus in Chinese with some English."""
    c = options.default()
    c.image.min_side = 64
    c.language.languages = ("zh", "en", "ja", "ko")
    return c
