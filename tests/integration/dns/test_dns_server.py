import contextlib
import re
import socket
import subprocess
import threading

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from discovery.core.dns_answer import answer
from discovery.core.dns_zone import CompiledZone
from discovery.core.model import ServiceKey
from discovery.runtime import dns_tcp
from federation.kernel.errors import InvalidInputError, PreconditionError
from tests.integration.dns.serving import Serving
from tests.support.tools import tool
from tests.support.wait import eventually
from tests.unit.discovery.dns.cases import HOST, View, make_service, many_ports

TIMEOUT_S = 20.0
CROWDED = "crowded.shop.svc.clusterset.local"


def compiled():
    crowded = make_service(ServiceKey("shop", "crowded"), many_ports(60), ["10.0.0.1", "fd00::1"])
    zone = CompiledZone()
    zone.replace(View(make_service(), crowded))
    return zone


@pytest.fixture
def place(loopback):
    """An address that no other process on this machine uses."""
    block = loopback()
    return block.host(1), block.port(block.host(1))


@pytest.fixture
def serving(place):
    zone = compiled()
    with Serving([place], lambda: zone) as serving:
        yield serving


def dig(place, *arguments):
    host, port = place
    command = [tool("dig"), f"@{host}", "-p", str(port), "+tries=1", f"+time={TIMEOUT_S:.0f}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=2 * TIMEOUT_S).stdout


def status(output):
    return re.search(r"status: (\w+)", output)[1]


def flags(output):
    return set(re.search(r";; flags: ([a-z ]+);", output)[1].split())


def exchange_udp(place, data, timeout_s=TIMEOUT_S):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        caller.settimeout(timeout_s)
        caller.connect(place)
        caller.send(data)
        return caller.recv(65_535)


def frame(data):
    return len(data).to_bytes(2, "big") + data


def read_frame(stream):
    length = int.from_bytes(stream.read(2), "big")
    return dns.message.from_wire(stream.read(length)) if length else None


def query(name=HOST, kind="A", **options):
    return dns.message.make_query(name, kind, **options)


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param([HOST, "A"], "241.7.163.174", id="a"),
        pytest.param([HOST.upper(), "A"], "241.7.163.174", id="upper-case"),
        pytest.param([HOST, "A", "+tcp"], "241.7.163.174", id="tcp"),
        pytest.param([HOST, "A", "+noedns", "+nocookie"], "241.7.163.174", id="no-edns"),
        pytest.param([HOST, "A", "+subnet=192.0.2.0/24"], "241.7.163.174", id="client-subnet"),
        pytest.param([HOST, "AAAA"], "", id="aaaa-without-ipv6"),
        pytest.param([f"_http._tcp.{HOST}", "SRV"], f"0 1 8080 {HOST}.", id="srv"),
        pytest.param(["dns-version.clusterset.local", "TXT"], '"1.0.0"', id="version"),
        pytest.param(["clusterset.local", "NS"], "ns.dns.clusterset.local.", id="ns"),
    ],
)
def test_dig_reads_our_answers(place, arguments, expected):
    assert dig(place, "+short", *arguments).strip() == expected


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        pytest.param(HOST, "AAAA", "NOERROR", id="no-data"),
        pytest.param("svc.clusterset.local", "A", "NOERROR", id="empty-non-terminal"),
        pytest.param("missing.shop.svc.clusterset.local", "A", "NXDOMAIN", id="no-name"),
        pytest.param(f"alpha.{HOST}", "A", "NXDOMAIN", id="per-cluster-name"),
    ],
)
def test_dig_reads_negative_answers_with_their_soa(place, name, kind, rcode):
    output = dig(place, name, kind)
    assert status(output) == rcode
    assert flags(output) == {"qr", "aa", "rd"}
    assert re.search(r"^clusterset\.local\.\s+5\s+IN\s+SOA\s+ns\.dns\.", output, re.MULTILINE)


@pytest.mark.usefixtures("serving")
def test_dig_is_refused_other_zones_and_transfers(place):
    assert status(dig(place, "example.com", "A")) == "REFUSED"
    assert "Transfer failed" in dig(place, "clusterset.local", "AXFR")


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("options", [["+noedns", "+nocookie"], ["+bufsize=600"], ["+bufsize=4096"]])
def test_dig_is_told_of_truncation_and_repeats_over_tcp(place, options):
    cut = dig(place, CROWDED, "SRV", "+ignore", *options)
    assert "tc" in flags(cut)
    assert 0 < cut.count("\tSRV\t") < 60
    whole = dig(place, CROWDED, "SRV", *options)
    assert "Truncated, retrying in TCP mode" in whole
    assert "tc" not in flags(whole)
    assert whole.count("\tSRV\t") == 60


