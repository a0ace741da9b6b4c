//! Choosing the outside port of a new flow.

use netbpf_common::{DropReason, Flow, Port, Tuple, maps::published_word};

use crate::{
    flow::{self, NewFlow},
    seam::{Env, InsertError, Seam, Skb, Tables},
};

/// Ports that are tried, the client's own first. At 15 of 16 ports taken for
/// one destination, two searches in a thousand still fail.
const TRIES: u32 = 96;
/// How many of them keep the parity of the client's port (RFC 4787 REQ-4).
const SAME_PARITY_TRIES: u32 = 64;
/// First port that is not privileged.
const FIRST_UNPRIVILEGED: u16 = 1024;
/// First privileged port that is given away, as Linux does: those below have
/// names.
const FIRST_PRIVILEGED: u16 = 600;

/// Step from one attempt to the next, as a fraction of 2^32: the golden ratio,
/// whose multiples spread evenly. Neighbours would be taken together, since
/// clients choose their ports in runs.
const STEP: u32 = 0x9e37_79b9;

/// The port for an attempt: the client's own; then, from a random one on, ports
/// spread over the same class (below or from 1024, RFC 4787 REQ-3) and, at first,
/// of the same parity.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "offset is below the class's size")]
fn candidate(own: Port, attempt: u32, random: u32) -> Port {
    if attempt == 0 {
        return own;
    }
    let number = own.number();
    let (first, end) = if number < FIRST_UNPRIVILEGED {
        (FIRST_PRIVILEGED, u32::from(FIRST_UNPRIVILEGED))
    } else {
        (FIRST_UNPRIVILEGED, 65_536)
    };
    let pairs = (end - u32::from(first)) / 2;
    let parity = u16::from(attempt >= SAME_PARITY_TRIES) ^ (number & 1);
    let spread = random.wrapping_add(attempt.wrapping_mul(STEP));
    // A number below `pairs`, without the bias and cost of a division.
    let pair = ((u64::from(spread) * u64::from(pairs)) >> 32) as u32;
    Port::new(first + (pair as u16) * 2 + parity)
}

/// Whether the port is published on any address, and so nobody's to take.
#[inline(always)]
pub fn is_published<S, T: Tables, E>(seam: &Seam<S, T, E>, ip_proto: u8, port: Port) -> bool {
    let number = port.number();
    match published_word(ip_proto, number) {
        Some(index) => seam.tables.published_word(index) >> (number & 63) & 1 != 0,
        None => false,
    }
}

/// Finds a free outside port for a flow that a namespace opens and reserves
/// it; `flow.translated.sport` becomes the port.
///
/// # Errors
/// [`DropReason::PortsExhausted`], [`DropReason::FlowTableFull`].
#[inline(never)]
pub fn allocate<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    flow: &mut NewFlow,
) -> Result<(), DropReason> {
    let random = seam.env.random();
    let (mut key, mut entry) = (flow.reply_key(), flow.reply_entry());
    let mut result = Err(DropReason::PortsExhausted);
    E::repeat(TRIES, |attempt| {
        key.dport = candidate(flow.original.sport, attempt, random);
        result = try_port(seam, &key, &mut entry);
        result == Err(DropReason::PortsExhausted)
    });
    flow.translated.sport = key.dport;
    result
}

/// Reserves the outside tuple `key` for a flow. [`DropReason::PortsExhausted`]
/// if its port is not free, so that another one may be.
#[inline(always)]
fn try_port<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    key: &Tuple,
    entry: &mut Flow,
) -> Result<(), DropReason> {
    if is_published(seam, key.proto, key.dport) || seam.env.has_socket(key) {
        return Err(DropReason::PortsExhausted);
    }
    flow::reserve(seam, key, entry).map_err(|error| match error {
        InsertError::Exists => DropReason::PortsExhausted,
        InsertError::Full => DropReason::FlowTableFull,
    })
}
