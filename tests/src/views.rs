//! What `netbpf maps -o json` says, as the tests ask for it.

use crate::{Host, reference, wait};
use serde_json::Value;
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

/// A line of `netbpf maps flows`.
#[derive(Clone, Debug)]
pub struct FlowLine {
    /// The protocol in small letters.
    pub proto: String,
    /// Source of the first packet, before translation.
    pub orig_src: SocketAddrV4,
    /// Destination of the first packet, before translation.
    pub orig_dst: SocketAddrV4,
    /// Its source after translation.
    pub xlat_src: SocketAddrV4,
    /// Its destination after translation.
    pub xlat_dst: SocketAddrV4,
    /// The namespace whose flow it is.
    pub ns: String,
    /// Its state in capitals.
    pub state: String,
    /// Seconds for which it still lives without another packet.
    pub expires: f64,
    /// Packets in both directions.
    pub packets: u64,
    /// Bytes in both directions.
    pub bytes: u64,
}

impl Host {
    /// The flows of which `netbpf maps flows FILTER` tells.
    #[track_caller]
    pub fn flows(&self, filter: &str) -> Vec<FlowLine> {
        let answer = self.json(&format!("maps flows {filter}"));
        let flows = answer["flows"].as_array().unwrap_or_else(|| panic!("no flows in {answer}"));
        flows.iter().map(flow_line).collect()
    }

    /// A counter of `netbpf maps stats` of one namespace; of all together if
    /// the name is empty.
    #[track_caller]
    pub fn stat(&self, ns: &str, counter: &str) -> u64 {
        let answer = self.json("maps stats");
        let rows = answer["stats"].as_array().unwrap_or_else(|| panic!("no stats in {answer}"));
        let of_ns = rows.iter().filter(|row| ns.is_empty() || row["ns"] == ns);
        of_ns.filter_map(|row| row[counter]["packets"].as_u64()).sum()
    }

    /// How many packets of a namespace were dropped for a reason.
    #[track_caller]
    pub fn dropped(&self, ns: &str, reason: &str) -> u64 {
        let answer = self.json("maps stats");
        let rows = answer["stats"].as_array().unwrap_or_else(|| panic!("no stats in {answer}"));
        let of_ns = rows.iter().filter(|row| ns.is_empty() || row["ns"] == ns);
        of_ns.filter_map(|row| row["dropped"]["reasons"][reason].as_u64()).sum()
    }

    /// Waits until so many packets of a namespace were dropped for a reason.
    ///
    /// Under the reference, which counts nothing, it does not.
    #[track_caller]
    pub fn wait_dropped(&self, ns: &str, reason: &str, count: u64) {
        let what = format!("{count} packets of {ns:?} are dropped as {reason}");
        if reference::skipped(&what) {
            return;
        }
        wait::until_true(&what, || self.dropped(ns, reason) >= count);
    }

    /// The interfaces that are ports of a bridge.
    #[track_caller]
    pub fn ports_of_bridge(&self, bridge: &str) -> Vec<String> {
        let links = self.netns().ip_json("ip", &format!("link show master {bridge}"));
        let name = |link: &Value| link["ifname"].as_str().map(str::to_owned);
        links.as_array().expect("a list of links").iter().filter_map(name).collect()
    }
}

#[track_caller]
fn flow_line(flow: &Value) -> FlowLine {
    let text = |value: &Value| {
        value.as_str().unwrap_or_else(|| panic!("a text is missing in {flow}")).to_owned()
    };
    let number =
        |value: &Value| value.as_u64().unwrap_or_else(|| panic!("a number is missing in {flow}"));
    let socket = |tuple: &Value, addr: &str, port: &str| {
        let addr: Ipv4Addr = text(&tuple[addr]).parse().expect("an address");
        SocketAddrV4::new(addr, u16::try_from(number(&tuple[port])).expect("a port"))
    };
    let (original, translated) = (&flow["original"], &flow["translated"]);
    let both = |counts: &Value| match counts {
        // What is not counted.
        Value::Null => 0,
        counts => number(&counts["original"]) + number(&counts["reply"]),
    };
    FlowLine {
        proto: text(&flow["proto"]),
        orig_src: socket(original, "src", "src_port"),
        orig_dst: socket(original, "dst", "dst_port"),
        xlat_src: socket(translated, "src", "src_port"),
        xlat_dst: socket(translated, "dst", "dst_port"),
        ns: text(&flow["ns"]),
        state: text(&flow["state"]),
        expires: Duration::from_millis(number(&flow["expires_ms"])).as_secs_f64(),
        packets: both(&flow["packets"]),
        bytes: both(&flow["bytes"]),
    }
}
