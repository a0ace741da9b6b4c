//! The datapath made of the kernel's bridge, its routing and rules of iptables,
//! in chains of a network's own.

mod rules;
mod seen;
mod tool;

use super::{Datapath, Kind};
use crate::{
    error::{Error, Result},
    net::ctnetlink::reflection,
    observe::Observed,
};

pub use rules::{Chain, Jump, Table, TableRules};
pub use seen::RulesSeen;

use self::tool::Tool;

/// The rules of iptables.
///
/// Where there are several iptables (Debian has one that speaks to `nf_tables` and
/// a legacy one), that of the plain name sets rules, as it does for everybody;
/// they are taken away by each.
#[derive(Debug)]
pub struct Iptables {
    /// The first is that of the plain name.
    tools: Vec<Tool>,
}

impl Iptables {
    /// The iptables that there are; perhaps none.
    #[must_use]
    pub fn find() -> Self {
        Self { tools: tool::find() }
    }

    fn tool(&self) -> Result<&Tool> {
        self.tools.first().ok_or_else(missing)
    }

    /// Makes a table's chains and the rules in them what they should be, and
    /// leads packets there; all at once. What is not the network's stays.
    ///
    /// # Errors
    /// There is no iptables, or it refuses.
    pub fn set(&self, rules: &TableRules) -> Result<()> {
        let tool = self.tool()?;
        let seen = tool.save()?;
        tool.restore(&rules.setting(&seen))
    }

    /// The chains whose names begin so, of all tables in which networks have any.
    ///
    /// # Errors
    /// iptables refuses.
    pub fn chains(&self, prefix: &str) -> Result<Vec<(Table, String)>> {
        let mut all = Vec::new();
        for tool in &self.tools {
            for chain in tool.save()?.chains() {
                if chain.1.starts_with(prefix) && !all.contains(chain) {
                    all.push(chain.clone());
                }
            }
        }
        Ok(all)
    }

    /// Takes a table's chains away, and whatever leads there.
    ///
    /// # Errors
    /// There is no iptables, or it refuses.
    pub fn clear(&self, rules: &TableRules) -> Result<()> {
        self.tool()?;
        for tool in &self.tools {
            if let Some(text) = rules.clearing(&tool.save()?) {
                tool.restore(&text)?;
            }
        }
        Ok(())
    }
}

/// The error of a host without iptables.
fn missing() -> Error {
    Error::failed("there is no iptables here")
        .because("iptables-restore and iptables-save are neither in PATH nor in /usr/sbin")
        .hint("install the package iptables (Debian, Ubuntu: apt install iptables; Fedora: dnf install iptables-nft)")
}

impl Datapath for Iptables {
    fn kind(&self) -> Kind {
        Kind::Iptables
    }

    fn probe(&self) -> Result<()> {
        self.tool()?.save().map(|_| ())
    }

    fn observe(&self, observed: &mut Observed) -> Result<()> {
        let is_asked_for = observed.networks_of(Kind::Iptables).next().is_some();
        // Without iptables there are no rules to be seen.
        if let Some(tool) = self.tools.first().filter(|_| is_asked_for) {
            observed.rules = tool.save()?;
            let bridges = observed.networks.iter().map(|network| &network.topology.name);
            observed.unreflecting = reflection::dropping(bridges);
        }
        Ok(())
    }
}
