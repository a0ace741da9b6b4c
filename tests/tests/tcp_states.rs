//! Connections that do what TCP allows: half-closed, reset, opened from both sides.
//!
//! How long each state lasts is proved natively, where time is a number.

use netbpf_tests::{
    Host, NS1, OUTSIDE, UPLINK, at,
    packet::{self, Ip, Seen},
    reference,
    traffic::{Puppet, TcpServer, connect},
    wait,
};
use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

/// Somebody outside who has no kernel.
const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
const SERVICE: u16 = 443;
const PORT: u16 = 40_000;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A connection whose two sides the test speaks for.
struct Connection {
    // Puppets go before the host, which compares all with what was before them.
    inside: Puppet,
    outside: Puppet,
    host: Host,
}

/// A side's segment: flags, sequence number, acknowledgement.
type Segment = (u8, u32, u32);

impl Connection {
    /// Nothing has been said yet.
    fn new() -> Self {
        let host = Host::new();
        host.up("--namespaces 1");
        let outside = Puppet::outside(&host, PEER);
        let inside = Puppet::inside(&host, "ns1", NS1, PEER);
        Self { inside, outside, host }
    }

    /// The handshake is over: the client has begun with 100, the server with 900.
    fn established() -> Self {
        let connection = Self::new();
        connection.out((SYN, 100, 0));
        connection.back((SYN | ACK, 900, 101));
        connection.out((ACK, 101, 901));
        connection.assert_state("ESTABLISHED");
        connection
    }

    fn send_out(&self, (flags, seq, ack): Segment) {
        let ip = Ip::new(NS1, PEER, packet::TCP);
        self.inside.send(&ip.tcp(PORT, SERVICE, flags, seq, ack));
    }

    fn send_back(&self, (flags, seq, ack): Segment) {
        let ip = Ip::new(PEER, UPLINK, packet::TCP);
        self.outside.send(&ip.tcp(SERVICE, PORT, flags, seq, ack));
    }

    /// The client says this, and the server hears it.
    #[track_caller]
    fn out(&self, segment: Segment) {
        self.send_out(segment);
        let seen = self.outside.receive(&format!("{segment:?}"));
        assert_eq!((seen.src, seen.ports()), (UPLINK, Some((PORT, SERVICE))), "{seen:02x?}");
        assert_said(&seen, segment);
    }

    /// The server says this, and the client hears it.
    #[track_caller]
    fn back(&self, segment: Segment) {
        self.send_back(segment);
        let seen = self.inside.receive(&format!("{segment:?}"));
        assert_eq!((seen.src, seen.ports()), (PEER, Some((SERVICE, PORT))), "{seen:02x?}");
        assert_said(&seen, segment);
    }

    #[track_caller]
    fn assert_state(&self, expected: &str) {
        if reference::skipped("the state that is shown") {
            return;
        }
        let flows = self.host.flows("--proto tcp");
        let states: Vec<&str> = flows.iter().map(|flow| flow.state.as_str()).collect();
        assert_eq!(states, [expected]);
    }
}

#[track_caller]
fn assert_said(seen: &Seen, (flags, seq, ack): Segment) {
    let number = |at: usize| u32::from_be_bytes(seen.payload[at..at + 4].try_into().expect("four"));
    assert_eq!((seen.payload[13], number(4), number(8)), (flags, seq, ack), "{seen:02x?}");
    assert!(seen.checksums_ok(), "{seen:02x?}");
}

/// Requirements: 5382-2, nat-7.
#[test]
fn a_simultaneous_open() {
    let connection = Connection::new();
    connection.out((SYN, 100, 0));
    connection.back((SYN, 900, 0));
    connection.out((SYN | ACK, 100, 901));
    connection.back((SYN | ACK, 900, 101));
    connection.out((ACK, 101, 901));
    connection.back((ACK, 901, 101));
    connection.assert_state("ESTABLISHED");
}

/// Either side may finish first, and the other goes on as long as it likes.
///
/// Requirements: 5382-2, nat-7.
#[test]
fn half_closed_by_either_side() {
    let connection = Connection::established();
    connection.out((FIN | ACK, 101, 901));
    for step in 0..3 {
        connection.back((ACK, 901 + step, 102));
        connection.out((ACK, 102, 901 + step));
    }
    connection.assert_state("FIN_WAIT");
    connection.back((FIN | ACK, 904, 102));
    connection.out((ACK, 102, 905));
    connection.assert_state("TIME_WAIT");

    let connection = Connection::established();
    connection.back((FIN | ACK, 901, 101));
    for step in 0..3 {
        connection.out((ACK, 101 + step, 902));
        connection.back((ACK, 902, 101 + step));
    }
    connection.assert_state("FIN_WAIT");
    connection.out((FIN | ACK, 104, 902));
    connection.back((ACK, 902, 105));
    connection.assert_state("TIME_WAIT");
}

/// A reset passes, from either side, and so does what was on its way meanwhile.
///
/// Requirements: 5382-2, 7857-2.
#[test]
fn reset_by_either_side() {
    let connection = Connection::established();
    connection.back((RST, 901, 0));
    connection.assert_state("CLOSED");
    connection.out((ACK, 101, 901));

    let connection = Connection::established();
    connection.out((RST, 101, 0));
    connection.assert_state("CLOSED");
    connection.back((ACK, 901, 101));
}

