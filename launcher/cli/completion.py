"""The verb `completion`: the script that completes commands in a shell. What may follow is found by `complete`."""

from __future__ import annotations

import argparse

from launcher.cli.arguments import DONE, Parser
from launcher.machine.terminal import say

EXAMPLES = (
    "prefsweep completion bash >> ~/.bashrc",
    "prefsweep completion zsh > ~/.zfunc/_prefsweep",
    "prefsweep completion fish > ~/.config/fish/completions/prefsweep.fish",
)
# Each hands over the words up to the cursor, the last of which is being typed, and shows the lines that come back. Bash
# splits words at = and :, so there the line is handed over, and what bash takes for words before is cut off again.
SCRIPTS = {
    "bash": r"""# completion of prefsweep for bash
_prefsweep() {
    local word="${COMP_WORDS[COMP_CWORD]}" line="${COMP_LINE:0:COMP_POINT}" typed cut
    typed="${line##*[[:space:]]}"
    [[ "$word" == [=:] ]] && word=""
    cut="${typed%"$word"}"
    mapfile -t COMPREPLY < <(prefsweep completion --line "$line" 2>/dev/null)
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    [[ "${COMPREPLY[*]}" == *[=/.] && ${#COMPREPLY[@]} -eq 1 ]] && compopt -o nospace
    return 0
}
complete -o default -F _prefsweep prefsweep
""",
    "zsh": r"""#compdef prefsweep
# completion of prefsweep for zsh
_prefsweep() {
    local -a found open
    found=("${(@f)$(prefsweep completion --words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=(${found:#})
    (( ${#found} )) || { _files; return }
    open=(${(M)found:#*[=/.]})
    found=(${found:#*[=/.]})
    compadd -Q -S '' -a open
    compadd -Q -a found
}
if [[ "$funcstack[1]" == _prefsweep ]]; then _prefsweep "$@"; else compdef _prefsweep prefsweep; fi
""",
    "fish": r"""# completion of prefsweep for fish
function __prefsweep
    set -l words (commandline -opc) (commandline -ct)
    prefsweep completion --words $words[2..-1] 2>/dev/null
end
complete -c prefsweep -f -a '(__prefsweep)'
""",
}


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    parser.add_argument("shell", choices=tuple(SCRIPTS), help="which shell the script is for")


def completion(options: argparse.Namespace) -> int:
    """Print the script."""
    say(SCRIPTS[options.shell], end="")
    return DONE
