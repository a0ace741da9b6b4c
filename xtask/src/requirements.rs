//! What a NAT has to do: the requirements that tests name in their `Requirements:` lines.

/// A requirement of an RFC (its number, then that of the requirement), or one of
/// those that the bugs of other NATs have taught (`nat`).
pub(crate) struct Requirement {
    pub(crate) id: &'static str,
    /// What it asks, in one line.
    pub(crate) asks: &'static str,
}

const fn requirement(id: &'static str, asks: &'static str) -> Requirement {
    Requirement { id, asks }
}

/// All of them, in the order of the table.
pub(crate) const CATALOGUE: &[Requirement] = &[
    // RFC 4787: UDP.
    requirement("4787-1", "UDP: one outside port for all destinations of a socket"),
    requirement("4787-3", "No port is given twice; a port's class (below 1024, above) is kept"),
    requirement("4787-4", "An even port becomes an even one, an odd one odd"),
    requirement("4787-5", "An answered UDP mapping lives for two minutes at least"),
    requirement("4787-6", "Packets from inside refresh a mapping; those from outside need not"),
    requirement("4787-7", "Addresses inside that exist outside as well are refused clearly"),
    requirement("4787-8", "UDP: only the address and port that were written to may answer"),
    requirement("4787-9", "UDP: hairpinning, seen from the external address and port"),
    requirement("4787-10", "What packets carry is not changed, on no port"),
    requirement("4787-11", "The same behaviour under load, and after a clash of ports"),
    requirement("4787-12", "ICMP errors end no mapping, come from any address, and arrive"),
    requirement("4787-13", "Too big and not to be fragmented: the sender is told; else fragmented"),
    requirement("4787-14", "Fragments in any order, and no memory lost to incomplete ones"),
    // RFC 5382: TCP.
    requirement("5382-1", "TCP: one outside port for all destinations of a socket"),
    requirement("5382-2", "Every valid exchange, simultaneous open and half-close included"),
    requirement("5382-3", "TCP: only the address and port that were written to may answer"),
    requirement("5382-4", "An unsolicited SYN is the host's to answer"),
    requirement("5382-5", "Established: 2 h 4 min without a packet; beginning, ending: 4 min"),
    requirement("5382-7", "No TCP port is given twice"),
    requirement("5382-8", "TCP: hairpinning, seen from the external address and port"),
    requirement("5382-9", "ICMP unreachable arrives at the connection that it is about"),
    requirement("5382-10", "An ICMP error ends no connection"),
    // RFC 5508: ICMP.
    requirement("5508-1", "Echo requests from inside, and their answers"),
    requirement("5508-2", "An echo's mapping lives for a minute at least"),
    requirement("5508-3", "Errors: bad checksum dropped, options in the quote stepped over"),
    requirement("5508-4", "Errors from outside: quote and destination restored, or dropped"),
    requirement("5508-5", "Errors from inside: quote and source translated, or dropped"),
    requirement("5508-6", "An error refreshes no mapping and ends none"),
    requirement("5508-7", "Errors are translated in hairpinned flows as well"),
    requirement("5508-8", "No room for a new flow: administratively prohibited, to the sender"),
    requirement("5508-10", "Unreachable, time exceeded and echo pass, both ways"),
    // Later RFCs.
    requirement("7857-2", "After a reset a flow stays for the transitory time"),
    requirement("7857-5", "A port that is not kept is chosen at random"),
    requirement("6056", "The choice of a port cannot be predicted"),
    // What breaks other NATs.
    requirement("nat-1", "Both halves of a flow live and die together"),
    requirement("nat-2", "One namespace cannot take the flows of the others"),
    requirement("nat-3", "A port is taken by one insertion, and undone as a whole"),
    requirement("nat-4", "No port that is published, or that a socket of the host has"),
    requirement("nat-5", "A finished connection's port rests; a removed network's flows go"),
    requirement("nat-6", "Mapping and filtering as RFC 5780 clients report them of MASQUERADE"),
    requirement("nat-7", "States of TCP with their time-outs; a reset beside the window is none"),
    requirement("nat-8", "ICMP errors both ways, whole quotes and those of 8 bytes"),
    requirement("nat-9", "Time exceeded and fragmentation needed are told by the gateway"),
    requirement("nat-10", "Fragments of a datagram take the same way, in any order"),
    requirement("nat-11", "Checksums stay right on the wire, and absent where absent"),
    requirement("nat-12", "What goes straight into a namespace has its MAC and fits its MTU"),
    requirement("nat-13", "The stack keeps broadcast, ARP and all that is not known"),
    requirement("nat-14", "Published ports: from everywhere, and from nowhere else"),
    requirement("nat-15", "Nothing with a private source leaves by an uplink"),
    requirement("nat-16", "A namespace speaks for nobody but itself"),
    requirement("nat-17", "Odd packets are passed up or dropped with a reason; traffic flows on"),
    requirement("nat-18", "A reload or flush of the host's firewall breaks nothing"),
];
