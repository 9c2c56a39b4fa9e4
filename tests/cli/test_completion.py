#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Completion in bash, zsh and fish: every verb, every option, formats, values and the keys of -o."""
import fcntl
import pty
import select
import struct
import termios

from peers import *

COMPLETIONS = pathlib.Path(oxbow_path()).parent / "completions"
FILES = {"bash": COMPLETIONS / "oxbow", "zsh": COMPLETIONS / "_oxbow", "fish": COMPLETIONS / "oxbow.fish"}
CACHES = ["directsync", "none", "unsafe", "writeback", "writethrough"]
FORMATS = ["qcow2", "qed", "raw"]
# What bash does at a tab: it cuts the line at COMP_WORDBREAKS, blanks or not, and calls the function.
BASH = r"""
source "$1"
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE} COMP_WORDS=() rest=$COMP_LINE
    while [[ $rest =~ ^[[:space:]]*([=:]+|[^=:[:space:]]+)(.*)$ ]]; do
        COMP_WORDS+=("${BASH_REMATCH[1]}") rest=${BASH_REMATCH[2]}
    done
    [[ $COMP_LINE != *[[:space:]] ]] || COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _oxbow 2>&1
    printf '%s\n' "${COMPREPLY[@]}" .
done
"""
FISH = r"""
source $argv[1]
while read -l line
    complete -C "$line"
    echo .
end
"""


def parts(text):
    """The answers to each of the lines: those words up to a dot."""
    return [sorted(filter(None, part.strip("\n").split("\n"))) for part in ("\n" + text).split("\n.\n")[:-1]]


def in_bash(*lines):
    return parts(output("bash", "--norc", "-c", BASH, "bash", FILES["bash"],
                        input="\n".join(lines) + "\n"))


def in_fish(*lines):
    """Without what fish shows beside a word."""
    home = tmpdir() / "home"
    home.mkdir(exist_ok=True)
    env = dict(os.environ, HOME=str(home), XDG_CONFIG_HOME=str(home), XDG_DATA_HOME=str(home))
    text = output("fish", "--no-config", "-c", FISH, FILES["fish"], input="\n".join(lines) + "\n", env=env)
    return [sorted({word.split("\t")[0] for word in part}) for part in parts(text)]


class Terminal:
    """A shell at a terminal that is large enough to list everything."""

    def __init__(self, *argv, env=()):
        pid, self.fd = pty.fork()
        if pid == 0:
            os.execvpe(argv[0], argv, dict(os.environ, TERM="dumb", **dict(env)))
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 500, 300, 0, 0))
        on_exit(lambda: os.waitpid(pid, 0))
        on_exit(lambda: os.kill(pid, signal.SIGKILL))
        on_exit(lambda: os.close(self.fd))

    def type(self, text, until):
        """What is shown up to what matches `until`."""
        os.write(self.fd, text.encode())
        shown = ""
        while not re.search(until, shown):
            ready, _, _ = select.select([self.fd], [], [], 60)
            if not ready:
                raise Failure(f"{text!r}: no {until!r} in {shown[-3000:]!r}")
            shown += os.read(self.fd, 65536).decode(errors="replace").replace("\r", "")
        return shown


class Zsh(Terminal):
    def __init__(self):
        home = tmpdir() / "zsh"
        home.mkdir()
        shutil.copy(FILES["zsh"], home / "_oxbow")
        super().__init__("zsh", "-f", "-i", env={"ZDOTDIR": str(home), "HOME": str(home)})
        self.type(f"bindkey -e; fpath=({home} $fpath); autoload -Uz compinit; compinit -u -D; LISTMAX=100000; "
                  "unsetopt beep prompt_sp always_last_prompt auto_menu list_ambiguous; unset zle_bracketed_paste; PS1='R''eady'; "
                  "zstyle ':completion:*' list-separator ' -- '; "
                  "oxbow() { printf '<%s>' \"$@\" -; }\n", "Ready$")

    def listed(self, line):
        """The words that a tab lists."""
        shown = self.type(f"{line}\t\x15echo lis''ted\n", r"\nlisted\nReady$")
        return set(re.findall(r"(?<![-\w./])([-\w+.]+=?)", shown.split("\n", 1)[-1]))

    def typed(self, line):
        """The words of the line when it has been completed and carried out."""
        return re.findall(r"<(.*?)>", self.type(f"{line}\t\n", r"<->.*Ready$"))[:-1]


