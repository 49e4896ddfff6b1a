"""Chat templates as they are published, with generation tags put in, and random conversations.

chatml, llama3, qwen3 and nemotron are Qwen 2.5's, Llama 3.1's, Qwen 3's and Nemotron 3 Nano's as
trl 1.16.0 ships them (trl/chat_templates), granite and mistral Granite 3.3's and Mistral Nemo's as
llama-cpp-python 0.3.36 does (vendor/llama.cpp/models/templates).
"""

import random
from pathlib import Path

from tokenizer_kinds import NAMES, bytelevel, put

TEMPLATES = Path(__file__).parent / "chat_templates"
NAMED = tuple(sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
MARKS = [f"<|{n}|>" for n in ("im_start", "im_end", "eot_id", "start_header_id", "end_header_id")]
MARKS += [f"<|{n}|>" for n in ("start_of_role", "end_of_role", "end_of_text", "tool_call")]
MARKS += [f"[{s}{n}]" for n in ("INST", "AVAILABLE_TOOLS", "TOOL_RESULTS") for s in ("", "/")]
MARKS += ["[TOOL_CALLS]", "<think>", "</think>"]

BEGIN, END = "{%- generation %}", "{%- endgeneration %}"


def _of_assistant(head, body, tail=r"'\n'"):
    said = f"{{{{- {body} }}}}"
    return (
        f"{{{{- {head} }}}}{{%- if message.role == 'assistant' %}}{BEGIN}{said}{END}"
        f"{{%- else %}}{said}{{%- endif %}}{{{{- {tail} }}}}"
    )


def _behind_think(body, tail):
    """What the prompt of a generation has of a turn, <think> and a new line, stands before it."""
    return (
        f"{{%- set body = {body} %}}{{%- set n = 8 if body[:8] == '<think>\\n' else 7 %}}"
        f"{{{{- body[:n] }}}}{BEGIN}{{{{- body[n:] ~ '{tail}' }}}}{END}"
    )


_TOOL = '\n    {%- elif message.role == "tool" %}'
_QWEN_END = (
    r"{{- '<|im_end|>\n' }}" + _TOOL,
    r"{{- '<|im_end|>' }}" + END + r"{{- '\n' }}" + _TOOL,
)
EDITS = {
    "chatml": [
        (
            r"{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}",
            _of_assistant(
                r"'<|im_start|>' + message.role + '\n'", "message.content + '<|im_end|>'"
            ),
        ),
        (
            "{{- '<|im_start|>' + message.role }}\n",
            r"{{- '<|im_start|>' + message.role + '\n' }}" + BEGIN,
        ),
        (r"{{- '\n' + message.content }}", r"{{- message.content + '\n' }}"),
        (r"{{- '\n<tool_call>\n{", r"{{- ('' if loop.first else '\n') + '<tool_call>\n{"),
        _QWEN_END,
    ],
    "llama3": [
        (
            r"{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message"
            "['content'] | trim + '<|eot_id|>' }}",
            _of_assistant(
                r"'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'",
                "message['content'] | trim + '<|eot_id|>'",
                "''",
            ),
        ),
        ('{{- \'{"name": "\'', BEGIN + '{{- \'{"name": "\''),
        ('{{- "}" }}', '{{- "}" }}' + END),
        (
            '{{- "<|eot_id|>" }}\n        {%- endif %}',
            f'{BEGIN}{{{{- "<|eot_id|>" }}}}{END}\n        {{%- endif %}}',
        ),
    ],
    "qwen3": [
        (
            "{%- if loop.index0 > ns.last_query_index %}",
            r"{{- '<|im_start|>' + message.role + '\n' }}"
            + BEGIN
            + "{%- if loop.index0 > ns.last_query_index %}",
        ),
        (r"{{- '<|im_start|>' + message.role + '\n<think>", "{{- '<think>"),
        (r"{{- '<|im_start|>' + message.role + '\n' + content }}", "{{- content }}"),
        _QWEN_END,
    ],
    "nemotron": [
        (
            r"{{- '<|im_start|>assistant\n' ~ (content | default('', true) | string | trim) ~ "
            r"'<|im_end|>\n' }}",
            r"{{- '<|im_start|>assistant\n' }}"
            + _behind_think("(content | string | trim)", "<|im_end|>")
            + r"{{- '\n' }}",
        ),
        (
            r"{{- '<|im_start|>assistant\n' ~ c ~ '<|im_end|>\n' }}",
            r"{{- '<|im_start|>assistant\n' }}" + _behind_think("c", "<|im_end|>") + r"{{- '\n' }}",
        ),
        (r"{{- (content | trim) ~ '\n' -}}", _behind_think("(content | trim)", r"\n")),
        (r"{{- c ~ '\n' -}}", _behind_think("c", r"\n")),
        (
            "{%- for tool_call in message.tool_calls %}",
            BEGIN + "{%- for tool_call in message.tool_calls %}",
        ),
        (
            r"{{- '<|im_end|>\n' }}" + "\n        {%- else %}",
            f"{{{{- '<|im_end|>' }}}}{END}{{{{- '\\n' }}}}" + "\n        {%- else %}",
        ),
    ],
    "granite": [
        (
            "{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + "
            "'<|end_of_text|>\n' }}",
            _of_assistant(
                "'<|start_of_role|>' + message['role'] + '<|end_of_role|>'",
                "message['content'] + '<|end_of_text|>'",
            ),
        )
    ],
    "mistral": [
        (
            '{{- message["content"] + eos_token}}',
            BEGIN + '{{- message["content"] + eos_token}}' + END,
        ),
        ('{{- "[TOOL_CALLS][" }}', BEGIN + '{{- "[TOOL_CALLS][" }}'),
        (
            '{%- endfor %}\n    {%- elif message["role"] == "assistant" %}',
            "{%- endfor %}" + END + '\n    {%- elif message["role"] == "assistant" %}',
        ),
    ],
}


def published(name):
    return (TEMPLATES / f"{name}.jinja").read_text()


def tagged(name):
    """The template with generation tags where a turn of the assistant's begins and ends."""
    text = published(name)
    for old, new in EDITS[name]:
        assert old in text, old
        text = text.replace(old, new)
    return text


def put_chat(folder, template):
    """The files of a tokenizer with a chat template."""
    made = bytelevel()
    made.add_special_tokens(MARKS)
    put(folder, made, {"tokenizer_class": "PreTrainedTokenizerFast", **NAMES})
    (folder / "chat_template.jinja").write_text(template)
    return folder


TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look <somewhere> & tell",
        "parameters": {
            "type": "object",
            "properties": {"where": {"type": "string", "enum": ["là", "b"]}},
            "required": ["where"],
        },
    },
}
WORDS = ["fox", "naïve", "天地", "is it so?", "\n", "x + 1", "two", "  ", "<b>", "👩‍👧", "'s"]


def conversation(rng, name):
    """(messages, tools) as the template ``name`` knows them: granite has no calls of tools."""
    number = iter(range(99))

    def text():
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 6))) + f" {next(number)}"

    messages = [{"role": "system", "content": text()}] if rng.random() < 0.4 else []
    calls = name != "granite" and rng.random() < 0.5
    for _ in range(rng.randint(1, 3)):
        messages.append({"role": "user", "content": text()})
        if calls and rng.random() < 0.6:
            call = {"name": "look", "arguments": {"where": rng.choice(["là", "b\n"])}}
            asked = {"role": "assistant", "content": rng.choice([None, "", text()])}
            asked["tool_calls"] = [{"type": "function", "id": "a1b2c3d4e", "function": call}]
            answer = {"role": "tool", "content": text(), "tool_call_id": "a1b2c3d4e"}
            messages += [_thought(rng, asked, text), answer]
        messages.append(_thought(rng, {"role": "assistant", "content": text()}, text))
    return messages, [TOOL] if calls else None


def _thought(rng, message, text):
    if rng.random() < 0.4:
        message["reasoning_content"] = text()
    return message


def conversations(count, name, seed=0):
    rng = random.Random(seed)
    return [conversation(rng, name) for _ in range(count)]
