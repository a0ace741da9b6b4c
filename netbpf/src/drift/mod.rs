//! What was changed of a network behind netbpf's back: the steps that `up` would take, by
//! what makes them necessary, and what it could not do anything about. Pure.

mod cause;
mod words;

use crate::{
    bpf::Cover,
    datapath::Kind,
    net::Link,
    observe::{Inside, Observed},
    plan::{self, Step},
    state::{Phase, Recorded, Store},
    topology::{LinkName, NamespaceName, Topology, UplinkPlan, intruder},
};

use self::cause::{Cause, Causes};

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The network that it was found of.
    pub network: LinkName,
    /// What it is: `veth netbpf0-1`.
    pub thing: String,
    /// What is amiss with it: `gone`.
    pub amiss: String,
    /// What `up` would do.
    pub mend: Vec<String>,
    /// What somebody has to do, if `up` cannot mend it.
    pub hint: Option<String>,
}

/// All that is not as a recorded network should be.
#[must_use]
pub fn find(network: &Recorded, observed: &Observed, store: &Store) -> Vec<Finding> {
    let topology = &network.topology;
    let steps = plan::missing(topology, observed, store);
    let name = topology.name.clone();
    if let Some(amiss) = interrupted(network) {
        let hint = (network.phase == Phase::Removing).then(|| format!("netbpf down {name}"));
        let mend = mended_by(&steps, hint.as_ref());
        return vec![Finding {
            thing: format!("network {name}"),
            network: name,
            amiss,
            mend,
            hint,
        }];
    }
    let of_ebpf = !topology.direct && topology.datapath == Kind::Ebpf;
    let is_between = of_ebpf && observed.datapath.as_ref().is_some_and(|seen| seen.is_between);
    let between = is_between.then(|| Finding {
        network: name.clone(),
        thing: "datapath".to_owned(),
        amiss: "the replacement of its programs was interrupted".to_owned(),
        mend: vec!["bpf: finish it".to_owned()],
        hint: None,
    });
    let causes = Causes::of(network, observed, &steps);
    let mut groups: Vec<(Cause, Vec<Step>)> = causes.own().map(|own| (own, Vec::new())).collect();
    for (n, step) in steps.iter().enumerate() {
        let cause = causes.cause(n, step, &steps);
        match groups.iter_mut().find(|(of, _)| *of == cause) {
            Some((_, steps)) => steps.push(step.clone()),
            None => groups.push((cause, vec![step.clone()])),
        }
    }
    let found = groups.into_iter().map(|(cause, steps)| {
        let (thing, amiss) = words::of(&cause, &steps, network, observed);
        let hint = hint(&cause, topology, observed);
        let mend = mended_by(&steps, hint.as_ref());
        Finding { network: name.clone(), thing, amiss, mend, hint }
    });
    between.into_iter().chain(found).collect()
}

/// That another BPF file system hides the datapath's pins.
#[must_use]
pub fn covered(network: &LinkName, cover: Cover) -> Finding {
    let hint =
        (cover == Cover::InUse).then(|| "umount /sys/fs/bpf, in which others pin".to_owned());
    Finding {
        network: network.clone(),
        thing: "/sys/fs/bpf".to_owned(),
        amiss: "another BPF file system is mounted over the datapath's pins".to_owned(),
        mend: if hint.is_some() { Vec::new() } else { vec!["umount /sys/fs/bpf".to_owned()] },
        hint,
    }
}

/// As long as somebody else has to do something first, `up` does nothing.
fn mended_by(steps: &[Step], hint: Option<&String>) -> Vec<String> {
    if hint.is_some() { Vec::new() } else { steps.iter().map(ToString::to_string).collect() }
}

/// What was interrupted of a network that is not complete.
fn interrupted(network: &Recorded) -> Option<String> {
    let Recorded { topology, phase, .. } = network;
    let what = match phase {
        Phase::Up => return None,
        Phase::Removing => "taking it down",
        Phase::Building if topology.former.is_some() => "switching it over",
        Phase::Building if !topology.leaving.is_empty() => "changing it",
        Phase::Building => "building it",
    };
    Some(format!("{what} was interrupted"))
}

/// What is amiss with an uplink itself, which is nobody's to mend but who made it.
fn uplink_lack(link: Option<&Link>, observed: &Observed) -> Option<&'static str> {
    match link {
        None => Some("gone"),
        Some(link) if !link.up => Some("down"),
        Some(link) if observed.uplink_address(link).is_none() => Some("without an IPv4 address"),
        Some(_) => None,
    }
}

/// What somebody has to do before `up` can mend it.
fn hint(cause: &Cause, topology: &Topology, observed: &Observed) -> Option<String> {
    match cause {
        Cause::Uplink(name) => {
            let link = observed.link(name.as_str());
            let lack = uplink_lack(link, observed)?;
            Some(match lack {
                "gone" => format!("make it again, or: netbpf uplink rm {name}"),
                "down" => format!("ip link set {name} up"),
                _ => format!("ip address add ADDRESS/PREFIX dev {name}"),
            })
        }
        // One that is somebody else's is theirs to make; `up` adopts it then.
        Cause::Namespace(name) if topology.endpoint(name).is_some_and(|e| e.adopted.is_some()) => {
            let is_gone = matches!(observed.inside.get(name), Some(Inside::Missing) | None);
            is_gone.then(|| format!("make it again: ip netns add {name}; or: netbpf ns rm {name}"))
        }
        Cause::Namespace(name) => {
            let is_others = matches!(observed.inside.get(name), Some(Inside::Foreign))
                && !observed.vacant.contains(name)
                || matches!(observed.inside.get(name), Some(Inside::File))
                    && !crate::net::netns::is_empty(name.as_str());
            is_others.then(|| format!("remove it if nobody needs it: ip netns delete {name}"))
        }
        Cause::Intruder(name) => {
            let endpoint = topology.endpoint(name)?;
            Some(format!("ip -n {name} link delete {}", endpoint.inside))
        }
        _ => None,
    }
}

/// The interface that has the name of a namespace's own.
fn has_intruder(name: &NamespaceName, topology: &Topology, observed: &Observed) -> bool {
    let endpoint = topology.endpoint(name);
    endpoint.is_some_and(|endpoint| intruder(endpoint, topology, observed).is_some())
}

/// The index that an uplink had when the datapath was told of it, if it has another now.
fn former_index(network: &Recorded, uplink: &UplinkPlan, observed: &Observed) -> Option<u32> {
    let noted = network.journal.links.get(&uplink.name).copied()?;
    let link = observed.link(uplink.name.as_str())?;
    (link.index != noted).then_some(noted)
}
