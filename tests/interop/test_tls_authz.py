#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Who may connect over TLS by the name of a certificate: rules of the server's, and of objects under
the name of QEMU's tool, with real certificates (docs/tls.md)."""
import json
import socket
import ssl

from kept import eventually
from nbdwire import *
from oldnames import *
from tlspki import *

DISK = 16 * MIB
EVERYBODY = {"rules": [{"match": "*", "policy": "allow", "format": "glob"}]}
DENIED = "is refused: TLS x509 authz check for {} is denied"
CONFIGURATION = """
[disk one]
image = {format}.one
format = {format}
nbd = ./one.sock
tls-creds = people/server
tls-verify-peer = yes
tls-authz = rules.json
worker = shared
[disk two]
image = {format}.two
format = {format}
nbd = ./two.sock
tls-creds = people/server
tls-verify-peer = yes
worker = shared
"""

# A client's directory, the template of its certificate, and the name as GnuTLS prints it.
PEOPLE = {
    "one": ("cn = one\norganization = example\n", "O=example,CN=one"),
    "two": ("cn = two\norganization = example\n", "O=example,CN=two"),
    "sly": ('cn = "one,CN=two"\norganization = example\n', "O=example,CN=one\\,CN=two"),
    "other": ("cn = one\norganization = other\n", "O=other,CN=one"),
    "umlaut": ("cn = Jörg\n", "CN=Jörg"),
    "wordy": ("cn = wordy\n" + "".join(f"ou = unit {i} of that organization\n" for i in range(20)), None),
    "nobody": ("dns_name = nobody.example\n", ""),
}


@functools.cache
def people():
    """Once a program: server/, whose authority has signed each of PEOPLE."""
    base = pathlib.Path(tempfile.mkdtemp(prefix="oxbow-people-"))
    atexit.register(shutil.rmtree, base, True)
    authority = Authority(base, "ours")
    authority.sign(base / "server", "server", SERVER)
    for name, (template, _) in PEOPLE.items():
        authority.sign(base / name, "client", template + "tls_www_client\n")
    (base / "without").mkdir()
    shutil.copy(authority.cert, base / "without" / "ca-cert.pem")
    return base


def rule(match, policy="allow", kind="exact"):
    return {"match": match, "policy": policy, "format": kind}


def rules(*listed, policy="deny"):
    return {"policy": policy, "rules": list(listed)}


def put(value, name="rules.json"):
    """The file is another one at once, as editors and administrators replace it."""
    path = tmpdir() / name
    text = value if isinstance(value, str) else json.dumps(value)
    (tmpdir() / "new").write_text(text)
    os.rename(tmpdir() / "new", path)
    return path


def ruled(value, *args, address="localhost:0", log=("-v",)):
    authz = value if isinstance(value, str) else put(value)
    return serve(DISK, "--nbd", address, *log, "--tls-creds", people() / "server", "--tls-verify-peer",
                 "--tls-authz", authz, *args)


def uri_of(server, name):
    return nbds(server, tls_certificates=people() / name)


def lets_in(server, *names):
    for name in names:
        check_equal(int(output("nbdinfo", "--size", uri_of(server, name))), DISK, f"size that {name} sees")


def turns_away(server, *names):
    for name in names:
        expect_failure("nbdinfo", "--size", uri_of(server, name))


def is_said(server, text, count=1):
    """A thread of its own writes the log."""
    eventually(f"{count} times '{text}' in the log", lambda: server.stderr().count(text) >= count)


def hang_up(server, count, renewed=True):
    """SIGHUP, until the server has told for the count-th time that it took the file, or did not."""
    server.process.send_signal(signal.SIGHUP)
    is_said(server, "credentials are renewed" if renewed else "the old ones stay", count)


# ---- the rules ----

def test_the_name_is_what_the_log_shows_of_who_comes():
    with ruled(EVERYBODY) as server:
        for name, (_, text) in PEOPLE.items():
            if text:
                lets_in(server, name)
                is_said(server, f", {text}\n")


