#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Exports of NBD servers as images: how they are named, opened and used, by every verb. Servers that
die, forget and lie are in test_nbd_lost.py and test_nbd_hostile.py."""
import socket

from harness import *
from nbd_servers import *


def raw_file(size, *pieces):
    """A raw disk with (offset, bytes) in it."""
    path = tmpdir() / "disk.raw"
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
    return path


def io(uri, *commands, options=("-f", "raw"), **kwargs):
    words = [word for command in commands for word in ("-c", command)]
    return oxbow("io", *options, *words, uri, **kwargs)


def the_map(uri, *options):
    return json.loads(output(oxbow_path(), "map", "--output=json", *options, uri))


def servers(disk, format="raw"):
    yield "qemu-nbd", qemu_nbd("-f", format, disk)
    yield "oxbow serve", Server("-f", format, disk)
    if format == "raw":
        yield "nbdkit", nbdkit("file", disk)


def address(server):
    return server.uri if isinstance(server, Server) else server.uri()


def test_an_export_of_every_server_is_read_and_written():
    for name, server in servers(tmpdir() / "disk.raw"):
        raw_file(8 << 20, (4096, b"x" * 4096))
        with server:
            uri = address(server)
            io(uri, "read -P 120 4096 4096", "write -P 7 1M 3M", "write -P 8 -f 5000k 9k",
               "write -z 2M 1M", "discard 4096 4096", "flush", "read -P 7 1M 1M",
               "read -P 0 2M 1M", "read -P 7 3M 1M")
            io(uri, "read -P 8 5000k 9k", "read -P 7 3M 1M", "read -P 0 6M 2M")
    with open(tmpdir() / "disk.raw", "rb") as file:
        data = file.read()
    check_equal(data[1 << 20:4 << 20], b"\7" * (1 << 20) + bytes(1 << 20) + b"\7" * (1 << 20), "file")


def test_info_says_what_an_export_is():
    with qemu_nbd("-f", "raw", raw_file(8 << 20)) as server:
        text = output(oxbow_path(), "info", server.uri())
        check_equal(text, f"image: {server.uri()}\nfile format: raw\n"
                          "virtual size: 8 MiB (8388608 bytes)\ndisk size: unavailable\n")
        told = json.loads(output(oxbow_path(), "info", "--output=json", server.uri()))
        check_equal("actual-size" in told, False)
        check_equal((told["virtual-size"], told["format"]), (8 << 20, "raw"))


def test_a_map_of_an_export_is_the_servers():
    disk = raw_file(64 << 20, (1 << 20, b"x" * (1 << 20)), (40 << 20, b"y" * 65536))
    for _, server in servers(disk):
        with server:
            uri = address(server)
            theirs = json.loads(output("qemu-img", "map", "-f", "raw", "--output=json", uri))
            ours = the_map(uri, "-f", "raw")
            check_equal([(e["start"], e["length"], e["zero"]) for e in ours],
                        [(e["start"], e["length"], e["zero"]) for e in theirs], "map")


def test_a_qcow2_image_in_an_export_is_made_used_checked_and_repaired():
    disk = raw_file(64 << 20)
    for _, server in servers(disk):
        with server:
            uri = address(server)
            oxbow("create", "-f", "qcow2", "-o", "lazy_refcounts=on", uri, "1G")
            io(uri, "write -P 3 1M 8M", "write -P 4 900M 64k", "write -z 2M 1M", options=())
            io(uri, "read -P 3 1M 1M", "read -P 0 2M 1M", "read -P 4 900M 64k", options=())
            check_equal(json.loads(output(oxbow_path(), "info", "--output=json", uri))["format"],
                        "qcow2")
            oxbow("check", uri)
            qemu_img("check", uri)


def test_a_leak_in_an_export_is_repaired_as_on_a_device():
    disk = raw_file(16 << 20)
    oxbow("create", "-f", "qcow2", tmpdir() / "small.qcow2", "64M")
    io(tmpdir() / "small.qcow2", "write 0 1M", options=())
    data = bytearray((tmpdir() / "small.qcow2").read_bytes())
    with open(disk, "r+b") as file:
        file.write(data)
    # an entry of the L2 table is lost, and its cluster is leaked
    l1 = int.from_bytes(data[40:48], "big")
    l2 = int.from_bytes(data[l1:l1 + 8], "big") & 0x00fffffffffffe00
    with open(disk, "r+b") as file:
        file.seek(l2)
        file.write(bytes(8))
    with qemu_nbd("-f", "raw", disk) as server:
        expect_failure(oxbow_path(), "check", server.uri(), code=3)
        undo = tmpdir() / "undo"
        oxbow("check", "-r", "leaks", "--undo", undo, server.uri())
        oxbow("check", server.uri())
        oxbow("undo", undo, server.uri())
        expect_failure(oxbow_path(), "check", server.uri(), code=3)


def test_every_way_to_name_an_export_leads_to_it():
    disk = raw_file(1 << 20, (0, b"a" * 512))
    with nbdkit("file", disk) as server:
        path = server.socket
        for name in (f"nbd+unix:///?socket={path}", f"nbd:unix:{path}",
                     f"nbd:unix:{path}:exportname=any", f"nbd+unix:///any?socket={path}"):
            io(name, "read -P 97 0 512")
        for opts in (f"driver=nbd,path={path}", f"driver=nbd,server.type=unix,server.path={path}",
                     f"driver=raw,file.driver=nbd,file.path={path},file.export=any",
                     f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={path}",
                     f"driver=raw,file.filename=nbd:unix:{path}"):
            io(opts, "read -P 97 0 512", options=("--image-opts",))
    with Server("-f", "raw", "--nbd", "127.0.0.1:0", "--export", "a/b c", disk) as server:
        port = re_port(server.uri)
        for name in (f"nbd://127.0.0.1:{port}/a/b%20c", f"nbd:127.0.0.1:{port}:exportname=a/b c"):
            io(name, "read -P 97 0 512")
        io(f"driver=nbd,host=127.0.0.1,port={port},export=a/b c", "read -P 97 0 512",
           options=("--image-opts",))
        expect_failure(oxbow_path(), "info", f"nbd://127.0.0.1:{port}/other",
                       message="Could not open 'nbd://127.0.0.1")


def re_port(uri):
    return uri.split("://")[1].split("/")[0].rpartition(":")[2]


def test_what_is_wrong_with_a_name_is_said():
    for name, message in (
            ("nbd+unix:///", "is no valid NBD URI: it is to name a socket"),
            ("nbd://h/?colour=red", "it knows no 'colour'"),
            ("nbd+unix:///?socket=/none", "Failed to connect to '/none': No such file or directory"),
            ("nbd://127.0.0.1:9/", "Failed to connect to '127.0.0.1:9': Connection refused")):
        expect_failure(oxbow_path(), "info", name, message=f"Could not open '{name}': ")
        expect_failure(oxbow_path(), "info", name, message=message)
    for opts, message in (("driver=nbd", "one of path and host must be specified"),
                          ("driver=nbd,path=a,host=b", "path and host may not be used"),
                          ("driver=nbd,path=a,port=1", "port may not be used without host"),
                          ("driver=nbd,server.type=inet,path=a", "'server.type' does not accept"),
                          ("driver=raw,file.filename=x,host=b", "Invalid parameter 'host'")):
        expect_failure(oxbow_path(), "info", "--image-opts", opts, message=message)


def test_a_colon_in_the_first_part_of_a_name_is_a_protocols():
    os.mkdir("d")
    for name in ("./a:b.qcow2", "d/a:b.qcow2", str(tmpdir() / "a:b.qcow2"), "file:a:c.qcow2"):
        oxbow("create", "-q", "-f", "qcow2", name, "1M")
        for verb in ("info", "check", "map"):
            oxbow(verb, name)
        io(name, "read 0 512", options=())
    check_equal(sorted(os.listdir()), ["a:b.qcow2", "a:c.qcow2", "d"], "files")
    for verb in ("info", "check", "map", "io"):
        for program in ([oxbow_path(), verb], ["qemu-img", verb]):
            if program != ["qemu-img", "io"]:
                expect_failure(*program, "a:b.qcow2",
                               message="Could not open 'a:b.qcow2': Unknown protocol 'a'")
    expect_failure(oxbow_path(), "create", "a:b.qcow2", "1M",
                   message="a:b.qcow2: Unknown protocol 'a'\n")
    expect_failure(oxbow_path(), "create", "-f", "qcow2", "-b", "a:b", "-F", "raw", "x",
                   message="x: Unknown protocol 'a'\nCould not open backing image.")


def test_a_server_that_lacks_the_export_is_not_taken_for_a_missing_socket():
    disk = raw_file(1 << 20)
    with qemu_nbd("-f", "raw", "-x", "there", disk) as server:
        expect_failure(oxbow_path(), "info", server.uri(export="elsewhere"), message="no export named 'elsewhere'")


def test_no_backing_file_gets_a_name_that_others_take_for_a_protocol():
    """QEMU would read "there", and oxbow what bears the very name."""
    for name in ("there", "file:there", "a:there"):
        run("qemu-img", "create", "-q", "-f", "qcow2", f"./{name}", "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "there", "-F", "qcow2", "x")
    for name, message in (("file:there", "A backing file is named by its path alone, not 'file:there'\n"),
                          ("a:there", "Unknown protocol 'a'\nCould not open backing image.")):
        for before in ((), ("--dry-run",)):
            expect_failure(oxbow_path(), "rebase", *before, "-b", name, "-F", "qcow2", "x", message=f"x: {message}")
        for words in (("-B", name, "-F", "qcow2"), ("-o", f"backing_file={name},backing_fmt=qcow2")):
            expect_failure(oxbow_path(), "convert", "-O", "qcow2", *words, "there", "y", message=f"y: {message}")
            check_equal(os.path.exists("y"), False, "a target")
        oxbow("convert", "-O", "qcow2", "-B", f"./{name}", "-F", "qcow2", "there", "y")
        qemu_img("compare", "y", "there")
        os.unlink("y")
        oxbow("rebase", "-u", "-b", name, "-F", "qcow2", "x")
        oxbow("rebase", "-u", "-b", f"./{name}", "-F", "qcow2", "x")
        oxbow("rebase", "-b", "there", "-F", "qcow2", "x")


def test_a_name_in_an_image_is_never_a_uri():
    disk = raw_file(1 << 20)
    with qemu_nbd("-f", "raw", disk) as server:
        overlay = tmpdir() / "overlay.qcow2"
        qemu_img("create", "-f", "qcow2", "-b", server.uri(), "-F", "raw", overlay)
        expect_failure(oxbow_path(), "io", "-r", "-c", "read 0 512", overlay,
                       message="No such file or directory")
        expect_failure(oxbow_path(), "create", "-f", "qcow2", "-b", server.uri(), "-F", "raw", "y",
                       message="A backing file is named by its path alone")


def test_the_backing_file_of_an_image_in_an_export_has_an_absolute_name():
    raw_file(64 << 20)
    base = tmpdir() / "base.raw"
    base.write_bytes(b"b" * (1 << 20))
    with qemu_nbd("-f", "raw", tmpdir() / "disk.raw") as server:
        expect_failure(oxbow_path(), "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw",
                       server.uri(), message="leads nowhere")
        oxbow("create", "-f", "qcow2", "-b", base, "-F", "raw", server.uri())
        io(server.uri(), "read -P 98 0 1M", "write -P 1 0 64k", options=())
    oxbow("create", "-u", "-f", "qcow2", "-b", "base.raw", "-F", "raw", tmpdir() / "o", "1M")
    with qemu_nbd("-f", "raw", tmpdir() / "o") as server:
        expect_failure(oxbow_path(), "io", "-r", "-c", "read 0 512", server.uri(),
                       message="its name 'base.raw' is relative")


def test_an_export_is_made_raw_where_it_is_large_enough():
    with qemu_nbd("-f", "raw", raw_file(1 << 20)) as server:
        oxbow("create", "-f", "raw", server.uri(), "1M")
        oxbow("create", "-f", "raw", server.uri(), "512k")
        result = expect_failure(oxbow_path(), "create", "-f", "raw", server.uri(), "2M",
                                message="Cannot grow NBD nodes")
        theirs = expect_failure("qemu-img", "create", "-f", "raw", server.uri(), "2M")
        check_equal(result.stderr, theirs.stderr.replace("qemu-img", "oxbow"), "text")


def test_a_read_only_export_is_opened_as_one():
    with nbdkit("-r", "file", raw_file(1 << 20)) as server:
        oxbow("info", server.uri())
        io(server.uri(), "read -P 0 0 1M", options=("-r", "-f", "raw"))
        expect_failure(oxbow_path(), "io", "-f", "raw", "-c", "write 0 512", server.uri(),
                       message="read-only")


def test_requests_keep_to_the_block_sizes_of_the_server():
    policy = ["blocksize-minimum=4096", "blocksize-preferred=65536", "blocksize-maximum=131072",
              "blocksize-error-policy=error"]
    disk = raw_file(8 << 20, (0, b"a" * (8 << 20)))
    with nbdkit("--filter=blocksize-policy", "file", disk, *policy) as server:
        io(server.uri(), "write -P 1 512 512", "write -P 2 1000k 3M", "write -z 5001k 1k",
           "write -P 3 6000k 700", "discard 7001k 9k", "read -P 97 0 512", "read -P 1 512 512",
           "read -P 97 1024 1000", "read -P 2 1000k 3M", "read -P 0 5001k 1k", "flush")
    data = disk.read_bytes()
    check_equal(data[:1024], b"a" * 512 + b"\1" * 512, "bytes")
    check_equal(data[6000 << 10:(6000 << 10) + 1024], b"\3" * 700 + b"a" * 324, "bytes")


def test_a_server_without_zeroes_trims_fua_and_extents_is_used():
    disk = raw_file(4 << 20, (0, b"a" * (4 << 20)))
    with Forgetful(disk, {"zero": 0, "trim": 0, "fua": 0, "extents": 0, "multi": 0}) as server:
        io(server.uri(), "write -z 1M 1M", "discard 3M 64k", "write -f -P 4 0 4k", "read -P 0 1M 1M")
        check_equal([e["data"] for e in the_map(server.uri(), "-f", "raw")], [True], "map")
    check_equal(disk.read_bytes()[:4096], b"\4" * 4096, "what FUA made durable")


def test_several_connections_serve_one_image():
    log = tmpdir() / "log"
    with nbdkit("--filter=log", "memory", "64M", f"logfile={log}") as server:
        io(server.uri(), *(f"aio_write -P {i} {i}M 1M" for i in range(1, 32)), "aio_flush",
           *(f"read -P {i} {i}M 1M" for i in range(1, 32)))
        writers = {line.split("connection=")[1].split()[0]
                   for line in log.read_text().splitlines() if " Write " in line and "connection=" in line}
        if len(writers) < 2:
            raise Failure(f"all writes went by {writers}")
        log.write_text("")
        io(server.uri(connections=1), "write 0 1M")
        connections = {line.split("connection=")[1].split()[0]
                       for line in log.read_text().splitlines() if "connection=" in line}
        check_equal(len(connections), 1, "connections")


def test_a_server_that_is_about_to_start_is_waited_for():
    disk = raw_file(1 << 20, (0, b"x" * 512))
    server = qemu_nbd("-f", "raw", disk)
    name = f"driver=nbd,path={server.socket},open-timeout=60"
    client = subprocess.Popen([oxbow_path(), "io", "--image-opts", "-c", "read -P 120 0 512", name],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    on_exit(client.kill)
    time.sleep(0.3)
    check_equal(client.poll(), None, "the end of a client that has no server yet")
    with server:
        check_in("read 512/512 bytes", client.communicate()[0], "what the client says")
    check_equal(client.returncode, 0, "its exit code")
    for stated in ("", ",open-timeout=0"):
        expect_failure(oxbow_path(), "info", "--image-opts", f"driver=nbd,path={tmpdir()}/none{stated}",
                       message="No such file or directory")


def test_a_server_for_one_client_is_enough():
    with qemu_nbd("-e", "1", "-f", "raw", raw_file(4 << 20)) as server:
        io(server.uri(), "write -P 1 0 1M", "read -P 1 0 1M", "info")


def test_a_trim_reaches_the_server_as_one():
    log = tmpdir() / "log"
    with Forgetful(raw_file(4 << 20), {"log": log}) as server:
        io(server.uri(), "discard 1M 1M", "write -z -u 2M 1M")
    check_in("trim 1048576 1048576\n", log.read_text())
    check_in("zero 2097152 1048576\n", log.read_text())


def test_what_takes_files_alone_refuses_exports_by_name():
    name = "nbd+unix:///?socket=y"
    os.symlink(oxbow_path(), "qemu-nbd")
    for words in ((oxbow_path(), "io", "-s", "-f", "raw", name),
                  ("./qemu-nbd", "-s", "-f", "raw", "-k", tmpdir() / "x.sock", name)):
        expect_failure(*words, message="cannot be the base of an overlay")


def test_without_libnbd_files_are_opened_and_exports_are_refused_with_words():
    os.mkdir("lib")
    pathlib.Path("lib/libnbd.so.0").write_text("no library")
    env = dict(os.environ, LD_LIBRARY_PATH=str(tmpdir() / "lib"))
    oxbow("info", raw_file(1 << 20), env=env)
    expect_failure(oxbow_path(), "info", "nbd://127.0.0.1:9/", env=env,
                   message="opened by libnbd, which is not installed (Debian's package libnbd0)")


def certificates():
    """A directory with a CA, and a server's certificate for localhost."""
    folder = tmpdir() / "pki"
    folder.mkdir()

    def certtool(*args):
        run("certtool", "--no-text", *args)

    for name, lines in (("ca", "cn=test\nca\ncert_signing_key\n"),
                        ("server", "cn=localhost\ndns_name=localhost\ntls_www_server\n"
                                   "encryption_key\nsigning_key\n")):
        (folder / f"{name}.info").write_text(lines)
        certtool("--generate-privkey", "--ecc", "--outfile", folder / f"{name}-key.pem")
    certtool("--generate-self-signed", "--load-privkey", folder / "ca-key.pem", "--template",
             folder / "ca.info", "--outfile", folder / "ca-cert.pem")
    certtool("--generate-certificate", "--load-ca-certificate", folder / "ca-cert.pem",
             "--load-ca-privkey", folder / "ca-key.pem", "--load-privkey",
             folder / "server-key.pem", "--template", folder / "server.info", "--outfile",
             folder / "server-cert.pem")
    return folder


