//! The verbs, a file each: arguments, and what is done with them.

pub mod bench;
pub mod down;
pub mod exec;
pub mod generate;
pub mod logs;
pub mod maps;
pub(crate) mod sandboxed;
pub mod status;
pub mod switch;
pub mod up;
pub mod verify;