def test_a_long_name_is_compared_as_a_whole_and_cut_in_the_log():
    with ruled(rules(rule("*,CN=wordy", kind="glob"))) as server:
        lets_in(server, "wordy")
        is_said(server, "...\n")
        put(rules(rule("*unit 3*,CN=other", kind="glob")))
        hang_up(server, 1)
        turns_away(server, "wordy")
        is_said(server, "... is denied")


def test_those_alone_come_in_whom_a_rule_names():
    with ruled(rules(rule(PEOPLE["one"][1]), rule(PEOPLE["umlaut"][1]))) as server:
        for _ in range(2):
            lets_in(server, "one", "umlaut")
            turns_away(server, "two", "sly", "nobody", "without")
        for name in ("two", "sly"):
            is_said(server, DENIED.format(PEOPLE[name][1]), 2)
        is_said(server, DENIED.format("a client without a name"))
        is_said(server, "it has no certificate")
        check_equal(server.stderr().count(DENIED.format(PEOPLE["one"][1])), 0, "refusals of the first")


def test_the_first_rule_that_matches_decides_and_the_policy_for_the_rest():
    two_is_out = rules(rule("O=example,CN=two", "deny"), rule("O=example,*", "deny", "glob"),
                       rule("O=example,CN=two"), policy="allow")
    for args in ((), ("--no-keeper",)):
        with ruled(two_is_out, *args) as server:
            turns_away(server, "one", "two", "sly")
            lets_in(server, "other", "umlaut")
            turns_away(server, "nobody")  # the policy is for names
        os.unlink(tmpdir() / f"disk.{FORMAT}")


def test_a_name_within_a_value_is_not_taken_for_one():
    with ruled(rules(rule("O=*,CN=one\\\\,CN=two", kind="glob"))) as server:
        lets_in(server, "sly")
        turns_away(server, "one", "two")
    os.unlink(tmpdir() / f"disk.{FORMAT}")
    with ruled(rules(rule("O=*,CN=one", kind="glob"), rule("O=*,CN=one,CN=two", kind="glob"))) as server:
        turns_away(server, "sly", "two")
        lets_in(server, "one", "other")


def test_rules_may_stand_in_the_word_itself():
    word = "json:" + json.dumps(rules(rule(PEOPLE["two"][1])))
    with ruled(word, address=str(tmpdir() / "s")) as server:
        lets_in(server, "two")
        turns_away(server, "one")
        hang_up(server, 1)
        lets_in(server, "two")
        turns_away(server, "one")


def test_who_is_refused_learns_nothing_but_that_the_session_ends():
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with ruled(rules(), "-x", "secret", "-D", "a description") as server:
            client = Client(server, None)
            client.greet()
            check_equal(client.option(OPT_STARTTLS), [(REP_ACK, b"")], "answer to STARTTLS")
            context = ssl.create_default_context(cafile=people() / "one" / "ca-cert.pem")
            context.load_cert_chain(people() / "one" / "client-cert.pem", people() / "one" / "client-key.pem")
            context.minimum_version = context.maximum_version = version
            client.link = context.wrap_socket(client.link, server_hostname="localhost")
            check_equal(client.link.recv(4096), b"", "what is told")
            is_said(server, DENIED.format(PEOPLE["one"][1]))
            is_said(server, "is gone: TLS: the rules do not let it in")
        os.unlink(tmpdir() / f"disk.{FORMAT}")


# ---- other rules ----

