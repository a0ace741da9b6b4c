//! A network as it is asked for, before anything of it is understood. What options
//! of `up` say and what files say is read into the same structure, by the same names,
//! and understood by the same code.

mod allow;
mod file;
mod ns;
mod schema;
mod word;

use std::{path::PathBuf, str::FromStr};

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Deserialize;

pub use allow::Allow;
pub use file::File;
pub use ns::Ns;
pub use schema::schema;

use crate::{
    bpf::LogLevel,
    datapath::Kind,
    error::{Error, Key, Result},
    topology::{Guard, LinkName, MAX_ENDPOINTS, NamespaceSpec, Request},
};

/// Name of a network that is given none.
const DEFAULT_NAME: &str = "netbpf0";

/// What the names of namespaces begin with that are given none.
const DEFAULT_PREFIX: &str = "ns";

/// A network. Options and keys of a file are the same: what an option says several
/// times is a list in a file.
#[derive(clap::Args, Deserialize, JsonSchema, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[schemars(title = "A network of netbpf", extend("additionalProperties" = false))]
pub struct Spec {
    /// What moves the packets
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    #[schemars(example = &"auto")]
    pub datapath: Choice,
    // Names and addresses are read by this program and not by clap, so that
    // their errors look like all others.
    /// Name of the network and its bridge
    #[arg(long, value_name = "NET", default_value = DEFAULT_NAME)]
    #[schemars(example = &"shop")]
    pub name: String,
    /// Make N namespaces, named by the prefix and a number
    #[arg(long, value_name = "N")]
    #[schemars(example = 3)]
    pub namespaces: Option<u16>,
    /// Make this namespace, or adopt the one there is, by its name or by a process or path;
    /// can be given many times
    #[arg(long, value_name = "NAME[@PID|@PATH][=IP[/LEN][/MAC]]")]
    #[schemars(example = ["web=10.8.0.10", "db"])]
    pub ns: Vec<Ns>,
    /// What the names of --namespaces begin with
    #[arg(long, value_name = "PREFIX", default_value = DEFAULT_PREFIX, requires = "namespaces")]
    #[schemars(example = &"ns")]
    pub ns_prefix: String,
    /// Connect two namespaces with each other and nothing else: one veth pair, no bridge
    #[arg(long)]
    #[schemars(example = true)]
    pub direct: bool,
    /// Name of the interface inside; %d in it becomes 0, 1 and so on [default: eth0]
    #[arg(long, value_name = "NAME")]
    #[schemars(example = &"eth0")]
    pub ifname: Option<String>,
    /// An interface to the outside; can be given many times [default: that of the default route]
    #[arg(long, value_name = "DEV")]
    #[schemars(example = ["eth0"])]
    pub uplink: Vec<String>,
    /// The network's addresses; the first is the gateway's [default: 172.19.0.0/24]
    #[arg(long, value_name = "SUBNET")]
    #[schemars(example = "10.8.0.0/24")]
    pub subnet: Option<String>,
    /// Largest IP packet [default: the smallest of the uplinks']
    #[arg(long, value_name = "BYTES")]
    #[schemars(example = 1500)]
    pub mtu: Option<u32>,
    /// Publish ports of a namespace on the host; can be given many times
    #[arg(short, long, value_name = "[HOSTIP:]PORT[-END]:[NS:]PORT[-END][/PROTO]")]
    #[schemars(example = ["8080:web:80"])]
    pub publish: Vec<String>,
    /// Flows that the host's table holds [default: 262144, 78 MiB]
    #[arg(long, value_name = "N")]
    #[schemars(example = 262_144)]
    pub max_flows: Option<u32>,
    /// Flows that each namespace may have [default: an equal share]
    #[arg(long, value_name = "N")]
    #[schemars(example = 65_536)]
    pub flow_limit: Option<u32>,
    /// What namespaces may send [default: learn; routed with iptables]
    #[arg(long, value_enum, value_name = "GUARD")]
    #[schemars(example = &"strict")]
    pub source_guard: Option<Guard>,
    /// Let the outside reach the namespaces' own addresses, by routes to the subnet
    #[arg(long)]
    #[schemars(example = true)]
    pub routed: bool,
    /// Have the host's own rules (FORWARD) say what is forwarded: slower
    #[arg(long)]
    #[schemars(example = true)]
    pub respect_netfilter: bool,
    /// Keep the namespaces apart: they reach all but each other, and each other's
    /// published ports
    #[arg(long)]
    #[schemars(example = true)]
    pub isolate: bool,
    /// Let two isolated namespaces reach each other; can be given many times
    #[arg(long, value_name = "NS:NS")]
    #[schemars(example = ["web:db"])]
    pub allow: Vec<Allow>,
    /// What the datapath logs [default: off]
    #[arg(long, value_enum, value_name = "LEVEL")]
    #[schemars(example = &"warn")]
    pub log_level: Option<LogLevel>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            datapath: Choice::Auto,
            name: DEFAULT_NAME.into(),
            namespaces: None,
            ns: Vec::new(),
            ns_prefix: DEFAULT_PREFIX.into(),
            direct: false,
            ifname: None,
            uplink: Vec::new(),
            subnet: None,
            mtu: None,
            publish: Vec::new(),
            max_flows: None,
            flow_limit: None,
            source_guard: None,
            routed: false,
            respect_netfilter: false,
            isolate: false,
            allow: Vec::new(),
            log_level: None,
        }
    }
}

/// The datapaths as they are chosen.
#[derive(ValueEnum, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// eBPF, or iptables where the kernel or the privileges lack what eBPF needs
    #[default]
    Auto,
    /// eBPF programs beside the kernel's bridge and stack
    Ebpf,
    /// The kernel's bridge and stack, with rules of iptables
    Iptables,
}

