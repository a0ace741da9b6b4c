//! Choosing the outside port of a new flow.

use netbpf_common::{DropReason, FlowKind, Port, PortOwner, maps::published_word};

use crate::{
    flow::NewFlow,
    seam::{Env, InsertError, Seam, Skb, Tables},
};

/// Ports that an inside address and port may come to own, its own number first.
/// They follow from a secret, so that all its flows look in the same places.
const OWN_CHOICES: u32 = 8;
/// Attempts in which one of them is used that it owns already.
const OWNED: u32 = OWN_CHOICES;
/// Attempts up to where one of them is used that nobody owns.
const FREE: u32 = OWNED + OWN_CHOICES;
/// All attempts. Behind [`FREE`] ports are shared: by flows with other peers, as
/// Linux does at once. With 63 of 64 ports taken for one destination, one search in
/// three thousand still fails; Linux makes half as many attempts. (A refusal is told to
/// the client, which does not try again.)
const TRIES: u32 = FREE + 512;
/// How many of the first that share keep the parity of the client's port (RFC 4787
/// REQ-4). Of the others every other one does.
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

/// To whom a port may belong that a flow takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// To the flow's inside address and port, already.
    Owned,
    /// To nobody.
    Free,
    /// To anybody.
    Shared,
}

impl Claim {
    /// The claim of that number.
    #[inline(always)]
    #[must_use]
    pub const fn of(number: u32) -> Self {
        match number {
            0 => Self::Owned,
            1 => Self::Free,
            _ => Self::Shared,
        }
    }
}

/// The port for an attempt: the client's own; then, from a given place on, ports
/// spread over the same class (below or from 1024, RFC 4787 REQ-3) and, at first,
/// of the same parity.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "offset is below the class's size")]
fn candidate(own: Port, attempt: u32, place: u32) -> Port {
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
    let parity = u16::from(attempt >= SAME_PARITY_TRIES && attempt & 1 != 0) ^ (number & 1);
    let spread = place.wrapping_add(attempt.wrapping_mul(STEP));
    // A number below `pairs`, without the bias and cost of a division.
    let pair = ((u64::from(spread) * u64::from(pairs)) >> 32) as u32;
    Port::new(first + (pair as u16) * 2 + parity)
}

/// The place where an inside address and port look for a port of their own:
/// a mix of its bits, keyed.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the high half is what is wanted")]
const fn own_place(secret: u64, owner: PortOwner) -> u32 {
    let mut word = secret ^ owner.0;
    word = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd).wrapping_add(secret);
    word = (word ^ (word >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (word >> 32) as u32
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

/// Finds an outside port for a flow and reserves it; `flow.translated.sport`
/// becomes the port.
///
/// A namespace's address and port keep one outside port whoever they talk to
/// (endpoint-independent mapping, RFC 4787 REQ-1): their own number where it is
/// free. Only where ports run short are they shared.
///
/// # Errors
/// [`DropReason::PortsExhausted`], [`DropReason::FlowTableFull`], or
/// [`DropReason::Protocol`] for a protocol without ports of which somebody else
/// has the only flow.
#[inline(never)]
pub fn allocate<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    flow: &mut NewFlow,
    may_own: bool,
) -> Result<(), DropReason> {
    let own = flow.original.sport;
    if PortOwner::index(flow.original.proto, own.number()).is_none() {
        // Another port would need another checksum, of a sort that is not
        // adjusted (SCTP), or there are no ports.
        return flow.reserve_own(seam).map_err(|error| match error {
            InsertError::Exists => DropReason::Protocol,
            InsertError::Full => DropReason::FlowTableFull,
        });
    }
    let owner = PortOwner::new(flow.original.saddr, own);
    let mut search = Search {
        owner,
        place: own_place(seam.tables.port_secret(), owner),
        random: seam.env.random(),
        result: Err(InsertError::Exists),
    };
    let first = if may_own { 0 } else { FREE };
    E::repeat(TRIES - first, |attempt| {
        search.try_next(seam, flow, attempt + first);
        search.result == Err(InsertError::Exists)
    });
    search.result.map_err(|error| match error {
        InsertError::Exists => DropReason::PortsExhausted,
        InsertError::Full => DropReason::FlowTableFull,
    })
}

/// A search for a port. (In one piece, so that the kernel's loop needs no stack for
/// pointers to all of it.)
struct Search {
    /// Inside address and port.
    owner: PortOwner,
    /// Where they look for a port of their own.
    place: u32,
    /// Where they look for one to share.
    random: u32,
    /// What the last attempt came to.
    result: Result<(), InsertError>,
}

impl Search {
    /// Makes an attempt.
    #[inline(always)]
    fn try_next<S: Skb, T: Tables, E: Env>(
        &mut self,
        seam: &mut Seam<S, T, E>,
        flow: &mut NewFlow,
        attempt: u32,
    ) {
        let claim = match attempt {
            0..OWNED => Claim::Owned,
            OWNED..FREE => Claim::Free,
            _ => Claim::Shared,
        };
        let own = flow.original.sport;
        flow.translated.sport = if claim == Claim::Shared {
            candidate(own, attempt - FREE, self.random)
        } else {
            candidate(own, attempt % OWN_CHOICES, self.place)
        };
        self.result = S::try_port(seam, flow, self.owner, claim);
    }
}

/// Reserves the outside tuple of a flow, whose port somebody has chosen.
///
/// # Errors
/// [`InsertError::Exists`] if the port is not free, so that another one may be;
/// [`InsertError::Full`].
#[inline(always)]
pub fn try_port<S: Skb, T: Tables, E: Env>(
    seam: &mut Seam<S, T, E>,
    flow: &mut NewFlow,
    owner: PortOwner,
    claim: Claim,
) -> Result<(), InsertError> {
    let key = flow.reply_key();
    let index = PortOwner::index(key.proto, key.dport.number()).unwrap_or(0);
    if claim != Claim::Shared {
        let now = seam.tables.port_owner(index);
        if (now.flows() == 0) != (claim == Claim::Free) || claim == Claim::Owned && !now.is(owner) {
            return Err(InsertError::Exists);
        }
    } else if seam.tables.flow(&key).is_some() {
        // Most are, when ports are short; it is the quickest to ask.
        return Err(InsertError::Exists);
    }
    if is_published(seam, key.proto, key.dport) || seam.env.has_socket(&key) {
        return Err(InsertError::Exists);
    }
    flow.kind = FlowKind(flow.kind.0 & !FlowKind::OWNS_PORT);
    if claim != Claim::Shared {
        if !seam.tables.take_port(index, owner) {
            return Err(InsertError::Exists);
        }
        flow.kind = FlowKind(flow.kind.0 | FlowKind::OWNS_PORT);
    }
    let reserved = flow.reserve(seam);
    if reserved.is_err() && claim != Claim::Shared {
        seam.tables.give_port(index);
    }
    reserved
}