/// Whether such a reset is passed on or not: the connection has not ended.
///
/// Requirements: nat-7, 5382-2.
#[test]
fn a_reset_beside_the_window_ends_nothing() {
    let connection = Connection::established();
    connection.back((ACK, 901, 101));
    for seq in [901_u32.wrapping_sub(70_000), 901 + (1 << 24), 901 + (1 << 31)] {
        connection.send_back((RST, seq, 0));
        connection.send_back((RST | ACK, seq, 101));
    }
    // The client's side of the tap has seen them by the time that this arrives.
    connection.send_back((ACK, 901, 101));
    let arrived = |seen: &Seen| seen.payload[13] == ACK;
    wait::until("what comes after the resets", || {
        connection.inside.receive_within(Duration::from_millis(50)).filter(arrived)
    });
    connection.assert_state("ESTABLISHED");
    connection.out((ACK, 101, 901));
    connection.back((ACK, 901, 101));
    connection.assert_state("ESTABLISHED");
}

/// A connection that is set up anew on the ports of one that was reset or has finished.
///
/// Requirements: 5382-2.
#[test]
fn the_same_ports_again() {
    let connection = Connection::established();
    connection.back((RST, 901, 0));
    connection.out((SYN, 70_000, 0));
    connection.back((SYN | ACK, 80_000, 70_001));
    connection.out((ACK, 70_001, 80_001));
    connection.assert_state("ESTABLISHED");
    connection.out((FIN | ACK, 70_001, 80_001));
    connection.back((FIN | ACK, 80_001, 70_002));
    connection.out((ACK, 70_002, 80_002));
    connection.out((SYN, 90_000, 0));
    connection.back((SYN | ACK, 5, 90_001));
    connection.out((ACK, 90_001, 6));
    connection.assert_state("ESTABLISHED");
}

/// With sockets: one side says that it has done, and is given a lot afterwards.
///
/// Requirements: 5382-2, nat-7.
#[test]
fn a_client_that_has_said_all_is_given_all() {
    const MUCH: usize = 4 << 20;
    let host = Host::new();
    host.up("--namespaces 1 -p 8080:ns1:80");
    let ns1 = host.ns("ns1");
    for (server, client, port, to) in [
        (host.outside(), &ns1, 443, at(OUTSIDE, 443)),
        (&ns1, host.outside(), 80, at(UPLINK, 8080)),
    ] {
        let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let listener = listener.expect("listen");
        thread::scope(|scope| {
            let serving = scope.spawn(|| -> io::Result<()> {
                let (mut stream, _) = listener.accept()?;
                let mut request = Vec::new();
                stream.read_to_end(&mut request)?;
                assert_eq!(request, b"all that there is to say");
                stream.write_all(&vec![7; MUCH])
            });
            let mut stream = client.run(|| TcpStream::connect(to)).expect("connect");
            stream.set_read_timeout(Some(wait::DEADLINE)).expect("a time-out");
            stream.write_all(b"all that there is to say").expect("send");
            stream.shutdown(Shutdown::Write).expect("say that this is all");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("an answer");
            assert!(answer.len() == MUCH && answer.iter().all(|byte| *byte == 7));
            serving.join().expect("no panic").expect("served");
        });
    }
}

/// With sockets: a server that dies, a client that dies.
///
/// Requirements: 5382-2, 5382-10.
#[test]
fn resets_arrive_at_the_other_side() {
    let host = Host::new();
    host.up("--namespaces 1 -p 8080:ns1:80");
    let ns1 = host.ns("ns1");
    for (server, client, port, to) in [
        (host.outside(), &ns1, 443, at(OUTSIDE, 443)),
        (&ns1, host.outside(), 80, at(UPLINK, 8080)),
    ] {
        let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let listener = listener.expect("listen");
        for server_dies in [true, false] {
            let near = client.run(|| TcpStream::connect(to)).expect("connect");
            let (far, peer) = listener.accept().expect("accept");
            assert!(matches!(peer, SocketAddr::V4(_)));
            let (dying, mut other) = if server_dies { (far, near) } else { (near, far) };
            other.set_read_timeout(Some(wait::DEADLINE)).expect("a time-out");
            // To close with data unread is to reset.
            other.write_all(b"never read").expect("send");
            let mut first = [0];
            wait::until("it has come", || dying.peek(&mut first).ok());
            drop(dying);
            let error = other.read(&mut first).map_err(|e| e.kind());
            assert_eq!(error, Err(io::ErrorKind::ConnectionReset), "to {to}, {server_dies}");
        }
    }
}

/// Requirements: 5382-2.
#[test]
fn a_closed_port_refuses_and_is_as_good_as_new_afterwards() {
    let host = Host::new();
    host.up("--namespaces 1 -p 8080:ns1:80");
    let ns1 = host.ns("ns1");
    for (server, client, port, to) in [
        (host.outside(), &ns1, 443, at(OUTSIDE, 443)),
        (&ns1, host.outside(), 80, at(UPLINK, 8080)),
    ] {
        for _ in 0..2 {
            let refused = connect(client, to).err().map(|e| e.kind());
            assert_eq!(refused, Some(io::ErrorKind::ConnectionRefused), "{to}");
            let _server = TcpServer::start(server, port);
            connect(client, to).expect("connect").echo(b"hello").expect("echo");
        }
    }
}
