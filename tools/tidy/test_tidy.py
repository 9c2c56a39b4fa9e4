#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The project is tidy, and each rule refuses what it is there to refuse."""
import tidy
import prose
import rules
import csource
from harness import *

SPDX = "/* SPDX-License-Identifier: MIT */\n"
BREACHES = dict(tidy.run_checks(ROOT))


def check_project(rule):
    if BREACHES[rule]:
        raise Failure(f"{len(BREACHES[rule])} breaches:\n" + "\n".join(BREACHES[rule]))


def check_refused(rule, path, text, word, others=()):
    tree = {path: text, **{other: SPDX for other in others}}
    breaches = list(rule(tree))
    check_equal(len(breaches), 1, f"number of breaches {breaches}")
    check_in(word, breaches[0])


def check_accepted(rule, path, text, others=()):
    check_equal(list(rule({path: text, **{other: SPDX for other in others}})), [], "breaches")


def test_the_projects_dependencies_point_down():
    check_project("dependencies_point_down")


def test_the_projects_rooms_point_down():
    check_project("rooms_point_down")


def test_the_projects_rooms_write_what_is_theirs():
    check_project("rooms_write_what_is_theirs")


def test_in_the_project_only_suspending_functions_suspend():
    check_project("only_suspending_functions_suspend")


def test_the_projects_functions_fit_a_screen():
    check_project("functions_fit_a_screen")


def test_the_projects_files_have_one_purpose():
    check_project("files_have_one_purpose")


def test_the_projects_sources_state_their_licence():
    check_project("sources_state_their_licence")


def test_nothing_in_the_project_is_marked_unfinished():
    check_project("nothing_is_marked_unfinished")


def test_the_projects_lines_end_cleanly():
    check_project("lines_end_cleanly")


def test_the_projects_prose_keeps_to_its_columns():
    check_project("prose_keeps_to_its_columns")


def test_the_projects_changes_are_told_once():
    check_project("changes_are_told_once")


def test_the_projects_sources_are_formatted():
    check_project("sources_are_formatted")


def test_the_projects_man_pages_are_well_formed():
    check_project("man_pages_are_well_formed")


def test_the_projects_scripts_parse():
    check_project("scripts_parse")


def test_the_project_is_read_whole():
    tree = list(tidy.read_tree(ROOT))
    for path in ("dev", ".ci/run", "include/oxbow.h", "src/base/error.c", "README.md",
                 "tests/harness.py", "meson.build", "tools/tidy/tidy.py"):
        check_in(path, tree)


def test_an_upward_include_is_refused():
    check_refused(rules.dependencies_point_down, "src/io/file.c", '#include "meta/cache.h"\n',
                  "io includes meta/cache.h", ["src/meta/cache.h"])


def test_a_downward_include_is_accepted():
    check_accepted(rules.dependencies_point_down, "src/meta/cache.c", '#include "io/io.h"\n',
                   ["src/io/io.h"])


def test_an_include_of_a_layer_beside_is_refused():
    check_refused(rules.dependencies_point_down, "src/codec/zlib.c", '#include "fmt/qcow2.h"\n',
                  "codec includes fmt/qcow2.h", ["src/fmt/qcow2.h"])


def test_a_front_end_that_includes_base_is_refused():
    for path in ("src/cli/create.c", "src/serve/nbd/nbd.c"):
        check_refused(rules.dependencies_point_down, path, '#include "base/arith.h"\n',
                      "includes base/arith.h", ["src/base/arith.h"])


def test_a_front_end_may_include_the_public_header_and_its_own():
    check_accepted(rules.dependencies_point_down, "src/cli/create.c",
                   '#include "oxbow.h"\n#include <oxbow.h>\n#include "cli/cli.h"\n',
                   ["include/oxbow.h", "src/cli/cli.h"])


def test_serve_may_not_include_cli():
    check_refused(rules.dependencies_point_down, "src/serve/a.c", '#include "cli/cli.h"\n',
                  "serve includes cli/cli.h", ["src/cli/cli.h"])


def test_an_include_of_a_higher_room_is_refused():
    for path, included in (("ledger/ledger.c", "salvage/salvage.h"), ("qed/qed.c", "layout/layout.h"),
                           ("mend/counts.c", "repairs.h")):
        check_refused(rules.rooms_point_down, f"src/check/{path}", f'#include "check/{included}"\n',
                      f"includes check/{included}")


def test_an_include_of_a_lower_room_or_of_what_the_layer_offers_is_accepted():
    check_accepted(rules.rooms_point_down, "src/check/mend/counts.c",
                   '#include "check/mend/mend.h"\n#include "check/view/view.h"\n'
                   '#include "check/check.h"\n#include "base/arith.h"\n')


