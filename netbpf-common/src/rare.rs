//! The programs to which others hand over what is rare.

/// Index of such a program in the `PROGRAMS` map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum RareProgram {
    /// Goes on for `from_endpoint`.
    FromEndpoint = 0,
    /// Goes on for `from_uplink`, with or without Ethernet.
    FromUplink = 1,
    /// Goes on for `to_uplink`.
    ToUplink = 2,
    /// Goes on for `to_uplink_l3`.
    ToUplinkL3 = 3,
    /// Answers a dropped packet by an ICMP error.
    SendError = 4,
}

impl RareProgram {
    /// Number of them.
    pub const COUNT: u32 = 5;
    /// All of them, in the order of their indices.
    pub const ALL: [Self; Self::COUNT as usize] =
        [Self::FromEndpoint, Self::FromUplink, Self::ToUplink, Self::ToUplinkL3, Self::SendError];

    /// The program's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromEndpoint => "rare_from_endpoint",
            Self::FromUplink => "rare_from_uplink",
            Self::ToUplink => "rare_to_uplink",
            Self::ToUplinkL3 => "rare_to_uplink_l3",
            Self::SendError => "send_error",
        }
    }
}
