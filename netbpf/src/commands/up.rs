//! `netbpf up`: builds a network.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    str::FromStr,
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    bpf::{LogLevel, expect_to_load, put_back_grace_periods},
    cli::Globals,
    commands::status::{self, firewall_warnings},
    datapath::{Datapath as _, Kind},
    error::{Context as _, Error, Result},
    host::{self, Host},
    net::listeners,
    observe::Observed,
    output::{CANNOT_WRITE, Format, Sink, write_json},
    plan::{self, Step},
    progress::{Teller, say},
    sandbox::{HOST, OUTSIDE},
    session::{Session, block_on},
    topology::{Guard, LinkName, MAX_ENDPOINTS, NamespaceSpec, Request, Topology},
};

/// What makes no sense where no datapath moves the packets.
const NOT_DIRECT: [&str; 9] = [
    "datapath",
    "uplink",
    "publish",
    "max_flows",
    "flow_limit",
    "source_guard",
    "routed",
    "respect_netfilter",
    "log_level",
];

/// Name of a network that is given none.
const DEFAULT_NAME: &str = "netbpf0";

/// Build a network of namespaces and load the datapath
///
/// Makes a bridge, namespaces with an interface each, and an eBPF datapath that
/// moves their packets: among them, to the outside with the uplink's address
/// (SNAT), and from the outside and the host itself to published ports. Where
/// there are several uplinks, the host's routes choose among them.
///
/// The same call again changes nothing. If something is missing of what it
/// built, it is built again. If a step fails, all that was done is undone.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf up --namespaces 3
  netbpf up --namespaces 3 --uplink eth0 -p 8080:ns1:80 -p 5000-5009:ns2:5000-5009/udp
  netbpf up --namespaces 2 --uplink eth0 --uplink ens192 -p 127.0.0.1:8080:ns1:80
  netbpf up --name shop --ns web=10.8.0.10 --ns db --subnet 10.8.0.0/24
  netbpf up --namespaces 3 --respect-netfilter
  netbpf up --namespaces 3 --datapath iptables
  netbpf up --direct --ns a=10.0.0.1/24 --ns b=10.0.0.2/24 --ifname veth%d
  netbpf up --namespaces 3 --dry-run
  netbpf up --sandbox --namespaces 3 -p 8080:ns1:80      touches nothing here

The fast path bypasses the host's netfilter: its FORWARD and NAT rules do not
see the packets that eBPF moves. With --respect-netfilter eBPF translates them,
and the host's stack and bridge forward them by those rules, which is slower. What
namespaces send one another by the host's own address still goes past them. With
--datapath iptables there is no fast path: bridge, routing and rules in chains of
the network's own do all of it, and accept what is theirs before other rules are
asked, unless --respect-netfilter says not to.")]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Args {
    /// What moves the packets
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    datapath: Choice,
    // Names and addresses are read by this program and not by clap, so that
    // their errors look like all others.
    /// Name of the network and its bridge
    #[arg(long, value_name = "NET", default_value = DEFAULT_NAME)]
    name: String,
    /// Make N namespaces, named by the prefix and a number
    #[arg(long, value_name = "N", conflicts_with = "ns", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_ENDPOINTS)))]
    namespaces: Option<u16>,
    /// Make this namespace; can be given many times
    #[arg(long, value_name = "NAME[=IP[/LEN][/MAC]]")]
    ns: Vec<String>,
    /// What the names of --namespaces begin with
    #[arg(long, value_name = "PREFIX", default_value = "ns", requires = "namespaces")]
    ns_prefix: String,
    /// Connect two namespaces with each other and nothing else: one veth pair, no bridge
    #[arg(long, conflicts_with_all = NOT_DIRECT)]
    direct: bool,
    /// Name of the interface inside; %d in it becomes 0, 1 and so on [default: eth0]
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
    /// An interface to the outside; can be given many times [default: that of the default route]
    #[arg(long, value_name = "DEV")]
    uplink: Vec<String>,
    /// The network's addresses; the first is the gateway's [default: 172.19.0.0/24]
    #[arg(long, value_name = "SUBNET")]
    subnet: Option<String>,
    /// Largest IP packet [default: the smallest of the uplinks']
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Publish ports of a namespace on the host; can be given many times
    #[arg(short, long, value_name = "[HOSTIP:]PORT[-END]:[NS:]PORT[-END][/PROTO]")]
    publish: Vec<String>,
    /// Flows that the host's table holds [default: 262144, 78 MiB]
    #[arg(long, value_name = "N")]
    max_flows: Option<u32>,
    /// Flows that each namespace may have [default: an equal share]
    #[arg(long, value_name = "N")]
    flow_limit: Option<u32>,
    /// What namespaces may send [default: learn; routed with iptables]
    #[arg(long, value_enum, value_name = "GUARD")]
    source_guard: Option<Guard>,
    /// Let the outside reach the namespaces' own addresses, by routes to the subnet
    #[arg(long)]
    routed: bool,
    /// Have the host's own rules (FORWARD) say what is forwarded: slower
    #[arg(long)]
    respect_netfilter: bool,
    /// What the datapath logs [default: off]
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// Print the steps that would be taken, and take none
    #[arg(long)]
    dry_run: bool,
}

