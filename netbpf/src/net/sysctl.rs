//! `/proc/sys/net`, which shows the network namespace of the calling task.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::error::{Context as _, Result};

/// Where the sysctls of IPv4 are.
const IPV4: &str = "/proc/sys/net/ipv4";

/// Name of the sysctl that lets the host route at all.
pub const IP_FORWARD: &str = "ip_forward";

/// A sysctl and what it was set to.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Sysctl {
    /// Its path below `/proc/sys/net/ipv4`.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// The value of an IPv4 sysctl, named by its path below `net/ipv4`.
///
/// # Errors
/// It cannot be read.
pub fn get(name: &str) -> Result<String> {
    let path = path(name);
    let text = fs::read_to_string(&path).context(format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Sets an IPv4 sysctl.
///
/// # Errors
/// It cannot be written.
pub fn set(name: &str, value: &str) -> Result<()> {
    let path = path(name);
    fs::write(&path, value).context(format!("cannot set {} to {value}", path.display()))
}

/// `ip_forward` and all that the kernel changes along with it: it resets other
/// sysctls to a host's or a router's defaults, and putting back `ip_forward`
/// alone would leave them so.
///
/// # Errors
/// They cannot be read.
pub fn forwarding() -> Result<Vec<Sysctl>> {
    let conf = Path::new(IPV4).join("conf");
    let what = || format!("cannot list {}", conf.display());
    let mut names = vec![IP_FORWARD.to_owned(), "conf/all/accept_redirects".to_owned()];
    for entry in fs::read_dir(&conf).context(what())? {
        let device = entry.context(what())?.file_name();
        if let Some(device) = device.to_str().filter(|&device| device != "all") {
            names.push(format!("conf/{device}/forwarding"));
        }
    }
    names.into_iter().map(|name| Ok(Sysctl { value: get(&name)?, name })).collect()
}

/// Puts sysctls back to what they were, in the given order. Those of devices
/// that are gone are no error.
///
/// # Errors
/// One cannot be written.
pub fn restore(sysctls: &[Sysctl]) -> Result<()> {
    for Sysctl { name, value } in sysctls {
        match fs::read_to_string(path(name)) {
            Ok(now) if now.trim() == value => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => set(name, value)?,
        }
    }
    Ok(())
}

fn path(name: &str) -> PathBuf {
    Path::new(IPV4).join(name)
}
