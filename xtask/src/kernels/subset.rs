//! Which tests run on other kernels.

/// Tests of a file in `tests/tests`; no names are all.
type OfFile = (&'static str, &'static [&'static str]);

/// What kernels may differ in, in as much time as an emulated machine needs: an `up` takes
/// some seconds there.
pub(super) const SUBSET: &[OfFile] = &[
    (
        "bpf_maps",
        &[
            "a_qdisc_of_somebody_else_stays",
            "an_attachment_whose_pin_was_removed_is_made_anew",
            "an_interface_of_the_same_number_gets_an_attachment_of_its_own",
            "every_flow_is_seen_once_with_both_directions",
            "programs_attach_once_and_detach_by_either_means",
            "what_is_loaded_is_found_again_and_goes_without_a_trace",
        ],
    ),
    ("bridge", &["a_nested_bridge_in_a_namespace_is_learnt_and_reachable"]),
    (
        "connectivity",
        &["pings_of_all_sizes_pass_and_none_too_big", "udp_and_tcp_work_between_everybody"],
    ),
    ("expiry", &["a_tcp_flow_shows_the_state_of_its_connection"]),
    (
        "fragments",
        &[
            "pieces_for_a_published_port_in_any_order_arrive_whole",
            "pieces_that_a_namespace_sends_in_any_order_arrive_whole",
        ],
    ),
    ("guard", &["forged_packets_are_dropped_and_counted_by_reason"]),
    (
        "icmp_errors",
        &[
            "every_error_from_anywhere_outside_quotes_the_packet_as_the_namespace_sent_it",
            "every_error_from_inside_quotes_the_packet_as_the_client_outside_sent_it",
        ],
    ),
    (
        "iptables",
        &[
            "a_network_of_iptables_does_it_all_and_leaves_nothing",
            "networks_of_both_datapaths_live_side_by_side",
            "the_legacy_iptables_does_as_well",
        ],
    ),
    (
        "lifecycle",
        &[
            "a_second_up_changes_nothing_and_says_so",
            "forwarding_stays_on_where_it_was_on",
            "it_works_where_nobody_has_mounted_a_bpf_file_system",
        ],
    ),
    (
        "nat",
        &["a_host_connection_opened_later_works_as_well", "the_hosts_sockets_keep_their_ports"],
    ),
    ("path_mtu", &["both_ends_learn_of_a_smaller_uplink_between_them"]),
    ("programs", &[]),
    ("publishing", &["tcp_from_everywhere", "udp_from_everywhere"]),
    ("respect_netfilter", &["a_rule_sees_and_counts_every_packet"]),
    ("switch", &["idle_connections_live_on"]),
    ("traceroute", &["icmp_probes_outwards_show_the_box_then_the_router_then_the_target"]),
    ("tun", &["a_port_published_by_a_tunnel", "echo_and_datagrams_by_a_tunnel"]),
    ("upgrade", &["up_with_another_build_replaces_the_programs_and_says_so"]),
    (
        "uplinks",
        &[
            "a_route_that_moves_is_followed",
            "an_uplink_that_was_made_again_gets_nothing_untranslated",
        ],
    ),
    ("verify", &["all_ways_of_a_fresh_network_work", "both_datapaths_do_the_same"]),
];

/// A test that is left out on kernels.
pub(super) struct LeftOut {
    /// Their versions.
    versions: &'static [&'static str],
    pub(super) test: &'static str,
    pub(super) reason: &'static str,
}

const LEFT_OUT: &[LeftOut] = &[LeftOut {
    versions: &["6.1", "6.12"],
    test: "the_verifier_is_soon_done_with_every_program",
    reason: "verified.txt has the numbers of the kernel that netbpf is developed on",
}];

/// What is left out on a kernel.
pub(super) fn left_out(version: &str) -> Vec<&'static LeftOut> {
    LEFT_OUT.iter().filter(|out| out.versions.contains(&version)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::workspace;
    use std::fs;

    #[test]
    fn every_test_that_is_named_is_there() {
        for (file, names) in SUBSET {
            let path = workspace().join(format!("tests/tests/{file}.rs"));
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
            for name in *names {
                assert!(text.contains(&format!("fn {name}()")), "{file} has no test {name}");
            }
        }
    }
}
