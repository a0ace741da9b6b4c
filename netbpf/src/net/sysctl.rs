//! `/proc/sys/net`, which shows the network namespace of the calling task.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Result};

/// Where the sysctls of IPv4 are.
const IPV4: &str = "/proc/sys/net/ipv4";

/// A sysctl that networks need to be on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// `ip_forward`: the host routes at all.
    IpForward,
    /// `conf/lo/accept_local`: what comes by `lo` may have an address of the
    /// host as its source, though it was not the host that sent it.
    AcceptLocal,
    /// `conf/lo/route_localnet`: what comes by `lo` may be routed from and to
    /// 127.0.0.0/8.
    RouteLocalnet,
}

impl Switch {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::IpForward, Self::AcceptLocal, Self::RouteLocalnet];

    /// Its path below `/proc/sys/net/ipv4`.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::IpForward => "ip_forward",
            Self::AcceptLocal => "conf/lo/accept_local",
            Self::RouteLocalnet => "conf/lo/route_localnet",
        }
    }

    /// Whether it is on.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_on(self) -> Result<bool> {
        Ok(get(self.path())? != "0")
    }

    /// Switches it on.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn switch_on(self) -> Result<()> {
        set(self.path(), "1")
    }

    /// Its value, and those of all that the kernel changes along with it.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read(self) -> Result<Vec<Sysctl>> {
        let names = match self {
            Self::IpForward => forwarding()?,
            Self::AcceptLocal | Self::RouteLocalnet => vec![self.path().to_owned()],
        };
        names.into_iter().map(|name| Ok(Sysctl { value: get(&name)?, name })).collect()
    }
}

/// As `sysctl` writes it.
impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net.ipv4.{}", self.path().replace('/', "."))
    }
}

/// A sysctl and what it was set to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sysctl {
    /// Its path below `/proc/sys/net/ipv4`.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// The value of an IPv4 sysctl, named by its path below `net/ipv4`.
fn get(name: &str) -> Result<String> {
    let path = path(name);
    let text = fs::read_to_string(&path).context(format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Sets an IPv4 sysctl.
fn set(name: &str, value: &str) -> Result<()> {
    let path = path(name);
    fs::write(&path, value).context(format!("cannot set {} to {value}", path.display()))
}

/// `ip_forward` and all that the kernel changes along with it: it resets other
/// sysctls to a host's or a router's defaults, and putting back `ip_forward`
/// alone would leave them so.
fn forwarding() -> Result<Vec<String>> {
    let conf = Path::new(IPV4).join("conf");
    let what = || format!("cannot list {}", conf.display());
    let mut names =
        vec![Switch::IpForward.path().to_owned(), "conf/all/accept_redirects".to_owned()];
    for entry in fs::read_dir(&conf).context(what())? {
        let device = entry.context(what())?.file_name();
        if let Some(device) = device.to_str().filter(|&device| device != "all") {
            names.push(format!("conf/{device}/forwarding"));
        }
    }
    Ok(names)
}

/// Whether an interface lets 127.0.0.0/8 be routed to and from it; not if there
/// is no such interface.
///
/// # Errors
/// It cannot be read.
pub fn routes_localnet(interface: &str) -> Result<bool> {
    let name = localnet(interface);
    match path(&name).try_exists() {
        Ok(true) => Ok(get(&name)? != "0"),
        _ => Ok(false),
    }
}

/// Has an interface let 127.0.0.0/8 be routed to and from it, or no longer.
///
/// # Errors
/// It cannot be written.
pub fn route_localnet(interface: &str, on: bool) -> Result<()> {
    set(&localnet(interface), if on { "1" } else { "0" })
}

/// The path of that sysctl. A dot in an interface's name stays one in it.
fn localnet(interface: &str) -> String {
    format!("conf/{interface}/route_localnet")
}

/// Whether bridges have the packets that they bridge judged and translated by
/// iptables as if they were routed (`bridge-nf-call-iptables`); not if the kernel
/// has no such bridges.
#[must_use]
pub fn judges_bridged() -> bool {
    fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables")
        .is_ok_and(|value| value.trim() != "0")
}

/// Whether the stack drops what comes by an interface if the way back is by another one
/// (`rp_filter`, strict: RFC 3704 section 2.2). The kernel takes the greater of two values.
///
/// # Errors
/// It cannot be read.
pub fn filters_reverse_path(interface: &str) -> Result<bool> {
    let all = get("conf/all/rp_filter")?;
    let own = get(&format!("conf/{interface}/rp_filter"))?;
    Ok(all.max(own) == "1")
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

/// Sets what matters to forwarding to the kernel's defaults. A new network
/// namespace begins with what the machine has set.
///
/// # Errors
/// One cannot be written.
pub fn set_defaults() -> Result<()> {
    set(Switch::IpForward.path(), "0")?;
    for device in ["all", "default", "lo"] {
        for name in ["accept_local", "route_localnet", "rp_filter"] {
            set(&format!("conf/{device}/{name}"), "0")?;
        }
    }
    Ok(())
}

fn path(name: &str) -> PathBuf {
    Path::new(IPV4).join(name)
}
