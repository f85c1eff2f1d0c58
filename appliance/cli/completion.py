"""``fluxbee completion bash``: a script that completes verbs, options, choices, files and configuration keys.

The script is made from the parsers and holds everything it needs: pressing Tab starts no program, which on a
small box would take longer than typing. It needs bash 4 and no other package.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from .frame import Verbs, add_verb
from .output import ExitCode

__all__ = ["add_parser", "bash_script"]


def add_parser(verbs: Verbs) -> None:
    """Add ``completion``."""
    parser = add_verb(
        verbs,
        "completion",
        _completion,
        summary="print a script that completes fluxbee's words",
        examples=[
            ("fluxbee completion bash > /etc/bash_completion.d/fluxbee", "for everybody"),
            ('eval "$(fluxbee completion bash)"', "for this shell"),
        ],
    )
    parser.add_argument("shell", choices=["bash"], help="which shell")


def _completion(args: argparse.Namespace) -> int:
    from . import build_parser

    sys.stdout.write(bash_script(build_parser()))
    return ExitCode.OK


def bash_script(parser: argparse.ArgumentParser) -> str:
    """The bash completion of ``parser`` and all its verbs."""
    steps: list[str] = []
    takes_value: list[str] = []
    values: list[str] = []
    words: list[str] = []
    for path, one in _walk(parser, ""):
        options = [action for action in one._actions if action.option_strings]
        names = " ".join(sorted(name for action in options for name in action.option_strings))
        positional = [action for action in one._actions if not action.option_strings]
        verbs = _verbs(one)
        steps.extend(f"'{path}|{verb}'" for verb in verbs)
        for action in options:
            if action.nargs != 0:
                pattern = "|".join(f"'{path}|{name}'" for name in action.option_strings)
                takes_value.append(pattern)
                values.append(f"        {pattern}) {_offer(action)} ;;")
        plain = " ".join(verbs) or " ".join(_choices(action) for action in positional)
        files = next((_offer(action) for action in positional if _kind(action) in _FILES), ":")
        words.append(f"        '{path}') options='{names}' words='{plain}' files='{files}' ;;")
    return _TEMPLATE.format(
        steps="|".join(steps) or "''",
        takes_value="|".join(takes_value) or "'|'",
        values="\n".join(values),
        words="\n".join(words),
    )


_FILES = {"file": "_fluxbee_files -f", "directory": "_fluxbee_files -d"}

_TEMPLATE = """\
# bash completion of fluxbee; made by `fluxbee completion bash`

_fluxbee_files() {{
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen "$1" -- "$cur")
}}

_fluxbee_words() {{
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}}

_fluxbee() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}
    local path='' i word options words files
    COMPREPLY=()
    # bash makes a word of its own of "=": --config=FILE is three words.
    if [[ $cur == '=' ]]; then cur=''; elif [[ $prev == '=' ]]; then prev=${{COMP_WORDS[COMP_CWORD - 2]}}; fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        case "$path|$word" in
        {takes_value}) ((i++)); [[ ${{COMP_WORDS[i]}} == '=' ]] && ((i++)) ;;
        {steps}) path="${{path:+$path }}$word" ;;
        esac
    done
    case "$path|$prev" in
{values}
        *) [[ ${{COMP_WORDS[COMP_CWORD]}} == '=' ]] && return
        case "$path" in
{words}
        esac
        if [[ $cur == -* ]]; then _fluxbee_words "$options"
        elif [[ -n $words ]]; then _fluxbee_words "$words"
        else $files; fi ;;
    esac
}}

complete -F _fluxbee fluxbee
"""


def _walk(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield path, parser
    for verb, below in _verbs(parser).items():
        yield from _walk(below, f"{path} {verb}".strip())


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _kind(action: argparse.Action) -> str:
    return str(getattr(action, "completes", ""))


def _choices(action: argparse.Action) -> str:
    if _kind(action) == "setting":
        from appliance.settings import Settings
        from appliance.settings.keys import leaves, section_names

        return " ".join(sorted([*leaves(Settings), *section_names(Settings)]))
    return " ".join(str(choice) for choice in action.choices or ())


def _offer(action: argparse.Action) -> str:
    """The shell command that offers an argument's values; ``:`` when nobody can know them."""
    if _kind(action) in _FILES:
        return _FILES[_kind(action)]
    choices = _choices(action)
    return f"_fluxbee_words '{choices}'" if choices else ":"