def test_before_the_first_sync_the_answer_is_servfail_and_then_the_zone(place):
    zones = []
    with Serving([place], lambda: zones[0] if zones else None):
        for ask in (dns.query.udp, dns.query.tcp):
            reply = ask(query(), place[0], TIMEOUT_S, place[1])
            assert reply.rcode() == dns.rcode.SERVFAIL
        zones.append(compiled())
        for ask in (dns.query.udp, dns.query.tcp):
            assert ask(query(), place[0], TIMEOUT_S, place[1]).answer[0][0].address == "241.7.163.174"


def test_malformed_packets_stop_nobody_else_s_answers(place, serving):
    garbage = [
        b"",
        b"\0",
        bytes(11),
        b"\xff" * 600,
        query().to_wire()[:-3],
        b"\0\0\1\0\0\1" + bytes(6) + b"\xc0\x0c",
    ]
    stop = threading.Event()

    def torment():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.connect(place)
            while not stop.wait(0.001):
                for data in garbage:
                    caller.send(data)

    def torment_tcp():
        while not stop.wait(0.01):
            for data in garbage:
                with contextlib.suppress(OSError), socket.create_connection(place, TIMEOUT_S) as connection:
                    connection.sendall(frame(data))

    threads = [threading.Thread(target=torment), threading.Thread(target=torment_tcp)]
    for thread in threads:
        thread.start()
    try:
        for number in range(100):
            ask = dns.query.udp if number % 2 else dns.query.tcp
            assert ask(query(), place[0], TIMEOUT_S, place[1]).answer
        eventually(
            lambda: (
                serving.server.counters().udp_replies[dns.rcode.FORMERR] and serving.server.counters().dropped
            ),
            timeout_s=TIMEOUT_S,
            message="malformed packets are answered or dropped",
        )
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.usefixtures("serving")
def test_tcp_frames_may_arrive_byte_by_byte_and_many_at_once(place):
    names = [HOST, CROWDED, "missing.clusterset.local"] * 20
    wires = b"".join(frame(query(name).to_wire()) for name in names)
    with socket.create_connection(place, TIMEOUT_S) as connection, connection.makefile("rb") as stream:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(100):
            connection.sendall(wires[at : at + 1])
        connection.sendall(wires[100:])
        replies = [read_frame(stream) for _ in names]
        assert [reply.question[0].name.to_text(omit_final_dot=True) for reply in replies] == names


@pytest.mark.usefixtures("serving")
def test_a_caller_that_pipelines_without_reading_holds_up_nobody_and_gets_everything_later(place):
    count = 2_000  # Their answers are more than the kernel's buffers take.
    wire = query(CROWDED, "SRV").to_wire()
    with socket.create_connection(place, TIMEOUT_S) as connection, connection.makefile("rb") as stream:
        sender = threading.Thread(target=connection.sendall, args=(frame(wire) * count,))
        sender.start()
        assert dns.query.tcp(query(), place[0], TIMEOUT_S, place[1]).answer
        first = read_frame(stream)
        assert len(first.answer[0]) == 60
        length = len(answer(wire, compiled(), transport="tcp"))
        for _ in range(count - 1):
            assert (int.from_bytes(stream.read(2), "big"), stream.read(2)) == (length, wire[:2])
            stream.read(length - 2)
        sender.join()


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("data", [b"\0\0", frame(b"short"), frame(b"\0\0\x81\0" + bytes(8))])
def test_a_frame_that_deserves_no_reply_ends_the_connection(place, data):
    with socket.create_connection(place, TIMEOUT_S) as connection, connection.makefile("rb") as stream:
        connection.sendall(frame(query().to_wire()) + data)
        assert read_frame(stream).answer, "what came before is answered"
        assert stream.read() == b""


@pytest.mark.parametrize(
    "chatter",
    [pytest.param(b"", id="silent"), pytest.param(b"\0", id="byte-by-byte")],
)
def test_an_idle_connection_is_closed_though_it_drips_bytes(place, chatter, monkeypatch):
    monkeypatch.setattr(dns_tcp, "IDLE_S", 0.5)
    zone = compiled()
    with (
        Serving([place], lambda: zone) as serving,
        socket.create_connection(place, TIMEOUT_S) as connection,
    ):
        connection.settimeout(0.05)
        connection.sendall(b"\xff\xff")  # The drops never make a whole frame.

        def closed():
            try:
                connection.sendall(chatter)
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        eventually(closed, timeout_s=TIMEOUT_S, message="the idle connection is closed")
        eventually(lambda: serving.server.counters().tcp_connections_open == 0, timeout_s=TIMEOUT_S)


