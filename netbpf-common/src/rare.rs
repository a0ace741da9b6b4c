//! The programs to which others hand over what is rare.

/// Index of such a program in the `PROGRAMS` map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum RareProgram {
    /// Goes on for `from_endpoint`, `from_uplink`, `from_uplink_l3` and `to_uplink`.
    Rare = 0,
    /// Goes on for `to_uplink_l3`.
    RareL3 = 1,
    /// Answers a dropped packet by an ICMP error.
    SendError = 2,
    /// Goes on for `from_endpoint`, `from_uplink` and `from_uplink_l3` with what only lacks
    /// a flow, or a way, or a look at where the stack would send it.
    Prepare = 3,
}

impl RareProgram {
    /// Number of them.
    pub const COUNT: u32 = 4;
    /// All of them, in the order of their indices.
    pub const ALL: [Self; Self::COUNT as usize] =
        [Self::Rare, Self::RareL3, Self::SendError, Self::Prepare];

    /// The program's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rare => "rare",
            Self::RareL3 => "rare_l3",
            Self::SendError => "send_error",
            Self::Prepare => "prepare",
        }
    }
}