def test_a_folder_that_is_no_room_is_refused():
    check_refused(rules.rooms_point_down, "src/check/attic/old.c", SPDX, "in no room")


def test_a_write_to_another_rooms_struct_is_refused():
    for line in ("w->v.dirty = false;", "m->w->k.rc.blocks[i].state = 0;", "g->leaks++;",
                 "round->j.structural += 1;"):
        check_refused(rules.rooms_write_what_is_theirs, "src/check/salvage/link.c", f"\t{line}\n",
                      "writes")


def test_what_is_for_others_to_set_and_a_rooms_own_struct_may_be_written():
    check_accepted(rules.rooms_write_what_is_theirs, "src/check/background.c",
                   "\tb->round.w.v.pause_co = pause_co;\n\tif (w->v.dirty == g->leaks)\n")
    check_accepted(rules.rooms_write_what_is_theirs, "src/check/ledger/ledger.c",
                   "\tk->rc.offset = 0;\n")


def test_an_include_that_climbs_is_refused():
    check_refused(rules.dependencies_point_down, "src/rt/co.c", '#include "../io/io.h"\n', "..")


def test_a_folder_that_is_no_layer_is_refused():
    check_refused(rules.dependencies_point_down, "src/misc/a.c", "", "no layer")


def test_a_plain_function_that_suspends_is_refused():
    check_refused(rules.only_suspending_functions_suspend, "src/a.c",
                  "int plain(void)\n{\n\treturn read_co(1);\n}\n", "src/a.c:3: plain calls read_co")


def test_a_call_through_an_ops_table_is_refused_as_well():
    check_refused(rules.only_suspending_functions_suspend, "src/a.c",
                  "int plain(struct io *io)\n{\n\treturn io->ops->read_co(io);\n}\n", "read_co")


def test_a_macro_that_suspends_is_refused():
    check_refused(rules.only_suspending_functions_suspend, "src/a.c",
                  "#define TRY(x) \\\n\tread_co(x)\n", "TRY calls read_co")


def test_a_function_after_extern_c_and_attributes_is_seen():
    check_refused(rules.only_suspending_functions_suspend, "src/a.c",
                  'extern "C" {\nint plain(int a) __attribute__((noinline(1)))\n{\n\tb_co(a);\n}\n}\n',
                  "plain calls b_co")


def test_passing_a_suspending_function_is_accepted():
    check_accepted(rules.only_suspending_functions_suspend, "src/a.c",
                   "int a_co(void);\nstruct ops o = {.read_co = a_co};\n"
                   "int plain(void)\n{\n\t/* a_co() */\n\tlog(\"a_co()\");\n"
                   "\treturn ox_co_spawn(a_co);\n}\n"
                   "int a_co(void)\n{\n\tif (b_co()) {\n\t}\n\treturn c_co('}');\n}\n")


def sample_function(lines):
    return "int f(void)\n{\n" + "\tg();\n" * (lines - 3) + "}\n"


def test_a_function_of_71_lines_is_refused():
    check_refused(rules.functions_fit_a_screen, "src/a.c", sample_function(71), "f has 71 lines")


def test_a_function_of_70_lines_is_accepted():
    check_accepted(rules.functions_fit_a_screen, "src/a.c", sample_function(70))


def test_braces_in_strings_and_initialisers_do_not_confuse_the_parser():
    text = "static const int t[] = {1, 2};\nint f(void)\n{\n\tputs(\"}{\");\n\tint c = '{';\n}\n" \
        "#if 1\n#define X {\n#endif\nstatic struct s *g(int (*h)(int), int a)\n{\n}\n"
    check_equal([(f.name, f.first_line, f.last_line) for f in csource.functions(text)
                 if f.name != "X"], [("f", 2, 6), ("g", 10, 12)])


def test_a_file_of_851_lines_is_refused():
    check_refused(rules.files_have_one_purpose, "src/a.c", "\n" * 851, "851 lines")
    check_accepted(rules.files_have_one_purpose, "src/a.c", "\n" * 850)


def test_a_source_without_its_licence_is_refused():
    check_refused(rules.sources_state_their_licence, "src/a.c", "int a;\n", "src/a.c")
    check_refused(rules.sources_state_their_licence, "src/a.c", "\n" + SPDX, "src/a.c")
    check_refused(rules.sources_state_their_licence, "dev", "#!/bin/bash\n", "dev")
    check_accepted(rules.sources_state_their_licence, "src/a.c", SPDX)


def test_a_reminder_is_refused():
    for word in ("TO" + "DO", "FIX" + "ME", "X" + "XX"):
        check_refused(rules.nothing_is_marked_unfinished, "src/a.c", f"// {word}: later\n", word)


