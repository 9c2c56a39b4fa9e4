# SPDX-License-Identifier: MIT
"""The tables of each shell's completion, in its own language."""


def quote(text):
    """For any shell, zsh and bash."""
    return "'" + text.replace("'", "'\\''") + "'"


def takes(option):
    """What an argument of an option may be: a kind, and the words of that."""
    return " ".join([option.kind, *option.values])


def bash(command):
    lines = [f"_oxbow_verbs={quote(' '.join(verb.name for verb in command.verbs) + ' --help --version')}"]
    lines += [f"_oxbow_commands={quote(' '.join(name for verb in command.verbs for name, _ in verb.commands))}",
              "# A table that is local to who reads this file would not last.",
              "declare -gA _oxbow_options=() _oxbow_takes=() _oxbow_keys=() _oxbow_values=()"]
    for verb in command.verbs:
        spellings = " ".join(spelling for option in verb.options for spelling in option.spellings)
        lines.append(f"_oxbow_options[{verb.name}]={quote(spellings)}")
        for option in verb.options:
            lines += [f"_oxbow_takes[{quote(f'{verb.name} {spelling}')}]={quote(f'{option.takes} {takes(option)}')}"
                      for spelling in option.spellings if option.takes != "no"]
    for fmt, keys in command.keys.items():
        lines.append(f"_oxbow_keys[{fmt}]={quote(' '.join(key.name + '=' for key in keys))}")
        lines += [f"_oxbow_values[{quote(f'{fmt} {key.name}')}]={quote(takes(key))}" for key in keys]
    return "\n".join(lines)


ZSH_KINDS = {"file": "_files", "directory": "_files -/", "user": "_users", "group": "_groups",
             "keys": "_oxbow_keys", "text": " "}


def zsh_text(text):
    return "".join("\\" + c if c in "[]:\\" else c for c in text)


def zsh_argument(thing, name):
    action = f"({' '.join(thing.values)})" if thing.kind == "words" else ZSH_KINDS[thing.kind]
    return f"{zsh_text(name or 'value')}:{action}"


def zsh_option(option):
    """One line a spelling. An option may be given again: which ones may be is nothing that help says."""
    for spelling in option.spellings:
        sign = "" if option.takes == "no" else "=-" if option.takes == "may" else \
            "=" if spelling.startswith("--") else "+"
        colon = {"no": "", "needs": ":", "may": "::"}[option.takes]
        argument = colon + zsh_argument(option, option.name.lower()) if colon else ""
        yield "    " + quote(f"*{spelling}{sign}[{zsh_text(option.says)}]{argument}")


def zsh_list(name, pairs):
    return [f"{name}=(", *("  " + quote(f"{zsh_text(key)}:{says}") for key, says in pairs), ")"]


def zsh_verb(verb):
    lines = [" \\\n".join([f"_oxbow_{verb.name}() {{\n  _arguments -s -S"]
                          + [line for option in verb.options for line in zsh_option(option)]
                          + ["    " + argument for argument in zsh_places(verb)]), "}"]
    return "\n".join(lines)


def zsh_places(verb):
    if verb.name == "help":
        return ["'1:verb:{_describe -t verbs verb _oxbow_verbs}'"]
    if verb.commands:
        return ["'1:socket:_files'", f"'2:command:_oxbow_{verb.name}_command'",
                f"'*::argument:_oxbow_{verb.name}_arguments'"]
    return [] if verb.name == "version" else ["'*:file:_files'"]


def zsh(command):
    lines = zsh_list("_oxbow_verbs", [(verb.name, verb.says) for verb in command.verbs])
    for verb in command.verbs:
        if verb.commands:
            lines += zsh_list(f"_oxbow_{verb.name}_commands", verb.commands)
    lines += [zsh_verb(verb) for verb in command.verbs]
    for fmt, keys in command.keys.items():
        lines.append(" \\\n".join([f"_oxbow_keys_{fmt}() {{\n  _values -s , {quote('option of ' + fmt)}"] + [
            "    " + quote(f"{key.name}[{zsh_text(key.says)}]:{zsh_argument(key, key.name)}") for key in keys]
            + ["    'help[list the options]'"]) + "\n}")
    return "\n".join(lines)


def fish_quote(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


FISH_KINDS = {"file": " -r -F", "directory": " -x -a '(__fish_complete_directories)'",
              "user": " -x -a '(__fish_complete_users)'", "group": " -x -a '(__fish_complete_groups)'",
              "keys": " -x -a '(__fish_oxbow_keys)'", "text": " -x"}


def fish_option(verb, option):
    names = "".join(f" -l {s[2:]}" if s.startswith("--") else f" -s {s[1:]}" for s in option.spellings)
    how = ""
    if option.takes != "no":
        how = FISH_KINDS.get(option.kind) or f" -x -a {fish_quote(' '.join(option.values))}"
        if option.takes == "may":
            how = how.replace(" -x", " -f")
    says = f" -d {fish_quote(option.says)}" if option.says else ""
    return f"complete -c oxbow -n '__fish_oxbow_is {verb.name}'{names}{how}{says}"


def fish_switch(name, cases):
    """A function that prints a line a word, by its arguments."""
    lines = [f"function {name}", "    switch \"$argv\""]
    for case, words in cases:
        if words:
            lines += [f"        case {fish_quote(case)}", f"            printf '%s\\n' {' '.join(words)}"]
    return lines + ["    end", "end"]


def fish(command):
    lines = []
    for verb in command.verbs:
        pair = f"-a {verb.name} -d {fish_quote(verb.says)}"
        lines.append(f"complete -c oxbow -n __fish_oxbow_has_no_verb -f {pair}")
        lines.append(f"complete -c oxbow -n '__fish_oxbow_is help' -f {pair}")
        lines += [fish_option(verb, option) for option in verb.options]
        lines += [f"complete -c oxbow -n __fish_oxbow_wants_command -f -a {name} -d {fish_quote(says)}"
                  for name, says in verb.commands]
    # The text after a tab is what fish shows beside the word.
    lines += fish_switch("__fish_oxbow_keys_of", [
        (fmt, [fish_quote(f"{key.name}=") + '\\t' + fish_quote(key.says) for key in keys] + ["help"])
        for fmt, keys in command.keys.items()])
    lines += fish_switch("__fish_oxbow_values", [
        (f"{fmt} {key.name}", key.values) for fmt, keys in command.keys.items() for key in keys])
    return "\n".join(lines)


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
