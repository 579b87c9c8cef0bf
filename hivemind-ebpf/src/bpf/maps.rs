//! The maps and the constants. Sizes are the defaults; the loader may set others.
//!
//! Tables that the daemon writes are allocated row by row: small on a small node. So are translations, which are made
//! only for connections to published ports and of clients that go past the sockets. All else that packets create is
//! allocated in advance (flows: measured twice as quick as LRU) or evicts the oldest (fragments).

use aya_ebpf::{
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap},
};
use hivemind_ebpf::{
    abi::{
        self, Addr, Backend, Config, Count, CounterKey, Endpoint, Flow, FlowKey, Forward, FragmentKey, Frontend,
        FrontendKey, Hits, Hop, Node, Peer, Rule, RuleKey, Served, ServedKey, SlotKey, Translation, Tuple,
    },
    limit::PACED,
    policy::{self, BLOCK_ROWS, PORT_ENTRIES, PORTS_PER_ROW, RULE_ROWS},
};

/// The map flag `BPF_F_NO_PREALLOC`.
pub(super) const BY_ROW: u32 = 1;
/// The map flag `BPF_F_MMAPABLE`: the daemon reads and writes it as memory.
pub(super) const MAPPED: u32 = 1 << 10;
/// The update flag `BPF_NOEXIST`.
pub(super) const NEW: u64 = 1;

#[unsafe(no_mangle)]
static HM_CONFIG: Config = Config::EMPTY;

#[map(name = "hm_endpoints")]
pub(super) static ENDPOINTS: HashMap<u32, Endpoint> = HashMap::with_max_entries(4096, BY_ROW);
#[map(name = "hm_peers")]
pub(super) static PEERS: HashMap<Addr, Peer> = HashMap::with_max_entries(65_536, BY_ROW);
#[map(name = "hm_node_addrs")]
pub(super) static NODE_ADDRS: HashMap<Addr, u32> = HashMap::with_max_entries(1024, BY_ROW);
#[map(name = "hm_frontends")]
pub(super) static FRONTENDS: HashMap<FrontendKey, Frontend> = HashMap::with_max_entries(131_072, BY_ROW);
#[map(name = "hm_slots")]
pub(super) static SLOTS: HashMap<SlotKey, Backend> = HashMap::with_max_entries(131_072, BY_ROW);
#[map(name = "hm_served")]
pub(super) static SERVED: HashMap<ServedKey, Served> = HashMap::with_max_entries(16_384, BY_ROW);
#[map(name = "hm_flows")]
pub(super) static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(abi::FLOWS, 0);
#[map(name = "hm_translations")]
pub(super) static TRANSLATIONS: HashMap<Tuple, Translation> = HashMap::with_max_entries(abi::TRANSLATIONS, BY_ROW);
#[map(name = "hm_forwards")]
pub(super) static FORWARDS: LruHashMap<Tuple, Forward> = LruHashMap::with_max_entries(16_384, 0);
#[map(name = "hm_forwarded")]
static FORWARDED: PerCpuArray<Count> = PerCpuArray::with_max_entries(2, 0);
#[map(name = "hm_nodes")]
pub(super) static NODES: HashMap<Addr, Node> = HashMap::with_max_entries(4096, BY_ROW);
#[map(name = "hm_hops")]
pub(super) static HOPS: LruHashMap<Addr, Hop> = LruHashMap::with_max_entries(4096, 0);
#[map(name = "hm_fragments")]
pub(super) static FRAGMENTS: LruHashMap<FragmentKey, [u16; 2]> = LruHashMap::with_max_entries(4096, 0);
#[map(name = "hm_generation")]
static GENERATION: Array<u32> = Array::with_max_entries(3, 0);
/// The number of a timer tick, and when it was.
#[map(name = "hm_tick")]
static TICK: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);
#[map(name = "hm_totals")]
static TOTALS: PerCpuArray<Count> = PerCpuArray::with_max_entries(2 * abi::SLOTS, 0);
#[map(name = "hm_rules")]
pub(super) static RULES: HashMap<RuleKey, Rule> = HashMap::with_max_entries(RULE_ROWS, BY_ROW);
#[map(name = "hm_ports")]
pub(super) static PORTS: Array<[u32; PORTS_PER_ROW as usize]> =
    Array::with_max_entries(PORT_ENTRIES / PORTS_PER_ROW, MAPPED);
#[map(name = "hm_blocks")]
pub(super) static BLOCKS: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(BLOCK_ROWS, BY_ROW);
#[map(name = "hm_hits")]
static HITS: PerCpuHashMap<u32, Count> = PerCpuHashMap::with_max_entries(65_536, BY_ROW);
#[map(name = "hm_hits_near")]
static HITS_NEAR: PerCpuArray<Hits> = PerCpuArray::with_max_entries(policy::NEAR_HITS, 0);
#[map(name = "hm_counters")]
static COUNTERS: PerCpuHashMap<CounterKey, Count> = PerCpuHashMap::with_max_entries(32_768, BY_ROW);

