//! `netbpf up`: builds a network, or changes the one there is.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use super::{change, status};
use crate::{
    cli::Globals,
    datapath::Kind,
    error::{Context as _, Error, Result},
    host, interrupt,
    network::{self, Wanted},
    observe::Observed,
    output::{CANNOT_WRITE, Format, Sink},
    progress::Teller,
    sandbox::{HOST, OUTSIDE},
    session::{Session, block_on},
    spec::{Source, placed},
    topology::{Request, Topology},
};

/// Build a network of namespaces and load the datapath, or change the one there is
///
/// Makes a bridge, namespaces with an interface each, and an eBPF datapath that
/// moves their packets: among them, to the outside with the uplink's address
/// (SNAT), and from the outside and the host itself to published ports. Where
/// there are several uplinks, the host's routes choose among them.
///
/// The same call again changes nothing. If something is missing of what it
/// built, it is built again. If something else is asked for, just that is changed:
/// namespaces, ports and uplinks come and go, and the flows of all others go on. Without
/// namespaces it changes but what is told, or mends what there is.
/// If a step fails, all is as it was before.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf up --namespaces 3
  netbpf up --namespaces 3 --uplink eth0 -p 8080:ns1:80 -p 5000-5009:ns2:5000-5009/udp
  netbpf up --namespaces 2 --uplink eth0 --uplink ens192 -p 127.0.0.1:8080:ns1:80
  netbpf up --name shop --ns web=10.8.0.10 --ns db --subnet 10.8.0.0/24
  netbpf up --ns lab --ns proxy@4711=172.19.0.10 --ifname net0
  netbpf up --namespaces 3 --respect-netfilter
  netbpf up -f netbpf.toml
  netbpf up --namespaces 3 --datapath iptables
  netbpf up --direct --ns a=10.0.0.1/24 --ns b=10.0.0.2/24 --ifname veth%d
  netbpf up --namespaces 3 --dry-run
  netbpf up                                              mends the network that there is
  netbpf up --sandbox --namespaces 3 -p 8080:ns1:80      touches nothing here

A file says the same by the same names:
  name = \"shop\"
  subnet = \"10.8.0.0/24\"
  ns = [\"web=10.8.0.10\", \"db\"]
  publish = [\"8080:web:80\"]
What it leaves out has its default; what options leave out stays as it is.

The fast path bypasses the host's netfilter: its FORWARD and NAT rules do not
see the packets that eBPF moves. With --respect-netfilter eBPF translates them,
and the host's stack and bridge forward them by those rules, which is slower. What
namespaces send one another by the host's own address still goes past them. With
--datapath iptables there is no fast path: bridge, routing and rules in chains of
the network's own do all of it, and accept what is theirs before other rules are
asked, unless --respect-netfilter says not to.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Print the steps that would be taken, and take none
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// Reads the file that tells the network, if one does.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn load(&mut self) -> Result<()> {
        self.source.load()
    }

    /// Builds the network, or changes it.
    ///
    /// # Errors
    /// What was asked wrongly, what the host lacks, or what went wrong; nothing
    /// was changed then.
    pub fn run(self, globals: &Globals) -> Result<ExitCode> {
        let dry_run = self.dry_run;
        let (request, file) = self.source.read()?;
        if globals.sandbox {
            refuse_clash(&request)?;
        }
        host::require_privileges("up")?;
        let done = block_on(async {
            if dry_run {
                let (ask, direct) = (|observed: &_| asked(&request, observed), request.direct);
                let wanted = Wanted::by(&request);
                return change::print_plan(ask, direct, wanted, globals).await.map(|_| ());
            }
            interrupt::catch()?;
            let listener = &mut Teller::new(globals);
            let (direct, wanted) = (request.direct, Wanted::by(&request));
            let made =
                network::make(|seen| asked(&request, seen), direct, wanted, listener).await?;
            picture(&made.session, &made.topology, globals).await
        });
        done.map_err(|error| placed(error, file.as_ref()))?;
        Ok(ExitCode::SUCCESS)
    }

    /// Whether nothing is to be changed.
    pub(crate) fn only_plans(&self) -> bool {
        self.dry_run
    }
}

/// What is asked for where there is that.
fn asked(request: &Request, observed: &Observed) -> Result<Request> {
    let existing = observed.network(request.name.as_str());
    request.clone().or_as_it_is(existing.map(|network| &network.topology))
}

/// Refuses names that the sandbox itself has given.
pub(super) fn refuse_clash(request: &Request) -> Result<()> {
    let mut names = request.namespaces.iter().map(|namespace| namespace.name.as_str());
    if let Some(spec) = request.namespaces.iter().find(|spec| spec.origin.is_elsewhere()) {
        return Err(Error::usage(format!("the namespace {} cannot be adopted", spec.name))
            .because("in a sandbox nothing of this machine is touched")
            .hint("leave --sandbox out, or make it there"));
    }
    match names.find(|name| [HOST, OUTSIDE].contains(name)) {
        None => Ok(()),
        Some(name) => Err(Error::usage(format!("the namespace name {name} is taken"))
            .because(format!("the sandbox has its {name} by that name"))
            .hint("choose other names with --ns or --ns-prefix")),
    }
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
