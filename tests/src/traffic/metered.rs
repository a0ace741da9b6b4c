//! A stream of numbered datagrams, of which each is to arrive once.

use crate::{Netns, wait};
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Room for what arrives while the receiver gets no CPU: many seconds' worth.
const ROOM: usize = 64 << 20;

/// How often the receiver looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// Sends datagrams at a steady rate from one namespace to a socket in another, and
/// counts what arrives by number.
pub struct Metered {
    name: &'static str,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    sender: JoinHandle<usize>,
    arrived: Arc<Mutex<Vec<u32>>>,
    receiver: JoinHandle<()>,
}

/// What became of the datagrams of a [`Metered`] stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metering {
    /// Datagrams sent.
    pub sent: usize,
    /// Of these, those that never arrived.
    pub lost: usize,
    /// Those that arrived again.
    pub again: usize,
}

impl Metered {
    /// Sends from `from` to `to`, by which `port` in `at` is reached: `rate` datagrams
    /// of `len` bytes a second.
    ///
    /// The first is sent, and has arrived, before this returns: the way is known.
    pub fn begin(
        name: &'static str,
        (from, to): (&Netns, SocketAddrV4),
        (at, port): (&Netns, u16),
        rate: u32,
        len: usize,
    ) -> Self {
        let any = |port| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let bind = |ns: &Netns, port| {
            let socket = ns.run(|| UdpSocket::bind(any(port)));
            socket.unwrap_or_else(|e| panic!("{name}: UDP port {port} in {}: {e}", ns.name()))
        };
        let (source, sink) = (bind(from, 0), bind(at, port));
        setsockopt(&sink, sockopt::RcvBufForce, &ROOM).expect("a large buffer");
        sink.set_read_timeout(Some(TICK)).expect("a time-out");
        let [stop, done] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let receiver = {
            let (done, arrived) = (Arc::clone(&done), Arc::clone(&arrived));
            thread::spawn(move || receive(&sink, len, &done, &arrived))
        };
        let send = move |number: usize| {
            let mut data = vec![0; len];
            data[..8].copy_from_slice(&(number as u64).to_be_bytes());
            let sent = source.send_to(&data, to);
            sent.unwrap_or_else(|e| panic!("{name}: datagram {number} to {to}: {e}"));
        };
        send(0);
        wait::until_true(&format!("the first datagram {name} arrives"), || {
            arrived.lock().expect("no panic in the receiver").len() == 1
        });
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let (interval, mut due, mut next) = (Duration::from_secs(1) / rate, Instant::now(), 1);
            while !stopped.load(Ordering::Relaxed) {
                while due < Instant::now() {
                    send(next);
                    next += 1;
                    due += interval;
                }
                // The rate is what the test asks for: here time is its subject.
                thread::sleep(interval);
            }
            next
        });
        Self { name, stop, done, sender, arrived, receiver }
    }

    /// How many have arrived so far.
    pub fn arrived(&self) -> usize {
        self.arrived.lock().expect("no panic in the receiver").len()
    }

    /// Stops sending, waits for what is on its way, and tells what became of all.
    pub fn end(self) -> Metering {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap_or_else(|_| panic!("{}: sending failed", self.name));
        let is_late = Instant::now() + wait::DEADLINE;
        let is_whole = || {
            let arrived = self.arrived.lock().expect("no panic in the receiver");
            arrived.len() == sent && !arrived.contains(&0)
        };
        while !is_whole() && Instant::now() < is_late {
            thread::sleep(TICK);
        }
        // The receiver goes on until nothing more has come for a moment.
        self.done.store(true, Ordering::Relaxed);
        self.receiver.join().unwrap_or_else(|_| panic!("{}: receiving failed", self.name));
        let arrived = self.arrived.lock().expect("no panic in the receiver");
        let (mut lost, mut again) = (0, 0);
        for number in 0..sent {
            match arrived.get(number).copied().unwrap_or_default() {
                0 => lost += 1,
                times => again += times as usize - 1,
            }
        }
        Metering { sent, lost, again }
    }
}

/// Counts how often each number arrives, until it is to stop and nothing comes.
fn receive(sink: &UdpSocket, len: usize, done: &AtomicBool, arrived: &Mutex<Vec<u32>>) {
    let mut data = vec![0; len + 1];
    let mut idle = 0;
    // Ten ticks without anything, after the last has arrived.
    while !done.load(Ordering::Relaxed) || idle < 10 {
        let Ok(got) = sink.recv(&mut data) else {
            idle += 1;
            continue;
        };
        idle = 0;
        assert_eq!(got, len, "a datagram's length");
        let number = u64::from_be_bytes(data[..8].try_into().expect("eight bytes"));
        let number = usize::try_from(number).expect("a number that was sent");
        let mut arrived = arrived.lock().expect("no panic in the sender");
        if arrived.len() <= number {
            arrived.resize(number + 1, 0);
        }
        arrived[number] += 1;
    }
}