def test_sighup_brings_better_rules_and_leaves_who_is_there():
    for args in ((), ("--no-keeper",)):
        with ruled(rules(rule(PEOPLE["one"][1])), *args) as server:
            turns_away(server, "two")
            client = Client(server, None)
            client.greet()
            client.option(OPT_STARTTLS)
            context = ssl.create_default_context(cafile=people() / "one" / "ca-cert.pem")
            context.load_cert_chain(people() / "one" / "client-cert.pem", people() / "one" / "client-key.pem")
            client.link = context.wrap_socket(client.link, server_hostname="localhost")
            client.style = "simple"
            client.go()
            put(rules(rule(PEOPLE["two"][1])))
            hang_up(server, 1)
            lets_in(server, "two")
            turns_away(server, "one")
            client.write(0, b"x" * 4096)
            check_equal(client.read(0, 4096), b"x" * 4096, "data of the one who was there")
            client.close()
        os.unlink(tmpdir() / f"disk.{FORMAT}")


def test_a_file_that_is_wrong_leaves_the_old_rules():
    wrong = ("", "{", "[]", '{"polcy": "allow"}', '{"policy": "allow", "policy": "deny"}',
             '{"policy": "allow", "rules": [{"match": "*"}]}', " " * (1 << 20) + "{}")
    for args in ((), ("--no-keeper",)):
        with ruled(rules(rule(PEOPLE["one"][1])), *args) as server:
            count = 0
            for text in wrong:
                put(text)
                count += 1
                hang_up(server, count, renewed=False)
                lets_in(server, "one")
                turns_away(server, "two")
            os.unlink(tmpdir() / "rules.json")
            hang_up(server, count + 1, renewed=False)
            lets_in(server, "one")
            turns_away(server, "two")
            is_said(server, "there is no key 'polcy'; the old ones stay")
            is_said(server, "rules.json': No such file or directory")
            put(rules(rule(PEOPLE["two"][1])))
            hang_up(server, 1)
            lets_in(server, "two")
            turns_away(server, "one")
        os.unlink(tmpdir() / f"disk.{FORMAT}")


def test_credentials_and_rules_are_renewed_together_or_not_at_all():
    copy = shutil.copytree(people() / "server", tmpdir() / "credentials")
    with serve(DISK, "--nbd", "localhost:0", "-v", "--tls-creds", copy, "--tls-verify-peer", "--tls-authz",
               put(rules(rule(PEOPLE["one"][1])))) as server:
        key = (copy / "server-key.pem").read_text()
        put(rules(rule(PEOPLE["two"][1])))
        (copy / "server-key.pem").write_text("no key\n")
        hang_up(server, 1, renewed=False)
        lets_in(server, "one")
        turns_away(server, "two")
        (copy / "server-key.pem").write_text(key)
        hang_up(server, 1)
        lets_in(server, "two")
        turns_away(server, "one")


def test_the_next_worker_has_the_rules_that_the_last_one_took():
    with ruled(EVERYBODY) as server:
        lets_in(server, "one", "two")
        put(rules(rule(PEOPLE["two"][1])))
        hang_up(server, 1)
        turns_away(server, "one")
        put("no rules")
        for _ in range(2):
            worker = server.server_pid()
            os.kill(worker, signal.SIGKILL)
            eventually("another worker", lambda: server.server_pid() not in (None, worker))
            lets_in(server, "two")
            turns_away(server, "one")
        hang_up(server, 1, renewed=False)
        turns_away(server, "one")


def test_a_configuration_has_rules_for_a_disk():
    os.symlink(people(), "people")
    for name in ("one", "two"):
        qemu_img("create", "-q", "-f", FORMAT, f"{FORMAT}.{name}", str(DISK))
    put(rules(rule(PEOPLE["one"][1])))
    pathlib.Path("disks.conf").write_text("[server]\npid-file = pid\n" + CONFIGURATION.format(format=FORMAT))
    log = open("log", "w+")
    process = subprocess.Popen([oxbow_path(), "serve", "-v", "--config", "disks.conf"], stdout=log, stderr=log)

    def end():
        process.terminate()
        check_equal(process.wait(60), 0, "exit code")
        log.close()

    def info(disk, name):
        return run("nbdinfo", f"nbds+unix://localhost/?socket={disk}.sock&tls-certificates={people() / name}",
                   check=False).returncode == 0

    on_exit(end)
    eventually("the server's start", lambda: os.path.exists("pid") and pathlib.Path("pid").read_text())
    check_equal([info("one", "one"), info("one", "two"), info("two", "one"), info("two", "two")],
                [True, False, True, True], "who comes in where")
    put(rules(rule(PEOPLE["two"][1])))
    process.send_signal(signal.SIGHUP)
    eventually("other rules", lambda: info("one", "two"))
    check_equal(info("one", "one"), False, "the first one comes in")


