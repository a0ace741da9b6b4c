//! One namespace sends new flows as fast as it can; the others do not notice.

use netbpf_tests::{
    Host, NS1, OUTSIDE, UPLINK, at,
    packet::{self, Ip},
    reference,
    traffic::{FrameSocket, TcpClient, TcpServer, UdpClient, UdpServer, connect},
};
use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

const ROOM: usize = 8192;

/// Sends packets that each begin a flow until told to stop; tells how many.
fn flood(host: &Host, proto: u8, is_over: &AtomicBool) -> u64 {
    let ns1 = host.ns("ns1");
    let frames = FrameSocket::open(&ns1, "eth0");
    let (own, gateway) = (ns1.mac("eth0"), host.netns().mac("netbpf0"));
    let mut sent = 0;
    for round in (0..=255).cycle() {
        let ip = Ip::new(NS1, Ipv4Addr::new(198, 51, 100, round), proto);
        for port in 1024..2024_u16 {
            let to = port.wrapping_mul(31);
            let packet = match proto {
                packet::UDP => ip.udp(port, to, b"flood"),
                _ => ip.tcp(port, to, 2, u32::from(port), 0),
            };
            // A full queue is the flood's own fault.
            let _ = frames.send(&packet::ethernet(gateway, own, packet::IPV4, &packet));
            sent += 1;
        }
        if sent > ROOM as u64 && is_over.load(Ordering::Relaxed) {
            break;
        }
    }
    sent
}

/// Sees to it that the flood stops, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Its share of the table fills. What the others have lives on without a loss, and
/// what they begin anew succeeds.
///
/// Requirements: nat-2, 4787-11, nat-17.
#[test]
fn a_flood_of_new_flows_costs_nobody_else_anything() {
    for proto in [packet::UDP, packet::TCP] {
        let host = Host::new();
        host.up(&format!("--namespaces 2 --max-flows {ROOM} -p 8080:ns2:80"));
        let ns2 = host.ns("ns2");
        let _udp = UdpServer::start(host.outside(), 53);
        let _tcp = TcpServer::start(host.outside(), 80);
        let _web = TcpServer::start(&ns2, 80);
        let open = || connect(&ns2, at(OUTSIDE, 80)).expect("a new connection");
        let publish = || connect(host.outside(), at(UPLINK, 8080)).expect("the published port");
        let ask = || {
            let client = UdpClient::new(&ns2);
            client.exchange(at(OUTSIDE, 53), b"a new flow");
            client
        };
        let old_udp: Vec<UdpClient> = (0..20).map(|_| ask()).collect();
        let mut old_tcp: Vec<TcpClient> =
            (0..20).map(|i| if i % 2 == 0 { open() } else { publish() }).collect();
        let is_over = AtomicBool::new(false);
        let sent = thread::scope(|scope| {
            let flooding = scope.spawn(|| flood(&host, proto, &is_over));
            let stop = Stop(&is_over);
            if !reference::enabled() {
                host.wait_dropped("ns1", "flow_limit", 10_000);
            }
            for _ in 0..10 {
                for client in &old_udp {
                    client.exchange(at(OUTSIDE, 53), b"still there");
                }
                for connection in &mut old_tcp {
                    connection.echo(&[7; 3000]).expect("still there");
                }
                ask();
                open().echo(b"hello").expect("echo");
                publish().echo(b"hello").expect("echo");
            }
            drop(stop);
            flooding.join().expect("the flood")
        });
        assert!(sent > ROOM as u64, "{sent} packets are no flood");
        if !reference::enabled() {
            let (own, others) = (host.flows("--ns ns1").len(), host.flows("--ns ns2").len());
            assert!(own <= ROOM / 2 && own > ROOM / 4, "its share of {ROOM}: {own}");
            assert!(others >= 40, "those of the others: {others}");
        }
    }
}
