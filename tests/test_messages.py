"""What minipuzzle says while it works: logged by the rooms, printed by the command line."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import minipuzzle
from minipuzzle import messages

ROOM = Path(minipuzzle.__file__).parent
PRINTERS = ("cli.py", "messages.py", "bars.py", "interrupt.py", "commands", "embedded")
"""Where something is written to a terminal; interrupt.py from a signal's handler."""


def test_the_command_line_prints_each_message_once_and_as_it_is(capsys):
    messages.print_messages()
    messages.print_messages()
    log = logging.getLogger("minipuzzle.some.room")
    log.info("[bold]a path[/] :smile: %s " + "x" * 300)
    log.warning("of 100%")
    log.debug("not this")
    said = capsys.readouterr()
    assert said.err == "[bold]a path[/] :smile: %s " + "x" * 300 + "\nof 100%\n"
    assert said.out == ""


def test_from_python_only_warnings_are_shown():
    code = (
        "import logging, minipuzzle.rundir\n"
        "log = logging.getLogger('minipuzzle.runs.distill')\n"
        "log.info('going on'); log.warning('worse')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "worse\n"


def test_a_message_that_cannot_be_printed_ends_nothing(monkeypatch, capsys):
    def broken(*_, **__):
        raise ValueError("closed")

    messages.print_messages()
    monkeypatch.setattr("minipuzzle.bars.console.print", broken)
    logging.getLogger("minipuzzle").warning("lost")
    assert "ValueError: closed" in capsys.readouterr().err


def test_rooms_log_and_print_nothing():
    """No room writes to the terminal by itself or takes a function to say things with."""
    direct = re.compile(
        r"(?<![\w.])print\(|(?<!self\.)\bsay\b *[=(]|say: Callable|sys\.stderr\.write"
    )
    found = [
        f"{path.relative_to(ROOM)}:{number}: {line.strip()}"
        for path in sorted(ROOM.rglob("*.py"))
        if path.relative_to(ROOM).parts[0] not in PRINTERS
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if direct.search(line) and not line.lstrip().startswith(("#", '"'))
    ]
    assert found == []