def test_an_export_is_reached_by_tls_with_certificates():
    pki = certificates()
    with nbdkit("--tls=require", f"--tls-certificates={pki}", "memory", "4M") as server:
        secret = uri(server.socket, scheme="nbds+unix", tls_certificates=pki,
                     tls_verify_peer=0)
        io(secret, "write -P 1 0 1M", "read -P 1 0 1M")
        expect_failure(oxbow_path(), "info", server.uri(), message="Could not open")
    with qemu_nbd("--object", f"tls-creds-x509,id=t,dir={pki},endpoint=server,verify-peer=no",
                  "--tls-creds", "t", "-f", "raw", raw_file(1 << 20)) as server:
        io(secret.replace("nbdkit", "qemu-nbd"), "write -P 1 0 1M", "read -P 1 0 1M")


def test_a_server_with_a_certificate_of_somebody_else_is_refused():
    pki = certificates()
    os.rename(pki, "theirs")
    pki = certificates()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    for folder, works in (("theirs", False), ("pki", True)):
        pid = tmpdir() / f"{folder}.pid"
        with Program("nbdkit", "-f", "-i", "127.0.0.1", "-p", port, "-P", pid, "--tls=require",
                     f"--tls-certificates={tmpdir()}/{folder}", "memory", "4M", socket=pid):
            ours = f"nbds://localhost:{port}/?tls-certificates={pki}"
            if works:
                io(ours, "write -P 1 0 1M", "read -P 1 0 1M")
                expect_failure(oxbow_path(), "info", ours.replace("localhost", "127.0.0.1"),
                               message="Could not open")
            else:
                expect_failure(oxbow_path(), "info", ours, message="Could not open")
    expect_failure(oxbow_path(), "info", uri("x", scheme="nbds+unix", tls_certificates=pki),
                   message="cannot be verified; tls-verify-peer=0 takes it as it is")


def test_an_export_is_reached_by_tls_with_a_key_that_both_know():
    keys = tmpdir() / "keys.psk"
    run("psktool", "-u", "alice", "-p", keys)
    with nbdkit("--tls=require", f"--tls-psk={keys}", "memory", "4M") as server:
        secret = f"nbds+unix://alice@/?socket={server.socket}&tls-psk-file={keys}"
        io(secret, "write -P 1 0 1M", "read -P 1 0 1M")
        io(f"driver=nbd,path={server.socket},tls-psk-file={keys},tls-username=alice",
           "read -P 1 0 1M", options=("--image-opts",), check=False)
        expect_failure(oxbow_path(), "info", secret.replace("alice", "mallory"),
                       message="Could not open")


run_tests(globals())