def test_a_trailing_blank_is_refused():
    check_refused(rules.lines_end_cleanly, "src/a.c", "int a; \n", "src/a.c:1")
    check_refused(rules.lines_end_cleanly, "README.md", "a\r\n", "README.md:1")
    check_refused(rules.lines_end_cleanly, "README.md", "a", "newline")


LONG = "word " * 20 + "w"  # 101 columns


def test_a_line_of_prose_of_101_columns_is_refused():
    for path in ("a.md", "docs/a.md", "man/a.1", "man/a.3"):
        check_refused(rules.prose_keeps_to_its_columns, path, f"{LONG}\n", f"{path}:1: more than 100")
        check_accepted(rules.prose_keeps_to_its_columns, path, f"{LONG[1:]}\n")
    check_refused(rules.prose_keeps_to_its_columns, "a.md", f"- item\n  {LONG[1:]}\n", "a.md:2")


def test_tables_code_headings_links_and_macros_may_be_longer():
    for text in (f"| {LONG} |\n", f"```\n{LONG}\n```\n", f"    {LONG}\n", f"# {LONG}\n",
                 f"See [it]({'x' * 90}) and {'w' * 10}\n", f"https://example.org/{'x' * 90}\n"):
        check_accepted(rules.prose_keeps_to_its_columns, "docs/a.md", text)
    for text in (f".Nm {LONG}\n", f".Bd -literal\n{LONG}\n.Ed\n"):
        check_accepted(rules.prose_keeps_to_its_columns, "man/a.1", text)
    check_refused(rules.prose_keeps_to_its_columns, "a.md", f"```\n```\n{LONG}\n", "a.md:3")
    check_refused(rules.prose_keeps_to_its_columns, "a.1", f".Bd\n.Ed\n{LONG}\n", "a.1:3")


def test_wrapping_changes_no_word_and_leaves_no_long_line():
    text = f"# {LONG}\n\nshort\nlines\n\n- {LONG}\n  more\n  1. {LONG} - {LONG} 2. {LONG}\n" \
        f"\n{LONG} {LONG}\nand\n\n```\n{LONG}\n```\n| {LONG} |\n"
    wrapped = prose.wrap("a.md", text)
    check_equal(wrapped.split(), text.split(), "words")
    check_equal(prose.long_lines("a.md", wrapped), [], "long lines")
    check_equal(prose.wrap("a.md", wrapped), wrapped, "text wrapped again")
    check_in("short\nlines\n", wrapped)
    check_in(f"`{'x ' * 20}`", prose.wrap("a.md", f"{LONG[:60]} `{'x ' * 20}` {LONG}\n"))
    starts = [line.split()[0] for line in wrapped.split("\n") if line]
    check_equal((starts.count("-"), starts.count("1."), starts.count("2.")), (1, 1, 0), "items")


def test_wrapping_a_manual_page_keeps_each_sentence_on_lines_of_its_own():
    wrapped = prose.wrap("a.1", f".Sh NAME\nOne.\nTwo {LONG}\nends here.\nThree.\n.Bd\n{LONG}\n.Ed\n")
    check_equal(wrapped, f".Sh NAME\nOne.\nTwo {LONG[:-7]}\nword w ends here.\nThree.\n"
                f".Bd\n{LONG}\n.Ed\n")


def test_a_change_that_is_told_twice_is_refused():
    text = "- One.\n- Two\n  goes on.\n- One.\n"
    check_refused(rules.changes_are_told_once, "CHANGELOG.md", text, "CHANGELOG.md:4: told above")
    check_accepted(rules.changes_are_told_once, "CHANGELOG.md", "- One.\n- Two\n")
    check_accepted(rules.changes_are_told_once, "docs/a.md", text)


def write_tree(**files):
    for name, text in files.items():
        path = tmpdir() / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmpdir() / ".clang-format").write_text((ROOT / ".clang-format").read_text())
    return tmpdir(), tidy.read_tree(tmpdir())


def test_an_unformatted_source_is_refused():
    root, tree = write_tree(src__a_dot_c=SPDX + "int  a ;\n")
    check_in("src/a.c", "\n".join(tidy.sources_are_formatted(root, tree)))
    root, tree = write_tree(src__a_dot_c=SPDX + "int a;\n")
    check_equal(tidy.sources_are_formatted(root, tree), [])


def test_a_broken_man_page_is_refused():
    root, tree = write_tree(man__a_dot_1=".Dd 2024\n.Sh NAME\n.Nonsense\n")
    check_in("man/a.1", "\n".join(tidy.man_pages_are_well_formed(root, tree)))


def test_a_script_that_does_not_parse_is_refused():
    root, tree = write_tree(tools__a_dot_py="def (\n", dev="#!/bin/bash\nif\n")
    check_equal(len(list(tidy.scripts_parse(root, tree))), 2)


run_tests(globals())