# ---- what is refused at the start ----

def test_a_start_with_bad_rules_says_what_is_wrong():
    make_disk(DISK)
    both = ("--tls-creds", people() / "server", "--tls-verify-peer")
    shutil.copytree(people() / "server", "keys")
    os.unlink("keys/server-cert.pem")
    os.unlink("keys/server-key.pem")
    pathlib.Path("keys/keys.psk").write_text(f"alice:{KEY}\n")
    os.mkfifo("fifo")
    put('{"rules": [{"match": "a", "policy": "deny", "user": 1}]}', "bad")
    put(" " * (1 << 20) + "{}", "large")
    for keeper in ("--keeper", "--no-keeper"):
        for args, message in ((("--tls-authz", "x"), "--tls-authz needs --tls-creds and --tls-verify-peer"),
                              ((*both[:2], "--tls-authz", "x"), "--tls-authz needs --tls-creds and --tls-verify-peer"),
                              ((*both, "--tls-authz", "absent"), "TLS rules 'absent': No such file"),
                              ((*both, "--tls-authz", "fifo"), "TLS rules 'fifo': it is no regular file"),
                              ((*both, "--tls-authz", "large"), "TLS rules 'large': File too large"),
                              ((*both, "--tls-authz", "bad"), "rule 1: there is no key 'user'"),
                              ((*both, "--tls-authz", "json:{"), "TLS rules (--tls-authz): line 1"),
                              (("--tls-creds", "keys", "--tls-verify-peer", "--tls-authz", "json:{}"),
                               "server-cert.pem': there is no such file, and --tls-authz is for certificates")):
            expect_failure(oxbow_path(), "serve", keeper, "-f", FORMAT, "--nbd", "unix:x.sock", *args,
                           f"disk.{FORMAT}", message=message, timeout=60)
            check_equal(os.path.exists("x.sock"), False, "a socket is left")


def test_who_has_a_key_has_no_name():
    shutil.copytree(people() / "server", "credentials")
    pathlib.Path("credentials/keys.psk").write_text(f"alice:{KEY}\n")
    (tmpdir() / "keys.psk").write_text(f"alice:{KEY}\n")
    with serve(DISK, "--nbd", "localhost:0", "-v", "--tls-creds", "credentials", "--tls-verify-peer", "--tls-authz",
               put(rules(policy="allow"))) as server:
        lets_in(server, "one")
        uri = nbds(server, tls_psk_file=tmpdir() / "keys.psk").replace("//", "//alice@", 1)
        expect_failure("nbdinfo", uri)
        is_said(server, DENIED.format("alice"))


# ---- under the old name ----

def old_server(*objects, args=()):
    """A qemu-nbd of ours, with that object a; its log."""
    log = open(tmpdir() / "log", "w+", errors="replace")
    process = subprocess.Popen(
        [called("qemu-nbd"), "-t", "-v", "-k", tmpdir() / "s", "-f", "qcow2", "--object",
         f"tls-creds-x509,id=t,endpoint=server,dir={people() / 'server'}", *objects, "--tls-creds", "t",
         "--tls-authz", "a", *args, old_disk()], stdout=log, stderr=log)

    def end():
        process.terminate()
        check_equal(process.wait(60), 0, "exit code")
        log.close()

    on_exit(end)
    eventually("the socket", lambda: process.poll() is not None or (tmpdir() / "s").exists())
    check_equal(process.poll(), None, "the server's exit code")
    return process