def spellings_of(verb):
    return sorted({f"-{spelling}" for option in help_options(verb) for spelling in option})


def test_bash_completes_every_verb_and_option():
    verbs = documented_verbs()
    words, again, *options = in_bash("oxbow ", "oxbow help ", *(f"oxbow {verb} -" for verb in verbs))
    check_equal(words, sorted(the_verbs() + ["--help", "--version"]), "verbs")
    check_equal(again, words, "verbs of help")
    for verb, found in zip(verbs, options):
        check_equal(set(spellings_of(verb)) - set(found), set(), f"what is missing of {verb}")
        # That verb takes the options of serve as well.
        known = spellings_of(verb) + (spellings_of("serve") if verb == "vhost-user-blk" else [])
        check_equal(set(found) - set(known), set(), f"what {verb} does not know")


def test_fish_completes_every_verb_and_option():
    verbs = documented_verbs()
    words, again, short, *options = in_fish("oxbow ", "oxbow help ", "oxbow -", *(
        line for verb in verbs for line in (f"oxbow {verb} -", f"oxbow {verb} --")))
    check_equal(words, sorted(the_verbs()), "verbs")
    check_equal(again, words, "verbs of help")
    check_in("--version", short)
    for verb, one, two in zip(verbs, options[::2], options[1::2]):
        found = {word.rstrip("=") for word in one + two}
        check_equal(set(spellings_of(verb)) - found, set(), f"what is missing of {verb}")


def test_zsh_completes_every_verb_and_option():
    zsh = Zsh()
    found = zsh.listed("oxbow ")
    check_equal(set(the_verbs()) - found, set(), "verbs that are missing")
    check_equal(set(the_verbs()) - zsh.listed("oxbow help "), set(), "verbs of help that are missing")
    for verb in documented_verbs():
        found = {word.rstrip("=") for word in zsh.listed(f"oxbow {verb} -")}
        check_equal(set(spellings_of(verb)) - found, set(), f"what is missing of {verb}")


def test_formats_values_and_keys_are_known():
    pathlib.Path("disk.qcow2").touch()
    pathlib.Path("folder").mkdir()
    for line, expected in (
            ("oxbow create -f ", FORMATS), ("oxbow create -f q", ["qcow2", "qed"]),
            ("oxbow create -q -F ", FORMATS), ("oxbow check --format=", ["qcow2", "qed"]),
            ("oxbow serve --cache ", CACHES), ("oxbow serve --cache=write", ["writeback", "writethrough"]),
            ("oxbow io -nt ", CACHES), ("oxbow io --recover a", ["auto"]),
            ("oxbow check -r ", ["all", "leaks"]), ("oxbow info --output ", ["human", "json"]),
            ("oxbow map --output=j", ["json"]), ("oxbow serve --on-full=", ["error", "pause"]),
            ("oxbow create -f qcow2 -o lazy", ["lazy_refcounts="]),
            ("oxbow create -f qed -o table", ["table_size="]), ("oxbow create -f raw -o table", []),
            ("oxbow create -o preallocation=f", ["falloc", "full"]),
            ("oxbow create -f qcow2 -o size=1G,preallocation=m", ["metadata"]),
            ("oxbow create -f qcow2 -o lazy_refcounts=on,comp", ["compat=", "compression_type="]),
            ("oxbow ctl disk.qcow2 r", ["remove", "resize", "resume"]),
            ("oxbow ctl disk.qcow2 add name --work", ["--worker"]),
            ("oxbow vhost-user-blk --num-q", ["--num-queues"]),
            ("oxbow info d", ["disk.qcow2"]), ("oxbow create -b d", ["disk.qcow2"]),
            ("oxbow serve --allow-backing=f", ["folder"])):
        check_equal(last_parts(in_bash(line)[0]), expected, f"what bash makes of {line!r}")
        check_equal(last_parts(in_fish(line)[0]), expected, f"what fish makes of {line!r}")


