//! The verbs, a file each: arguments, and what is done with them.

pub mod logs;
pub mod maps;