impl Choice {
    fn kind(self) -> Option<Kind> {
        match self {
            Self::Auto => None,
            Self::Ebpf => Some(Kind::Ebpf),
            Self::Iptables => Some(Kind::Iptables),
        }
    }
}

/// Where a network is told: by options, or in a file.
#[derive(clap::Args, Debug)]
pub struct Source {
    /// Take the network from a file, which says what the options below say
    #[arg(short, long, value_name = "FILE", conflicts_with = "Spec")]
    file: Option<PathBuf>,
    #[arg(skip)]
    loaded: Option<File>,
    #[command(flatten)]
    spec: Spec,
}

impl Source {
    /// Reads the file, if there is one, without understanding it: in a sandbox there may
    /// be another one by that name, or none.
    ///
    /// # Errors
    /// The file system's.
    pub fn load(&mut self) -> Result<()> {
        if let (Some(path), None) = (&self.file, &self.loaded) {
            self.loaded = Some(File::read(path.clone())?);
        }
        Ok(())
    }

    /// What is asked for, and the file that says so, if one does.
    ///
    /// # Errors
    /// What is wrong with it, and where in the file.
    pub fn read(mut self) -> Result<(Request, Option<File>)> {
        self.load()?;
        let Some(file) = self.loaded else { return Ok((self.spec.request(true)?, None)) };
        let request = file.spec()?.request(false).map_err(|error| placed(error, Some(&file)))?;
        Ok((request, Some(file)))
    }
}

/// An error about what was asked for, with the place in the file that did, if one did.
#[must_use]
pub fn placed(error: Error, file: Option<&File>) -> Error {
    match file {
        Some(file) => file.place(error),
        None => error,
    }
}

impl Spec {
    /// What is asked for, understood; `keeps`: whether what is left open stays as it
    /// is in a network that runs, and does not get its default.
    ///
    /// # Errors
    /// Usage errors for what cannot be understood.
    pub fn request(self, keeps: bool) -> Result<Request> {
        self.check_direct()?;
        let namespaces = self.namespaces(keeps)?;
        let key = |name| move |error: Error| error.about(Key::of(name));
        Ok(Request {
            name: LinkName::new(&self.name).map_err(key("name"))?,
            namespaces,
            datapath: self.datapath.kind(),
            fallback: None,
            direct: self.direct,
            ifname: self
                .ifname
                .as_deref()
                .map(LinkName::existing)
                .transpose()
                .map_err(key("ifname"))?,
            uplinks: all("uplink", &self.uplink, |name| LinkName::existing(name))?,
            subnet: self.subnet.as_deref().map(str::parse).transpose().map_err(key("subnet"))?,
            mtu: self.mtu,
            publish: all("publish", &self.publish, |text| FromStr::from_str(text))?,
            max_flows: self.max_flows,
            flow_limit: self.flow_limit,
            guard: self.source_guard,
            routed: self.routed.then_some(true),
            respect_netfilter: self.respect_netfilter.then_some(true),
            isolate: self.isolate.then_some(true),
            allow: all("allow", &self.allow, Allow::pair)?,
            log_level: self.log_level,
            keeps,
        })
    }

    /// The namespaces that are named; none: those that there are, if what is left open stays.
    fn namespaces(&self, keeps: bool) -> Result<Vec<NamespaceSpec>> {
        let wrong = |what: &str| Error::usage(what).about(Key::of("namespaces"));
        match self.namespaces {
            Some(_) if !self.ns.is_empty() => {
                Err(wrong("--namespaces and --ns cannot be used together")
                    .because("one says how many namespaces there are, the other names each")
                    .hint("choose one of them"))
            }
            Some(count) if (1..=MAX_ENDPOINTS).contains(&count) => {
                NamespaceSpec::numbered(&self.ns_prefix, count)
                    .map_err(|error| error.about(Key::of("ns-prefix")))
            }
            Some(count) => Err(wrong(&format!("invalid --namespaces {count}"))
                .because(format!("a host can have 1 to {MAX_ENDPOINTS}"))
                .hint("for example --namespaces 3")),
            None if self.ns.is_empty() && (self.direct || !keeps) => Err(wrong("no namespaces")
                .because("neither --namespaces nor --ns says which to make")
                .hint("for example --namespaces 3")),
            None => all("ns", &self.ns, Ns::spec),
        }
    }

    /// Refuses what makes no sense where no datapath moves the packets.
    fn check_direct(&self) -> Result<()> {
        let given = [
            ("datapath", self.datapath != Choice::Auto),
            ("uplink", !self.uplink.is_empty()),
            ("publish", !self.publish.is_empty()),
            ("max-flows", self.max_flows.is_some()),
            ("flow-limit", self.flow_limit.is_some()),
            ("source-guard", self.source_guard.is_some()),
            ("routed", self.routed),
            ("respect-netfilter", self.respect_netfilter),
            ("isolate", self.isolate),
            ("allow", !self.allow.is_empty()),
            ("log-level", self.log_level.is_some()),
        ];
        match given.into_iter().find(|(_, is_given)| self.direct && *is_given) {
            None => Ok(()),
            Some((name, _)) => Err(Error::usage(format!("--{name} cannot be used with --direct"))
                .because("one veth pair connects the two namespaces: no datapath, no uplink")
                .hint("leave one of them out")
                .about(Key::of(name))),
        }
    }
}

/// Understands all of a list.
fn all<T, S>(name: &'static str, texts: &[S], read: impl Fn(&S) -> Result<T>) -> Result<Vec<T>> {
    let each = texts.iter().enumerate();
    each.map(|(n, text)| read(text).map_err(|error| error.about(Key::nth(name, n)))).collect()
}