def last_parts(words):
    """Of --option=value and of a=b,c=d what comes last; a folder's slash is left out."""
    return sorted(re.sub(r"^.*[,=](?=.)", "", word).rstrip("/") for word in words)


def test_an_option_that_takes_a_word_of_ones_own_completes_nothing():
    pathlib.Path("disk").touch()
    for line in ("oxbow serve --shared ", "oxbow io -c ", "oxbow create -f qcow2 -o cluster_size="):
        check_equal(in_bash(line)[0], [], f"what bash makes of {line!r}")
        check_equal(in_fish(line)[0], [], f"what fish makes of {line!r}")


def test_zsh_completes_values_and_keys():
    zsh = Zsh()
    pathlib.Path("disk.qcow2").touch()
    for line, expected in (("oxbow create -f qc", ["create", "-f", "qcow2"]),
                           ("oxbow serve --cache=writet", ["serve", "--cache=writethrough"]),
                           ("oxbow serve -t writet", ["serve", "-t", "writethrough"]),
                           ("oxbow create -f qcow2 -o lazy", ["create", "-f", "qcow2", "-o", "lazy_refcounts="]),
                           ("oxbow create -f qed -o size=1G,ta",
                            ["create", "-f", "qed", "-o", "size=1G,table_size="]),
                           ("oxbow create -o preallocation=fu", ["create", "-o", "preallocation=full"]),
                           ("oxbow ctl disk.qcow2 stat\tu", ["ctl", "disk.qcow2", "status"]),
                           ("oxbow ctl disk.qcow2 add name --work", ["ctl", "disk.qcow2", "add", "name", "--worker="]),
                           ("oxbow info di", ["info", "disk.qcow2"])):
        found = zsh.typed(line)
        check_equal([word.rstrip("=") for word in found], [word.rstrip("=") for word in expected],
                    f"what zsh makes of {line!r}")


def test_bash_completes_at_a_terminal():
    """Quotes, the cut at '=' and the blank that follows a whole word are bash's own."""
    bash = Terminal("bash", "--norc", "--noprofile", "-i")
    bash.type(f"PS1=; source {FILES['bash']}; oxbow() {{ printf '<%s>' \"$@\" -; }}; echo R''eady\n",
              "Ready\n")
    for name in ("a disk", "b:1.qcow2"):
        pathlib.Path(name).touch()
    for line, expected in (("oxbow crea\t-f qc\t-o lazy\ton 'a \t 1G", ["create", "-f", "qcow2", "-o",
                            "lazy_refcounts=on", "a disk", "1G"]),
                           ("oxbow serve --cache=writet\t--read\t", ["serve", "--cache=writethrough", "--read-only"]),
                           ("oxbow check --output=j\t b:\t", ["check", "--output=json", "b:1.qcow2"])):
        found = re.findall(r"<(.*?)>", bash.type(line + "\n", "<->"))[:-1]
        check_equal(found, expected, f"what bash makes of {line!r}")


def test_every_value_that_is_offered_is_one():
    qemu_img("create", "-q", "-f", "qcow2", "disk", "1M")
    for option in ("--cache", "--discard", "--aio", "--recover"):
        for value in in_bash(f"oxbow io {option} ")[0]:
            oxbow("io", "-f", "qcow2", option, value, "-c", "length", "disk")
    for fmt in FORMATS:
        for key in in_bash(f"oxbow create -f {fmt} -o ")[0]:
            for value in in_bash(f"oxbow create -f {fmt} -o {key}")[0] if key not in ("backing_fmt=", "help") else []:
                if not pathlib.Path(value).exists():
                    oxbow("create", "-q", "-f", fmt, "-o", f"{key}{value}", "new", "1M")


def test_what_is_installed_has_the_names_that_the_shells_look_for():
    listed = (ROOT / "completions" / "meson.build").read_text()
    for folder in ("bash-completion/completions", "zsh/site-functions", "fish/vendor_completions.d"):
        check_in(folder, listed)
    check_in("#compdef oxbow\n", FILES["zsh"].read_text())


run_tests(globals())