/// The constants. Read as they are in memory: the loader changes them after the compiler has seen them.
#[inline(always)]
pub(super) fn config() -> &'static Config {
    let mut config = &raw const HM_CONFIG;
    // SAFETY: an empty instruction; it only hides from the compiler where the pointer comes from.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) config) };
    // SAFETY: `HM_CONFIG` is a static that nothing writes once the program is loaded.
    unsafe { &*config }
}

/// Now, in nanoseconds of the monotonic clock, as of the last timer tick. It is asked for once in a tick: to count ticks
/// the kernel puts a load in place of the call, and a call costs as much as a third of a packet.
#[inline(always)]
pub(super) fn now() -> u64 {
    let Some(tick) = TICK.get_ptr_mut(0) else { return 0 };
    // SAFETY: a helper without arguments; the words of this CPU. What is interrupted between the two leaves a time that is
    // late until the next tick.
    unsafe {
        let number = bpf_jiffies64();
        let [of, time] = *tick;
        if of == number {
            return time;
        }
        let time = bpf_ktime_get_coarse_ns();
        *tick = [number, time];
        time
    }
}

/// The generation of the tables. Read it before what is decided by them: a change in between is then seen later.
#[inline(always)]
pub(super) fn generation() -> u32 {
    GENERATION.get(0).copied().unwrap_or(0)
}

/// The flags of the host's endpoint; 0: no policy is about it.
#[inline(always)]
pub(super) fn host_flags() -> u32 {
    GENERATION.get(1).copied().unwrap_or(0)
}

/// Whether there are other nodes: without any, nothing looks for tunnels.
#[inline(always)]
pub(super) fn has_nodes() -> bool {
    GENERATION.get(2).is_some_and(|nodes| *nodes & !PACED != 0)
}

/// Whether every uplink keeps packets until their time of departure.
#[inline(always)]
pub(super) fn is_paced() -> bool {
    GENERATION.get(2).is_some_and(|nodes| *nodes & PACED != 0)
}

/// Counts a packet that is sent to another node, by whom ([`abi::BY_DRIVER`], [`abi::BY_STACK`]).
#[inline(always)]
pub(super) fn sent_on(by: u32, bytes: u64) {
    if let Some(count) = FORWARDED.get_ptr_mut(by) {
        // SAFETY: the entry of this CPU; a program on this hook is not interrupted by another one on the same CPU.
        let count = unsafe { &mut *count };
        count.packets += 1;
        count.bytes += bytes;
    }
}

/// Counts a packet that is forwarded.
#[inline(always)]
pub(super) fn forwarded(slot: u32, direction: u8, bytes: u64) {
    if slot == 0 {
        return;
    }
    if let Some(count) = TOTALS.get_ptr_mut(abi::total(slot, direction)) {
        // SAFETY: the entry of this CPU; a program on this hook is not interrupted by another one on the same CPU.
        let count = unsafe { &mut *count };
        count.packets += 1;
        count.bytes += bytes;
    }
}

/// Counts a drop, or what a socket did.
#[inline(never)]
pub(super) fn count(endpoint: u32, service: u32, direction: u8, reason: u8, bytes: u64) {
    let key = CounterKey { endpoint, service, direction, reason, pad: 0 };
    if add(&key, bytes) {
        return;
    }
    // Another CPU may have made the row in the meantime: then this fails and the row is there.
    if COUNTERS.insert(&key, &Count { packets: 1, bytes }, NEW).is_err() {
        add(&key, bytes);
    }
}

#[inline(always)]
fn add(key: &CounterKey, bytes: u64) -> bool {
    let Some(count) = COUNTERS.get_ptr_mut(key) else { return false };
    // SAFETY: the row of this CPU; a program on this hook is not interrupted by another one on the same CPU.
    let count = unsafe { &mut *count };
    count.packets += 1;
    count.bytes += bytes;
    true
}

/// Counts what a rule has decided: what it has allowed for itself (beginnings, and what of a connection is not an answer),
/// or what it has denied. Near, if the place is the rule's or nobody has counted there since the tables were written: then
/// what was counted there goes to the others.
#[inline(never)]
pub(super) fn hit(rule: u32) {
    let generation = generation();
    if let Some(near) = HITS_NEAR.get_ptr_mut(policy::near(rule)) {
        // SAFETY: as above.
        let near = unsafe { &mut *near };
        let there = near.rule;
        if there != rule && near.generation != generation {
            if there != 0 {
                hits(there, near.packets);
            }
            (near.rule, near.packets) = (rule, 0);
        }
        if near.rule == rule {
            near.packets += 1;
            near.generation = generation;
            return;
        }
    }
    hits(rule, 1);
}

#[inline(always)]
fn hits(rule: u32, packets: u64) {
    if let Some(count) = HITS.get_ptr_mut(&rule) {
        // SAFETY: as above.
        unsafe { (*count).packets += packets };
    } else {
        let _ = HITS.insert(&rule, &Count { packets, bytes: 0 }, NEW);
    }
}