def old_disk():
    if not (tmpdir() / "old.qcow2").exists():
        qemu_img("create", "-q", "-f", "qcow2", tmpdir() / "old.qcow2", str(DISK))
    return tmpdir() / "old.qcow2"


def old_log():
    return (tmpdir() / "log").read_text(errors="replace")


def of_qemu(name):
    return ("--object", f"tls-creds-x509,id=t,endpoint=client,dir={people() / name}", "--image-opts",
            f"driver=nbd,path={tmpdir()}/s,tls-creds=t,tls-hostname=localhost")


def qemu_comes_in(*names):
    for name in names:
        check_in("16 MiB", qemu_img("info", *of_qemu(name)).stdout, f"what {name} sees")
        qemu_io("-c", "write -P 7 0 4096", "-c", "read -P 7 0 4096", *of_qemu(name))


def qemu_stays_out(*names):
    for name in names:
        expect_failure("qemu-img", "info", *of_qemu(name), message="Could not open")
        expect_failure("qemu-io", "-c", "read 0 512", *of_qemu(name))
        eventually("the refusal", lambda: DENIED.format(PEOPLE[name][1]) in old_log())


def escaped(text):
    """Within an option, a comma stands twice."""
    return text.replace(",", ",,")


def test_an_object_lets_one_in():
    old_server("--object", f"authz-simple,id=a,identity={escaped(PEOPLE['one'][1])}")
    qemu_comes_in("one")
    qemu_stays_out("two", "sly", "other")


def test_an_object_has_a_list():
    old_server("--object", f"authz-list,id=a,policy=deny,rules.0.match={escaped(PEOPLE['two'][1])},"
               "rules.0.policy=deny,rules.0.format=exact,rules.1.match=O=example,,CN=*,rules.1.policy=allow,"
               "rules.1.format=glob")
    qemu_comes_in("one", "sly")
    qemu_stays_out("two", "other")


def test_an_object_has_a_list_in_a_file():
    process = old_server("--object", f"authz-list-file,id=a,filename={put(rules(rule(PEOPLE['one'][1])))}")
    qemu_comes_in("one")
    qemu_stays_out("two")
    put("{")
    process.send_signal(signal.SIGHUP)
    eventually("word of the broken file", lambda: "the old ones stay" in old_log())
    qemu_comes_in("one")
    put(rules(rule(PEOPLE["two"][1])))
    process.send_signal(signal.SIGHUP)
    eventually("other rules", lambda: "credentials are renewed" in old_log())
    qemu_comes_in("two")
    qemu_stays_out("one")


def test_a_list_that_is_not_refreshed_stays_for_good():
    process = old_server("--object", f"authz-list-file,id=a,refresh=off,filename={put(rules(rule(PEOPLE['one'][1])))}")
    put(rules(rule(PEOPLE["two"][1])))
    process.send_signal(signal.SIGHUP)
    eventually("other credentials", lambda: "credentials are renewed" in old_log())
    qemu_comes_in("one")
    qemu_stays_out("two")


def test_one_process_has_the_rules_as_well():
    """Without -t there is no keeper; it ends with the client that came in."""
    pid_file = tmpdir() / "pid"
    nbd("--fork", "--pid-file", pid_file, "-k", tmpdir() / "s", "-f", "qcow2", "--object",
        f"tls-creds-x509,id=t,endpoint=server,dir={people() / 'server'}", "--object",
        f"authz-simple,id=a,identity={escaped(PEOPLE['one'][1])}", "--tls-creds", "t", "--tls-authz", "a", old_disk())
    expect_failure("qemu-img", "info", *of_qemu("two"), message="Could not open")
    check_equal(pid_file.exists(), True, "the server goes on")
    check_in("16 MiB", qemu_img("info", *of_qemu("one")).stdout, "what is seen")
    eventually("the server's end", lambda: not pid_file.exists())


