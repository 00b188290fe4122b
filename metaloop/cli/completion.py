"""Print a script that completes commands, options, choices and recipes in bash and zsh."""

from .options import option

OPTIONS = (option("shell", choices=("bash", "zsh"), help='eval "$(metaloop completion bash)" in ~/.bashrc'),)
SCRIPT = """\
_metaloop() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands}"; else
    case "${{COMP_WORDS[1]}} $before" in
{values}
      *) case "${{COMP_WORDS[1]}}" in
{options}
      esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _metaloop metaloop
"""


def run(args) -> None:
    from ..recipes import RECIPES
    from . import parser

    commands = next(action for action in parser()._actions if isinstance(action.choices, dict)).choices
    assert isinstance(commands, dict)
    values, options = [], []
    for name, command in commands.items():
        flags = [flag for action in command._actions for flag in action.option_strings]
        for action in command._actions:
            known = RECIPES if action.dest == "recipe" else action.choices or ()
            for before in action.option_strings or [name]:
                if known:
                    values.append(f'      "{name} {before}") words="{" ".join(known)}" ;;')
        options.append(f'        {name}) words="{" ".join(flags)}" ;;')
    if args.shell == "zsh":
        print("autoload -U +X bashcompinit && bashcompinit")
    print(SCRIPT.format(commands=" ".join(commands), values="\n".join(values), options="\n".join(options)), end="")
