"""The scripts of completion, each made of the commands, of the words that follow each, and of the values of options.

They hold all words themselves, so that nothing is started when the Tab key is pressed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Words: TypeAlias = Mapping[str, Sequence[str]]


def bash(commands: Mapping[str, str], words: Words, values: Words) -> str:
    """Return the script for bash, which divides ``--option=value`` into three words."""
    return f"""# Completion of lightning-fed for bash: eval "$(lightning-fed completion bash)"
_lightning_fed() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" option="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
    if [[ $option == "=" ]]; then option="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
    if [[ $word == "=" ]]; then option="${{COMP_WORDS[COMP_CWORD-1]}}" word=""; fi
    COMPREPLY=()
    case "$option" in
{_cases(values)}
    esac
    if [[ -z $words && $option != -* && $COMP_CWORD -eq 1 ]]; then
        words="{" ".join((*commands, "--help", "--version"))}"
    elif [[ -z $words && ( $word == -* || $option != -* ) ]]; then
        case "${{COMP_WORDS[1]}}" in
{_cases(words)}
        esac
        if [[ $word != -* ]]; then words=$(printf '%s\\n' $words | grep -v '^-'); fi
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [[ $option == -c || $option == --config ]]; then
        COMPREPLY+=($(compgen -f -X '!*.yaml' -- "$word") $(compgen -d -S / -- "$word"))
    fi
}}
complete -o default -F _lightning_fed lightning-fed
"""


def zsh(commands: Mapping[str, str], words: Words, values: Words) -> str:
    """Return the script for zsh."""
    described = "\n".join(f"            {_quoted(f'{name}:{text}')}" for name, text in commands.items())
    return f"""#compdef lightning-fed
# Completion of lightning-fed for zsh: eval "$(lightning-fed completion zsh)"
_lightning_fed() {{
    local word="$words[CURRENT]" option="$words[CURRENT-1]" found=""
    local -a commands
    if [[ $word == --*=* ]]; then option="${{word%%=*}}"; compset -P '*='; word="${{word#*=}}"; fi
    case "$option" in
{_cases(values, "found")}
    esac
    if (( CURRENT == 2 )); then
        commands=(
{described}
        )
        _describe command commands
        compadd -- --help --version
    elif [[ -n $found ]]; then
        compadd -- ${{=found}}
        [[ $option == (-c|--config) ]] && _files
    else
        case "$words[2]" in
{_cases(words, "found")}
        esac
        if [[ $word == -* || $option != -* ]]; then compadd -- ${{=found}}; fi
        [[ $word == -* ]] || _files
    fi
}}
compdef _lightning_fed lightning-fed
"""


def fish(commands: Mapping[str, str], words: Words, values: Words) -> str:
    """Return the script for fish."""
    lines = ["# Completion of lightning-fed for fish", f"set -l commands {' '.join(commands)}"]
    begins = '-n "not __fish_seen_subcommand_from $commands"'
    for name, text in commands.items():
        lines.append(f"complete -c lightning-fed {begins} -f -a {name} -d {_quoted(text)}")
    lines += [f"complete -c lightning-fed {begins} -f -l {name}" for name in ("help", "version")]
    for name, options in words.items():
        within = f'complete -c lightning-fed -n "__fish_seen_subcommand_from {name}"'
        plain = [word for word in options if not word.startswith("-")]
        if plain:
            lines.append(f"{within} -a {_quoted(' '.join(plain))}")
        for option in options:
            dashes = "-l" if option.startswith("--") else "-s"
            choices = f" -x -a {_quoted(' '.join(values[option]))}" if option in values else ""
            if option.startswith("-"):
                lines.append(f"{within} {dashes} {option.lstrip('-')}{choices or ' -r' * ('.' in option)}")
    return "\n".join(lines) + "\n"


def _cases(words: Words, variable: str = "words") -> str:
    return "\n".join(f'        {name}) {variable}="{" ".join(each)}" ;;' for name, each in words.items())


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