/// The datapaths as they are chosen.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Choice {
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

/// What `-o json` tells of the steps.
#[derive(Serialize)]
struct DryRun {
    network: String,
    steps: Vec<String>,
}

impl Args {
    /// Builds the network.
    ///
    /// # Errors
    /// What was asked wrongly, what the host lacks, or what went wrong; nothing
    /// was changed then.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        let dry_run = self.dry_run;
        let request = self.request()?;
        if globals.sandbox {
            refuse_clash(&request)?;
        }
        host::require_privileges("up")?;
        block_on(async {
            if dry_run {
                print_plan(&request, globals).await
            } else {
                build(&request, globals).await
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }

    /// Whether nothing is to be changed.
    pub(crate) fn only_plans(&self) -> bool {
        self.dry_run
    }

    /// What was asked for.
    fn request(self) -> Result<Request> {
        let namespaces = match self.namespaces {
            Some(count) => NamespaceSpec::numbered(&self.ns_prefix, count)?,
            None if self.ns.is_empty() => {
                return Err(Error::usage("no namespaces")
                    .because("neither --namespaces nor --ns says which to make")
                    .hint("for example: netbpf up --namespaces 3"));
            }
            None => parse_all(&self.ns)?,
        };
        Ok(Request {
            name: LinkName::new(&self.name)?,
            namespaces,
            datapath: self.datapath.kind(),
            fallback: None,
            direct: self.direct,
            ifname: self.ifname.as_deref().map(LinkName::existing).transpose()?,
            uplinks: self
                .uplink
                .iter()
                .map(|name| LinkName::existing(name))
                .collect::<Result<_>>()?,
            subnet: self.subnet.as_deref().map(str::parse).transpose()?,
            mtu: self.mtu,
            publish: parse_all(&self.publish)?,
            max_flows: self.max_flows,
            flow_limit: self.flow_limit,
            guard: self.source_guard,
            routed: self.routed.then_some(true),
            respect_netfilter: self.respect_netfilter.then_some(true),
            log_level: self.log_level,
        })
    }
}

/// Refuses names that the sandbox itself has given.
fn refuse_clash(request: &Request) -> Result<()> {
    let mut names = request.namespaces.iter().map(|namespace| namespace.name.as_str());
    match names.find(|name| [HOST, OUTSIDE].contains(name)) {
        None => Ok(()),
        Some(name) => Err(Error::usage(format!("the namespace name {name} is taken"))
            .because(format!("the sandbox has its {name} by that name"))
            .hint("choose other names with --ns or --ns-prefix")),
    }
}

fn parse_all<T: FromStr<Err = Error>>(texts: &[String]) -> Result<Vec<T>> {
    texts.iter().map(|text| text.parse()).collect()
}

/// A direct network asks nothing of the host's datapath, whatever that is.
fn open(host: Host, request: &Request) -> Result<Session> {
    if request.direct { Session::open_to_remove(host) } else { Session::open(host) }
}

async fn print_plan(request: &Request, globals: &Globals) -> Result<()> {
    let session = open(Host::here()?, request)?;
    let (topology, steps, _) = prepare(&session, request, globals).await?;
    print_steps(&topology, &steps, globals)
}

/// Shows what would be done.
///
/// # Errors
/// It cannot be written.
pub(super) fn print_steps(topology: &Topology, steps: &[Step], globals: &Globals) -> Result<()> {
    let mut out = Sink::stdout();
    if globals.format() == Format::Json {
        let steps = steps.iter().map(|step| format!("{step:#}")).collect();
        write_json(&mut out, &DryRun { network: topology.name.to_string(), steps })?;
    } else if steps.is_empty() {
        writeln!(out, "{}", nothing_to_do(topology)).context(CANNOT_WRITE)?;
    } else {
        for (n, step) in (1..).zip(steps) {
            writeln!(out, "{n:>4}  {step:#}").context(CANNOT_WRITE)?;
        }
    }
    out.flush().context(CANNOT_WRITE)
}

/// Looks at everything, and finds out what is to be done.
async fn prepare(
    session: &Session,
    request: &Request,
    globals: &Globals,
) -> Result<(Topology, Vec<Step>, crate::state::Journal)> {
    let observed = session.observe().await?;
    let request = choose(session, request, &observed)?;
    let topology = Topology::validate(&request, &observed)?;
    if let Some(why) = &request.fallback {
        say(globals, format_args!("note: iptables moves the packets, not eBPF: {why}"));
    }
    if !topology.direct {
        let warnings = topology.warnings(&observed, &listeners());
        for warning in warnings.into_iter().chain(firewall_warnings(&topology, &observed)) {
            say(globals, format_args!("warning: {warning}"));
        }
    }
    let steps = plan::up(&topology, &observed, &session.host.store);
    let existing = observed.network(topology.name.as_str());
    let journal = existing.map(|network| network.journal.clone()).unwrap_or_default();
    Ok((topology, steps, journal))
}

/// The request with a datapath that can run here: the one that was asked for or
/// that the network has, else eBPF, else iptables.
fn choose(session: &Session, request: &Request, observed: &Observed) -> Result<Request> {
    let mut request = request.clone();
    if request.direct {
        return Ok(request);
    }
    let existing = observed.network(request.name.as_str());
    let kind = request.datapath.or(existing.map(|network| network.topology.datapath));
    let datapaths = session.datapaths();
    match kind {
        Some(kind) => datapaths.of(kind).probe()?,
        None => match datapaths.ebpf.probe() {
            Ok(()) => request.datapath = Some(Kind::Ebpf),
            Err(lacking) => {
                datapaths.iptables.probe().map_err(|neither| neither.besides(&lacking))?;
                request.datapath = Some(Kind::Iptables);
                request.fallback = Some(lacking.to_string());
            }
        },
    }
    Ok(request)
}

async fn build(request: &Request, globals: &Globals) -> Result<()> {
    crate::interrupt::catch()?;
    let host = Host::here()?;
    if !request.direct && request.datapath != Some(Kind::Iptables) && !host.pins.exists() {
        expect_to_load();
    }
    let _lock = host.store.lock()?;
    put_back_grace_periods();
    host.store.forget_earlier_boots()?;
    let mut session = open(host, request)?;
    let (topology, steps, journal) = prepare(&session, request, globals).await?;
    if steps.is_empty() {
        say(globals, nothing_to_do(&topology));
    } else {
        let mut teller = Teller::new(globals);
        let warnings = session.build(&topology, journal, &steps, &mut teller).await?;
        teller.finish();
        for warning in warnings {
            say(globals, format_args!("warning: {warning}"));
        }
    }
    picture(&session, &topology, globals).await
}

fn nothing_to_do(topology: &Topology) -> String {
    format!("network {} is up already: nothing to do", topology.name)
}

/// Shows what there is now.
async fn picture(session: &Session, topology: &Topology, globals: &Globals) -> Result<()> {
    if globals.format() == Format::Json || globals.quiet {
        if globals.format() == Format::Json {
            let observed = session.observe().await?;
            return status::print(&observed, session, Some(&topology.name), globals);
        }
        return Ok(());
    }
    let observed = session.observe().await?;
    status::print(&observed, session, Some(&topology.name), globals)?;
    if !std::io::stdout().is_terminal() {
        return Ok(());
    }
    let Some(endpoint) = topology.endpoints.first() else { return Ok(()) };
    let mut out = Sink::stdout();
    let note = match topology.datapath {
        Kind::Ebpf if !topology.direct && !topology.respect_netfilter => {
            "Note:    the fast path bypasses the host's netfilter FORWARD and NAT rules.\n"
        }
        Kind::Ebpf | Kind::Iptables => "",
    };
    let place = if globals.sandbox { " --sandbox" } else { "" };
    let (ns, neighbour) = (&endpoint.namespace, topology.neighbour_of(endpoint));
    let text = format!("\nTry it:  netbpf exec{place} {ns} -- ping -c1 {neighbour}\n{note}");
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context(CANNOT_WRITE)
}
