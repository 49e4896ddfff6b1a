"""Private words, which a reader of our output and pages does not meet, and what to say instead."""

import re
from html.parser import HTMLParser

SAY = {
    r"realis(?:e[ds]?|ing|ation)": "evaluate (with masks)",
    r"strips?": "layer pattern",
    r"heal(?:s|ed|ing)?": "recover",
    r"heats?": "screening run",
    r"[\d,]{4,} words|(?:so many|likeliest|greedy) words|words of a vocabulary": "tokens",
    r"\d+ said|tokens said|(?:is|are) said": "generated, printed",
    r"asked": "requested, target",
    r"mend(?:s|ed|ing)?": "fix",
    r"harm(?:s|ed|ful|ing)?": "loss increase",
    r"rungs?|ladders?": "size index, candidate sizes",
    r"narrow(?:s|ed|ing)? the (?:model|hidden size)": "prune the hidden size",
    r"own heads|own sizes|--own-heads": "per-block heads, per-block sizes",
    r"--least|least (?:attention|others|width|hidden)=\S+": "min-keep",
    r"comparing 0\.\d+|reading 0\.\d+": "metric buffers, I/O buffers",
    r"of the blocks' products|also write": "a whole help text",
    r"apart": "difference",
    r"dearest": "most expensive",
    r"home and away|at home|away from home": "host, device",
    r"settl(?:e[ds]?|ing)": "synchronise",
    r"lets? go of|let go": "stop",
    r"units?": "layer group, coupled blocks",
    r"states?": "solver state, training checkpoint, SSM state, state axis",
    r"bfloat16": "bf16, BF16",
    r"rooms? \d+": "no number",
}
"""What we do not say, as words of any case -> what to say."""
FINE = re.compile(
    r"""heat[ ]maps?                               # a picture
    | (?:SSM|Mamba|solver|hidden|recurrent)[ -]states?
    | states?[ ]axis | state_dict | [ ]state[ ]\d+  # "heads 256, head_dim 64, groups 8, state 256"
    | --state | --vary[ ]state | \w+\.state | `state`[ ]\| | states?[ ](?:fp32|bf16)
    | distill/\*/state/                          # a folder's name
    | United[ ]States | State[ ]of[ ]the[ ]Union
    | units?(?=,[ ]choices|[ ]and[ ]choices) | whatever[ ]the\s+unit  # of a number
    | state[ ]space | the[ ]state[ ]of[ ]the[ ]art
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Where such a word is the right one: it is taken out before we look."""


def found(text):
    """[(the word, what to say, where it stands)] of a text."""
    text = FINE.sub(" ", text)
    return [
        (match[0], say, text[max(0, match.start() - 40) : match.end() + 40].replace("\n", " "))
        for pattern, say in SAY.items()
        for match in re.finditer(rf"(?<![\w-])(?:{pattern})(?![\w-])", text, re.IGNORECASE)
    ]


class Text(HTMLParser):
    """What a reader of a page sees."""

    def __init__(self, page):
        super().__init__()
        self.parts, self.hidden = [], 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.hidden += tag in ("style", "script")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("style", "script")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


def visible(page):
    """What a reader of an HTML page sees."""
    return " ".join(Text(page).parts)
