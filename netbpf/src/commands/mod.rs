//! The verbs, a file each: arguments, and what is done with them.

pub mod bench;
mod change;
pub mod check;
pub mod doctor;
pub mod down;
pub mod exec;
pub mod gc;
pub mod generate;
pub mod logs;
pub mod maps;
pub mod ns;
pub mod plan;
pub mod publish;
pub(crate) mod sandboxed;
pub mod status;
pub mod switch;
pub mod up;
pub mod upgrade;
pub mod uplink;
pub mod verify;
