"""The chat template of a checkpoint: where it is found, and what it makes of a conversation.

As transformers does it (5.23, utils/chat_template_utils.py): jinja2 in its immutable sandbox, the
same filters and functions, ``{% generation %}`` around what the assistant wrote. A template is a
text out of a file; nothing of it runs outside of that sandbox.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from minipuzzle.artifacts import read_json
from minipuzzle.errors import UserError

DEFAULT, TOOLS = "default", "tool_use"
MOST_OF_AN_ERROR = 300
_TAGGED = re.compile(r"\{%-?\s*generation\s*-?%\}")

Message = dict[str, Any]
Span = tuple[int, int]


class _Template(TypedDict):
    name: str
    template: str


class _Config(TypedDict):
    chat_template: NotRequired[str | dict[str, str] | list[_Template] | None]


def read_templates(folder: Path) -> dict[str, str]:
    """The chat templates of a checkpoint by name; one alone is "default". Empty where it has none.

    chat_template.jinja and additional_chat_templates/NAME.jinja, else what tokenizer_config.json
    has. Raises: UserError for a file that cannot be read.
    """
    found = {
        DEFAULT: folder / "chat_template.jinja",
        **{p.stem: p for p in sorted((folder / "additional_chat_templates").glob("*.jinja"))},
    }
    files = {name: _text(file) for name, file in found.items() if file.is_file()}
    if files:
        return files
    config = folder / "tokenizer_config.json"
    given = read_json(config, _Config).get("chat_template") if config.is_file() else None
    if isinstance(given, list):
        return {each["name"]: each["template"] for each in given}
    return given if isinstance(given, dict) else {DEFAULT: given} if given else {}


def _text(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as opened:  # with Python's line ends, as transformers
            return opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read.", got=error, allowed="UTF-8 text", next="Copy it again."
        ) from error


class ChatTemplate:
    """The templates of a checkpoint's folder; ``names`` are the special tokens by attribute, which
    a template may use. ``identity`` changes with what is rendered. Raises: UserError where the
    folder has no template.
    """

    def __init__(self, folder: Path, names: dict[str, str]) -> None:
        self.folder, self.names = folder, names
        self._templates = read_templates(folder)
        self.identity = json.dumps([self._templates, names], sort_keys=True)
        if not self._templates:
            raise UserError(
                "The checkpoint has no chat template.",
                got=folder,
                allowed="chat_template.jinja, or chat_template in tokenizer_config.json",
                next="Copy it from the model, or give the conversations as text.",
            )

    def tagged(self, tools: list[Any] | None) -> bool:
        """Whether the template says itself what the assistant wrote."""
        return _TAGGED.search(self._chosen(tools)) is not None

    def render(
        self, messages: list[Message], tools: list[Any] | None, *, prompt: bool = False
    ) -> tuple[str, list[Span]]:
        """(the text, the characters [start, stop) within generation tags); with ``prompt`` what
        makes the assistant write follows.

        Raises: UserError with the template's own message where it refuses the conversation.
        """
        import jinja2

        rendered: list[str] = []
        spans: list[Span] = []
        messages = [_aliased({k: v for k, v in m.items() if v is not None}) for m in messages]
        try:
            template = _compiled(self._chosen(tools))
            with template.environment.tracking(rendered, spans):
                for part in template.generate(
                    messages=messages,
                    tools=tools,
                    documents=None,
                    add_generation_prompt=prompt,
                    **self.names,
                ):
                    rendered.append(part)
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            MemoryError,
        ) as error:
            at = f" (line {error.lineno})" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise UserError(
                f"The chat template of {self.folder} refuses a conversation.",
                got=f"{str(error)[:MOST_OF_AN_ERROR] or type(error).__name__}{at}",
                allowed="messages that this template renders",
                next="Change the conversation to what the model was trained on, or the template.",
            ) from error
        return "".join(rendered), spans

    def _chosen(self, tools: list[Any] | None) -> str:
        if tools is not None and TOOLS in self._templates:
            return self._templates[TOOLS]
        if DEFAULT not in self._templates:
            raise UserError(
                f"{self.folder} has several chat templates, none of them the default.",
                got=", ".join(self._templates),
                allowed=f"one named {DEFAULT}",
                next="Put the one to take into that folder as chat_template.jinja.",
            )
        return self._templates[DEFAULT]


def _aliased(message: Message) -> Message:
    """With its reasoning under every name that a template may read."""
    names = ("reasoning_content", "thinking", "reasoning")
    reasoning = next((message[name] for name in names if name in message), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


@lru_cache(maxsize=8)
def _compiled(text: str) -> Any:
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """``{% generation %}``: what stands within is rendered, and where it stands is kept."""

        tags = {"generation"}  # noqa: RUF012

        def __init__(self, environment: jinja2.Environment) -> None:
            super().__init__(environment)
            environment.extend(tracking=self.tracking)
            self._to: tuple[list[str], list[Span]] | None = None

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_keep")
            return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _keep(self, caller: Any) -> str:
            written: str = caller()
            if self._to is not None:
                start = sum(map(len, self._to[0]))
                self._to[1].append((start, start + len(written)))
            return written

        @contextmanager
        def tracking(self, rendered: list[str], spans: list[Span]) -> Iterator[None]:
            self._to = rendered, spans
            try:
                yield
            finally:
                self._to = None

    class PlainNamespace(Namespace):
        """Without names that lead to Python's own objects."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, args = args[0], args[1:]
            attributes = dict(*args, **kwargs)
            for name in attributes:
                _check_name(name)
            Namespace.__init__(self, attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_name(name)
            super().__setitem__(name, value)

    class PlainDict:
        """``dict`` without its type."""

        def __call__(self, *args: Any, **kwargs: Any) -> dict:
            return dict(*args, **kwargs)

        def fromkeys(self, *args: Any) -> dict:
            return dict.fromkeys(*args)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.globals["dict"] = PlainDict()
    environment.globals["namespace"] = PlainNamespace
    return environment.from_string(text)


def _check_name(name: object) -> None:
    import jinja2

    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has no name like {name!r}")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter writes <, > and & in another way
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