def test_bad_objects_are_answered_as_qemu_answers_them():
    disk = old_disk()
    x509 = ("--object", f"tls-creds-x509,id=t,endpoint=server,dir={people() / 'server'}")
    for words in (("--tls-authz", "a"), ("--tls-authz", "a", "-L"), ("--tls-hostname", "x"),
                  ("--object", f"tls-creds-x509,id=t,endpoint=client,dir={people() / 'one'}", "--tls-creds", "t",
                   "--tls-authz", "a", "-L")):
        check_alike("qemu-nbd", *words, *(() if "-L" in words else ("-k", tmpdir() / "s", disk)))
    for text in ("authz-simple,id=a", "authz-simple,id=a,identity", "authz-simple,id=a,identity=x,foo=y",
                 "authz-simple,identity=x", "authz-list,id=a,policy=maybe", "authz-list,id=a,rules.0.match=x",
                 "authz-list,id=a,rules.0.policy=allow", "authz-list,id=a,rules.x=y", "authz-list,id=a,rules.0=y",
                 "authz-list,id=a,rules.0.match=x,rules.0.policy=allow,rules.0.format=re",
                 "authz-list,id=a,rules.1.match=x,rules.1.policy=allow", "authz-list,id=a,foo=1",
                 "authz-list,id=a,rules.0.match=x,rules.0.policy=allow,rules.0.foo=1", "authz-pam,id=a,service=x"):
        check_alike("qemu-nbd", *x509, "--object", text, "--tls-creds", "t", "--tls-authz", "a", "-k", tmpdir() / "s", disk)
        check_alike("qemu-img", "info", "--object", text, disk)


def test_what_qemu_lets_in_without_a_word_is_refused():
    psk = tmpdir() / "psk"
    psk.mkdir()
    (psk / "keys.psk").write_text(f"alice:{KEY}\n")
    (tmpdir() / "zero").write_bytes(b"{}\0")
    x509 = f"tls-creds-x509,id=t,endpoint=server,dir={people() / 'server'}"
    simple = "authz-simple,id=a,identity=x"
    for words, said in ((("--object", x509), "--tls-authz: no object has the id 'a'"),
                        (("--object", x509, "--object", "secret,id=a,data=x"),
                         "--tls-authz: object 'a' does not say who may connect"),
                        (("--object", x509 + ",verify-peer=off", "--object", simple),
                         "--tls-authz: 't' asks clients for no certificate"),
                        (("--object", f"tls-creds-psk,id=t,endpoint=server,dir={psk}", "--object", simple),
                         "--tls-authz: 't' asks clients for no certificate"),
                        (("--object", x509, "--object", "authz-list-file,id=a"), "Parameter 'filename' is missing"),
                        (("--object", x509, "--object", "authz-list-file,id=a,filename=x,refresh=7"),
                         "Parameter 'refresh' expects 'on' or 'off'"),
                        (("--object", x509, "--object", "authz-list-file,id=a,filename=x,foo=7"),
                         "Parameter 'foo' is unexpected"),
                        (("--object", x509, "--object", "authz-list-file,id=a,filename=absent"),
                         "TLS rules 'absent': No such file or directory"),
                        (("--object", x509, "--object", "authz-list-file,id=a,filename=absent,refresh=off"),
                         "Unable to read 'absent': No such file or directory"),
                        (("--object", x509, "--object", "authz-list-file,id=a,filename=zero,refresh=off"),
                         "Unable to read 'zero': a byte of it is zero"),
                        (("--object", x509, "--object", "authz-list,id=a,rules.1000.match=x"),
                         "There are at most 1000 rules")):
        result = expect_failure(called("qemu-nbd"), *words, "--tls-creds", "t", "--tls-authz", "a", "-f", "qcow2",
                                "-k", tmpdir() / "s", old_disk(), message=f"qemu-nbd: {said}", timeout=60)
        check_equal(result.stderr.count("\n"), 1, "lines that are said")


run_tests(globals())
