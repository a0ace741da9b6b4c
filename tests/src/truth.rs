//! Whether `status` tells what there is, whatever has happened before.

use crate::Host;

/// Panics unless what `status` says of the host's networks is so: "up" where `up` finds
/// nothing to do and `check` nothing amiss, something else where there is; and no network
/// only where nothing of one is left.
#[track_caller]
pub fn tells_the_truth(host: &Host, when: &str) {
    let status = host.json("status");
    let networks = status["networks"].as_array().expect("a list");
    if networks.is_empty() {
        let listing = host.listing();
        let left = [listing.with("/sys/fs/bpf/netbpf"), listing.with("netbpf0")].concat();
        assert!(left.is_empty(), "{when}: {status}, but {left:?}");
    }
    for network in networks {
        let name = network["network"].as_str().expect("a name");
        let is_up = network["state"] == "up";
        let steps = host.json(&format!("up --name {name} --dry-run"))["steps"].clone();
        let is_whole = steps.as_array().is_some_and(Vec::is_empty);
        assert_eq!(is_up, is_whole, "{when}: {status}, but these are to be taken: {steps}");
        let check = host.netbpf(&format!("check {name}"));
        assert_eq!(is_up, check.code == Some(0), "{when}: {status}, but {check}");
    }
}