def test_the_connection_that_was_silent_longest_makes_room_for_a_newcomer(place, monkeypatch):
    monkeypatch.setattr(dns_tcp, "TCP_CONNECTIONS_MAX", 4)
    zone = compiled()
    with Serving([place], lambda: zone) as serving, contextlib.ExitStack() as stack:
        connections = []
        for number in range(4):
            connections.append(stack.enter_context(socket.create_connection(place, TIMEOUT_S)))
            eventually(
                lambda accepted=number + 1: serving.server.counters().tcp_connections_accepted == accepted,
                timeout_s=TIMEOUT_S,
            )
        first = stack.enter_context(connections[0].makefile("rb"))
        connections[0].sendall(frame(query().to_wire()))
        assert read_frame(first).answer
        newcomer = stack.enter_context(socket.create_connection(place, TIMEOUT_S))
        newcomer.sendall(frame(query().to_wire()))
        assert read_frame(stack.enter_context(newcomer.makefile("rb"))).answer
        assert connections[1].recv(1) == b"", "the second was silent longest"
        connections[0].sendall(frame(query().to_wire()))
        assert read_frame(first).answer, "the first had asked since and stays"
        counters = serving.server.counters()
        assert (counters.tcp_connections_open, counters.tcp_connections_evicted) == (4, 1)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_a_port_that_is_taken_is_named_and_leaves_nothing_behind(place, kind):
    host, port = place
    other = (host, port + 1)
    with socket.socket(socket.AF_INET, kind) as occupant:
        occupant.bind(place)
        if kind == socket.SOCK_STREAM:
            occupant.listen()
        transport = "udp" if kind == socket.SOCK_DGRAM else "tcp"
        expected = f"cannot answer dns on {host} port {port} \\({transport}\\): another process listens there"
        with pytest.raises(PreconditionError, match=expected), Serving([other, place], compiled):
            pass
    with Serving([other, place], compiled):
        pass


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        pytest.param(("192.0.2.1", 5353), PreconditionError, "no interface of this machine", id="not-ours"),
        pytest.param(("localhost", 5353), InvalidInputError, "'localhost' is not an IP address", id="a-name"),
        pytest.param(("127.0.0.1", 0), InvalidInputError, "is 0, expected 1 to 65535", id="port-0"),
        pytest.param(("127.0.0.1", 65_536), InvalidInputError, "expected 1 to 65535", id="port-too-large"),
    ],
)
def test_an_address_that_cannot_be_opened_is_an_error_that_says_why(address, error, message):
    with pytest.raises(error, match=message), Serving([address], compiled):
        pass


def serve_beside_others(stack, make_addresses, zone):
    """Serve on a port of the kernel's choice: wildcard and ::1 have no block that is ours alone."""
    attempts = 10
    while True:
        attempts -= 1
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as finder:
            finder.bind(("::", 0))
            port = finder.getsockname()[1]
        try:
            stack.enter_context(Serving(make_addresses(port), lambda: zone))
        except PreconditionError:  # Somebody took it between the two.
            if not attempts:
                raise
        else:
            return port


@pytest.mark.parametrize("ask", [dns.query.udp, dns.query.tcp], ids=["udp", "tcp"])
def test_a_wildcard_address_answers_from_the_address_that_was_asked(loopback, ask):
    block = loopback()
    with contextlib.ExitStack() as stack:
        port = serve_beside_others(stack, lambda port: [("0.0.0.0", port), ("::", port)], compiled())
        for host in (block.host(1), block.host(77), "::1"):
            reply = ask(query(), host, TIMEOUT_S, port)  # dnspython takes no reply from another address.
            assert reply.answer[0][0].address == "241.7.163.174"


@pytest.mark.parametrize("ask", [dns.query.udp, dns.query.tcp], ids=["udp", "tcp"])
def test_ipv6_is_answered_beside_ipv4(loopback, ask):
    host = loopback().host(1)
    with contextlib.ExitStack() as stack:
        port = serve_beside_others(stack, lambda port: [(host, port), ("::1", port)], compiled())
        for each in (host, "::1"):
            assert ask(query(), each, TIMEOUT_S, port).answer[0][0].address == "241.7.163.174"


def test_counters_tell_replies_by_transport_and_rcode(place, serving):
    for name in (HOST, HOST, "missing.clusterset.local", "example.com"):
        dns.query.udp(query(name), place[0], TIMEOUT_S, place[1])
    dns.query.tcp(query(), place[0], TIMEOUT_S, place[1])
    exchange_udp(place, bytes(12))
    expected = {dns.rcode.NOERROR: 2, dns.rcode.NXDOMAIN: 1, dns.rcode.REFUSED: 1, dns.rcode.FORMERR: 1}

    def counted():
        counters = serving.server.counters()
        replies = {rcode: count for rcode, count in enumerate(counters.udp_replies) if count}
        return replies == expected and counters.tcp_replies[dns.rcode.NOERROR] == 1

    eventually(counted, timeout_s=TIMEOUT_S, message=lambda: str(serving.server.counters()))


def test_stopping_ends_open_connections_and_threads_and_frees_the_port(place):
    zone = compiled()
    before = threading.active_count()
    for _ in range(3):
        with Serving([place], lambda: zone):
            connection = socket.create_connection(place, TIMEOUT_S)
            connection.sendall(frame(query().to_wire()))
            with connection.makefile("rb") as stream:
                assert read_frame(stream).answer
        with connection:
            assert connection.recv(1) == b""
    assert threading.active_count() == before
