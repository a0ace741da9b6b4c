//! What the kernel has of what the datapath needs, found out by loading programs and maps
//! that do nothing. A version number tells of no back-ports, and of nothing that is
//! configured away.

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported},
};

use crate::error::{Context as _, Result};

/// The helpers that are younger than the oldest of distributions' kernels, or not in each.
const HELPERS: [(BpfHelper, &str); 9] = [
    (BpfHelper::BPF_FUNC_fib_lookup, "bpf_fib_lookup"),
    (BpfHelper::BPF_FUNC_redirect_neigh, "bpf_redirect_neigh"),
    (BpfHelper::BPF_FUNC_redirect_peer, "bpf_redirect_peer"),
    (BpfHelper::BPF_FUNC_skc_lookup_tcp, "bpf_skc_lookup_tcp"),
    (BpfHelper::BPF_FUNC_sk_lookup_udp, "bpf_sk_lookup_udp"),
    (BpfHelper::BPF_FUNC_check_mtu, "bpf_check_mtu"),
    (BpfHelper::BPF_FUNC_timer_init, "bpf_timer_init"),
    (BpfHelper::BPF_FUNC_loop, "bpf_loop"),
    (BpfHelper::BPF_FUNC_ktime_get_coarse_ns, "bpf_ktime_get_coarse_ns"),
];

/// The kinds of maps that the datapath has.
const MAPS: [(MapType, &str); 8] = [
    (MapType::Array, "array"),
    (MapType::Hash, "hash"),
    (MapType::LruHash, "lru_hash"),
    (MapType::LpmTrie, "lpm_trie"),
    (MapType::Queue, "queue"),
    (MapType::PerCpuArray, "percpu_array"),
    (MapType::ProgramArray, "prog_array"),
    (MapType::RingBuf, "ringbuf"),
];

/// The helpers and kinds of maps that the kernel lacks.
///
/// # Errors
/// It does not say.
pub fn lacking() -> Result<Vec<&'static str>> {
    let what = "cannot ask what the kernel supports";
    let mut lacking = Vec::new();
    for (helper, name) in HELPERS {
        let has = is_helper_supported(ProgramType::SchedClassifier, helper).context(what)?;
        lacking.extend((!has).then_some(name));
    }
    for (kind, name) in MAPS {
        let has = is_map_supported(kind).context(what)?;
        lacking.extend((!has).then_some(name));
    }
    Ok(lacking)
}
